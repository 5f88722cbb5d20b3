"""The server's log lines, as text or as JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import Server, serve

JSON = {"BAKRYPT_LOG_FORMAT": "json"}
FAILING_APP = """
def create_app():
    return respond


def respond(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        raise ValueError("broken")
    start_response("200 OK", [])
    return [b"ok"]
"""


def stopped_log(server: Server) -> str:
    """Stop the server and return its whole log."""
    server.stop()
    return server.log.read_text()


def parsed(log: str) -> list[dict[str, Any]]:
    """Return the log's lines; each of them is JSON."""
    return [json.loads(line) for line in log.splitlines()]


def test_each_line_is_json_where_json_was_asked_for(tmp_path: Path) -> None:
    """That includes granian's own lines, its access log, and the traceback of a failing app."""
    with serve(tmp_path, "--access-log", source=FAILING_APP, environ=JSON) as server:
        with pytest.raises(OSError, match="500"):
            server.get("fail")
        lines = parsed(stopped_log(server))
    messages = [line["message"] for line in lines]
    assert {line["logger"].partition(".")[0] for line in lines} == {"_granian", "granian"}
    assert {line["level"] for line in lines} == {"INFO", "WARNING", "ERROR"}
    assert any("GET /fail" in message for message in messages)
    assert any("ValueError: broken" in message for message in messages)
    assert any(message.startswith("Stopped worker-1") for message in messages)


def test_lines_are_text_otherwise(tmp_path: Path) -> None:
    """As granian writes them."""
    with serve(tmp_path, environ={"BAKRYPT_LOG_FORMAT": "text"}) as server:
        assert "[INFO] Started worker-1\n" in stopped_log(server)


def test_a_log_config_of_the_operator_wins(tmp_path: Path) -> None:
    """It is granian's own option."""
    (tmp_path / "mine.json").write_text(
        json.dumps({"formatters": {"generic": {"format": "mine %(message)s"}, "access": {}}})
    )
    with serve(tmp_path, "--log-config", "mine.json", environ=JSON) as server:
        assert "mine Started worker-1\n" in stopped_log(server)


@pytest.mark.parametrize("option", ["--log-level=debug", "--no-log"])
def test_log_options_still_work(tmp_path: Path, option: str) -> None:
    """The level and the switch of granian's command line apply to JSON lines, too."""
    with serve(tmp_path, option, environ=JSON) as server:
        lines = parsed(stopped_log(server))
    assert bool(lines) == (option != "--no-log")


@pytest.mark.parametrize(
    "source", ["1 / 0", "def create_app():\n    1 / 0", "import no_such_module"]
)
@pytest.mark.parametrize("environ", [JSON, {}])
def test_a_failure_to_load_the_app_is_one_record(
    tmp_path: Path, source: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traceback is part of it; nothing else is printed."""
    (tmp_path / "served.py").write_text(source)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "bakrypt_proxy.server", "--port", "0"]
    command += ["--no-respawn-failed-workers", "--factory", "served:create_app"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "no_such_module" in done.stdout or "ZeroDivisionError" in done.stdout
    if environ:
        (failure,) = [line for line in parsed(done.stdout) if "traceback" in line]
        assert failure["message"] == "The app cannot be loaded"
        assert failure["level"] == "ERROR"
    else:
        assert "[ERROR] The app cannot be loaded\nTraceback" in done.stdout
