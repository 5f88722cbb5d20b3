"""A short version of `benchmarks/load.py`, and the graceful stop of the production server."""

import os
import signal
import threading
import time
from pathlib import Path

import load
import pytest
import requests

from bakrypt_proxy.sandbox import Sandbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc"),
]


@pytest.mark.timeout(90)
def test_load_and_faults() -> None:
    """Each response is correct and in time; each token has the right user; nothing leaks."""
    report = load.run(14, 40, threads=32)
    assert report.check(40) == []
    assert report.responses["/auth/exchange/ 200"] > 500
    assert report.responses["/auth/token/ 200"] > 200
    assert report.responses["/auth/token/ 429"] > 10
    assert report.responses["/auth/token/ 500"] > 10


def test_a_graceful_stop(sandbox: Sandbox) -> None:
    """The server answers open requests before it ends."""
    sandbox.delay = 1
    results: list[int] = []
    with load.server(sandbox.url, workers=2, threads=8) as (port, parent):

        def sign_in() -> None:
            body = {"username": "alice", "password": "alice-password"}
            results.append(
                requests.post(
                    f"http://127.0.0.1:{port}/auth/token/", data=body, timeout=10
                ).status_code
            )

        threads = [threading.Thread(target=sign_in) for _ in range(8)]
        for thread in threads:
            thread.start()
        while sandbox.calls["/auth/token/"] < 8:
            time.sleep(0.01)
        os.kill(parent, signal.SIGTERM)
        for thread in threads:
            thread.join()
    assert results == [200] * 8
