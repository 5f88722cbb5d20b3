"""Start real server processes and wait for them."""

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
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a condition is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.01)


@contextmanager
def gunicorn(
    environ: dict[str, str], *arguments: str, app: str = "app:create_app()"
) -> Iterator[str]:
    """Run our app on gunicorn with four workers and return its address."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", "4", "--threads", "16"]
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


@contextmanager
def granian(environ: dict[str, str], *arguments: str, app: str = "app:create_app") -> Iterator[str]:
    """Run an app on `bakrypt_proxy.server` with one worker and return its address."""
    port = free_port()
    command = [sys.executable, "-m", "bakrypt_proxy.server", "--port", str(port), "--factory"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with subprocess.Popen(
        [*command, "--workers", "1", "--log-level", "warning", *arguments, app],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "BAKRYPT_EXCHANGE_PUBLIC": "true", **environ},
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_up(url), 40)  # on a busy machine
            yield url
        finally:
            process.terminate()
            process.wait(30)


def is_up(url: str) -> bool:
    """Return whether the app answers."""
    with suppress(requests.ConnectionError, requests.Timeout):
        return requests.get(f"{url}/healthz", timeout=5).ok
    return False
