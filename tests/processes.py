"""Real server processes, and waiting for them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until(is_so: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something to become so, with a bound."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@contextmanager
def gunicorn(
    environ: dict[str, str], *arguments: str, app: str = "app:create_app()"
) -> Iterator[str]:
    """Our app on gunicorn with four worker processes."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        "4",
        "--threads",
        "16",
    ]
    with subprocess.Popen(
        [*command, "--log-level", "warning", *arguments, app],
        cwd=ROOT,
        env={**os.environ, "BAKRYPT_EXCHANGE_PUBLIC": "true", **environ},
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_up(url), 40)
            yield url
        finally:
            process.terminate()
            process.wait(40)  # above gunicorn's graceful timeout, on a busy machine


def is_up(url: str) -> bool:
    """Whether the app answers."""
    with suppress(requests.ConnectionError, requests.Timeout):
        return requests.get(f"{url}/healthz", timeout=5).ok
    return False
