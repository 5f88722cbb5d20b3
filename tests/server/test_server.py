"""`bakrypt_proxy.server`: granian, with a processor for each worker and the app imported once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from processes import free_port

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="Linux alone lets a process choose its processor"
)

APP = """
import os
import sys

print("imported by", os.getpid(), file=sys.stderr, flush=True)


def create_app():
    return answer


def answer(environ, start_response):
    start_response("200 OK", [])
    return [f"{sys.getswitchinterval():.3f}".encode()]
"""
PROCESSORS = sorted(os.sched_getaffinity(0))[:2] if sys.platform == "linux" else []


class Server:
    """A server with the app above, and what it knows of its workers."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, port: int) -> None:
        self.process = process
        self.log = log
        self.url = f"http://127.0.0.1:{port}/"

    def workers(self) -> dict[int, set[int]]:
        """Return the workers and the processors that each may use."""
        parent = self.process.pid
        found = {}
        for pid in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                found[pid] = os.sched_getaffinity(pid)
        return found

    def wait_for_workers(
        self, processors: list[set[int]], *, without: Set[int] = frozenset()
    ) -> set[int]:
        """Wait until there are workers with these processors, and none of the old ones; return their ids."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            workers = self.workers()
            if sorted(map(sorted, workers.values())) == sorted(
                map(sorted, processors)
            ) and not without & set(workers):
                return set(workers)
            time.sleep(0.05)
        raise AssertionError(f"{self.workers()}\n{self.log.read_text()}")


@contextmanager
def serve(directory: Path, *options: str, app: str = "served:create_app") -> Iterator[Server]:
    """Run the server on `PROCESSORS`, until it answers."""
    (directory / "served.py").write_text(APP)
    port = free_port()
    start = [
        sys.executable,
        "-m",
        "bakrypt_proxy.server",
        "--port",
        str(port),
        "--factory",
        *options,
        app,
    ]
    before = os.sched_getaffinity(0)
    with (directory / "log").open("wb") as log:
        os.sched_setaffinity(0, PROCESSORS)  # the server has what this thread has
        try:
            process = subprocess.Popen(start, cwd=directory, stdout=log, stderr=log)
        finally:
            os.sched_setaffinity(0, before)
    server = Server(process, directory / "log", port)
    try:
        wait_for_answer(server)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def wait_for_answer(server: Server) -> None:
    """Wait until it answers."""
    end = time.monotonic() + 20
    while time.monotonic() < end and server.process.poll() is None:
        try:
            with urlopen(server.url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(server.log.read_text())


def one_each() -> list[set[int]]:
    """Return what the workers should have, if there are as many as processors."""
    return [{processor} for processor in PROCESSORS]


@pytest.mark.timeout(60)
def test_each_worker_has_a_processor_of_its_own(tmp_path: Path) -> None:
    """Also the successor of one that was killed, and those that a reload starts beside the old ones."""
    with serve(tmp_path, "--workers", str(len(PROCESSORS)), "--respawn-interval", "0.1") as server:
        workers = server.wait_for_workers(one_each())
        os.kill(min(workers), signal.SIGKILL)
        workers = server.wait_for_workers(one_each(), without={min(workers)})
        for _ in range(2):
            server.process.send_signal(signal.SIGHUP)
            workers = server.wait_for_workers(one_each(), without=workers)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_workers_that_are_more_than_the_processors_share_them(tmp_path: Path) -> None:
    """A place of one's own would then be one that others need."""
    count = len(PROCESSORS) + 1
    with serve(tmp_path, "--workers", str(count)) as server:
        server.wait_for_workers([set(PROCESSORS)] * count)


@pytest.mark.timeout(60)
def test_the_app_is_imported_once_and_before_the_fork(tmp_path: Path) -> None:
    """So the workers share the memory that this took; the switch interval comes along, too."""
    with serve(tmp_path, "--workers", "3") as server:
        assert server.log.read_text().count("imported by") == 1
        assert f"imported by {server.process.pid}\n" in server.log.read_text()
        with urlopen(server.url, timeout=5) as reply:
            assert reply.read() == b"0.050"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("options", "app"),
    [((), "./served.py:create_app"), (("--env-files", "settings"), "served:create_app")],
)
def test_what_granian_does_before_it_imports_comes_first(
    tmp_path: Path, options: tuple[str, ...], app: str
) -> None:
    """A file's path becomes a module's name, and files of settings are read; then the worker imports the app."""
    (tmp_path / "settings").write_text("COLOUR=green\n")
    with serve(tmp_path, *options, app=app) as server:
        (worker,) = server.workers()
        assert f"imported by {worker}\n" in server.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch:app"], "there is no module nosuch here"),
        ([], "Missing argument 'APP'"),
        (["--workers", "none", "nosuch:app"], "'none' is not a valid integer"),
    ],
)
def test_a_wrong_command_line_is_explained(tmp_path: Path, arguments: list[str], said: str) -> None:
    """In a sentence, not a traceback."""
    command = [sys.executable, "-m", "bakrypt_proxy.server", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
