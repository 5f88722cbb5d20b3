"""`bakrypt_proxy.server`: granian, with pinned workers and an app that is imported once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serving import PROCESSORS, serve

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux lets a process choose its processor"
)

APP = """
import os
import sys

print("imported by", os.getpid(), file=sys.stderr, flush=True)


def create_app():
    return respond


def respond(environ, start_response):
    start_response("200 OK", [])
    return [f"{sys.getswitchinterval():.3f}".encode()]
"""


def pinned() -> list[set[int]]:
    """Return the processors of the workers if each is pinned to another one."""
    return [{processor} for processor in PROCESSORS]


@pytest.mark.timeout(60)
def test_each_worker_has_its_own_processor(tmp_path: Path) -> None:
    """That is also true for a replacement of a killed worker and after each reload."""
    with serve(tmp_path, "--workers", str(len(PROCESSORS)), "--respawn-interval", "0.1") as server:
        workers = server.wait_for_workers(pinned())
        os.kill(min(workers), signal.SIGKILL)
        workers = server.wait_for_workers(pinned(), without={min(workers)})
        for _ in range(2):
            server.process.send_signal(signal.SIGHUP)
            workers = server.wait_for_workers(pinned(), without=workers)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_more_workers_than_processors_are_not_pinned(tmp_path: Path) -> None:
    """Each worker may then use every processor."""
    count = len(PROCESSORS) + 1
    with serve(tmp_path, "--workers", str(count)) as server:
        server.wait_for_workers([set(PROCESSORS)] * count)


@pytest.mark.timeout(60)
def test_the_app_is_imported_once_before_the_fork(tmp_path: Path) -> None:
    """The workers share that memory and inherit the switch interval."""
    with serve(tmp_path, "--workers", "3", source=APP) as server:
        assert server.log.read_text().count("imported by") == 1
        assert f"imported by {server.process.pid}\n" in server.log.read_text()
        assert server.get() == "0.050"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("options", "app"),
    [((), "./served.py:create_app"), (("--env-files", "settings"), "served:create_app")],
)
def test_a_worker_imports_the_app_where_granian_prepares_the_import(
    tmp_path: Path, options: tuple[str, ...], app: str
) -> None:
    """The worker imports the app, because granian first resolves the path or reads env files."""
    (tmp_path / "settings").write_text("COLOUR=green\n")
    with serve(tmp_path, *options, app=app, source=APP) as server:
        (worker,) = server.workers()
        assert f"imported by {worker}\n" in server.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch:app"], "there is no module nosuch here"),
        ([], "Missing argument 'APP'"),
        (["--workers", "none", "nosuch:app"], "'none' is not a valid integer"),
    ],
)
def test_a_wrong_command_line_is_explained(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    """The server prints one sentence and no traceback."""
    command = [sys.executable, "-m", "bakrypt_proxy.server", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra(tmp_path: Path) -> None:
    """The message says what to install."""
    (tmp_path / "granian.py").write_text("raise ModuleNotFoundError(name='granian')")
    result = subprocess.run(
        [sys.executable, "-m", "bakrypt_proxy.server", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "granian is missing: pip install 'bakrypt_proxy[server]'\n"
