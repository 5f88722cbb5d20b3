"""Run `bakrypt_proxy.server` with an app of the test's own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

from processes import free_port

PROCESSORS = sorted(os.sched_getaffinity(0))[:2] if sys.platform == "linux" else []
SIMPLE_APP = """
def create_app():
    return respond


def respond(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
"""


class Server:
    """A running server and its log."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, port: int) -> None:
        self.process = process
        self.log = log
        self.port = port
        self.url = f"http://127.0.0.1:{port}/"

    def workers(self) -> dict[int, set[int]]:
        """Return the processors that each worker may use, by the worker's process id."""
        parent = self.process.pid
        workers = {}
        for pid in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            with suppress(ProcessLookupError):  # the worker has ended since
                workers[pid] = os.sched_getaffinity(pid)
        return workers

    def wait_for_workers(
        self, processors: list[set[int]], *, without: Set[int] = frozenset()
    ) -> set[int]:
        """Wait until the workers have these processors, and return their process ids.

        :param processors: the allowed processors of each worker, in any order.
        :param without: process ids of old workers, which must have ended.
        """
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            workers = self.workers()
            if sorted(map(sorted, workers.values())) == sorted(
                map(sorted, processors)
            ) and not without & set(workers):
                return set(workers)
            time.sleep(0.05)
        raise AssertionError(f"{self.workers()}\n{self.log.read_text()}")

    def get(self, path: str = "") -> str:
        """Return the body of a response."""
        return fetch(Request(self.url + path))

    def post(self, path: str) -> str:
        """Return the body of a response to a POST without a body."""
        return fetch(Request(self.url + path, method="POST"))

    def wait_for_response(self) -> None:
        """Wait until the server responds."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                self.get()
                return
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """Wait until a text is in the log `count` times."""
        deadline = time.monotonic() + 20
        while self.log.read_text().count(text) < count:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> float:
        """Stop the server with SIGTERM and return the seconds that this took."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return time.monotonic() - start


def fetch(request: Request, timeout: float = 10) -> str:
    """Return the body of a response."""
    with urlopen(request, timeout=timeout) as response:
        body: bytes = response.read()
        return body.decode()


@contextmanager
def start(
    directory: Path,
    *options: str,
    app: str = "served:create_app",
    source: str = SIMPLE_APP,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start the server on `PROCESSORS` and stop it after the block.

    :param options: command-line options, such as `--factory`.
    :param app: the target on the command line.
    :param source: the Python source of the module `served`.
    :param environ: variables beside those of this process.
    """
    (directory / "served.py").write_text(source)
    port = free_port()
    command = [sys.executable, "-m", "bakrypt_proxy.server", "--port", str(port), *options, app]
    before = os.sched_getaffinity(0)
    with (directory / "log").open("wb") as log:
        os.sched_setaffinity(0, PROCESSORS)  # the server inherits it from this thread
        try:
            process = subprocess.Popen(
                command,
                cwd=directory,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environ or {})},
            )
        finally:
            os.sched_setaffinity(0, before)
    try:
        yield Server(process, directory / "log", port)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def serve(directory: Path, *options: str, **arguments: object) -> Iterator[Server]:
    """Start the server with a factory, as `start` does, and enter the block when it responds."""
    with start(directory, "--factory", *options, **arguments) as server:  # type: ignore[arg-type]
        server.wait_for_response()
        yield server
