"""What granian adds to the WSGI environ: our settings are not in it."""

import signal
import sys
from pathlib import Path

import pytest
from serving import Server, serve, start

from bakrypt_proxy.sandbox import CREDENTIALS, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tests read /proc")

# Responds with all that an error tracker could pick up: the environ and the locals of all frames.
APP = """
import os
import sys

import bakrypt_proxy  # a worker that imports the app itself is slower than the others


class App:
    def __init__(self):
        self.found = os.environ["BAKRYPT_TOKEN"] == "planted-" + "token"
        self.worker = os.getpid()

    def __call__(self, environ, start_response):
        seen, frame = [repr(environ)], sys._getframe()
        while frame is not None:
            seen.append(f"{frame.f_code.co_name} {frame.f_locals!r}")
            frame = frame.f_back
        start_response("200 OK", [])
        return [f"{self.worker} found={self.found} {' '.join(seen)}".encode()]


def create_app():
    return App()


app = App() if "planted" in os.environ.get("BAKRYPT_TOKEN", "") else None
"""
SECRETS = {
    "BAKRYPT_TOKEN": "planted-token",
    "BAKRYPT_CLIENT_SECRET": "planted-client-secret",
    "BAKRYPT_REDIS_URL": "redis://:planted-password@127.0.0.1:1/0",
    "BAKRYPT_A_LATER_SECRET": "planted-later",
}


def assert_clean(server: Server) -> str:
    """Check that the app got its settings and that no request shows them; return the response."""
    seen = server.get()
    assert "found=True" in seen
    assert "_runner {" in seen  # granian's own frame is among those that we looked at
    assert "'COLOUR': 'green'" in seen  # so is granian's copy of the environment
    assert "BAKRYPT_" not in seen
    assert "planted" not in seen
    return seen


@pytest.mark.parametrize(
    ("options", "app"),
    [
        (("--factory",), "served:create_app"),
        ((), "served:app"),
        ((), "./served.py:app"),
        (("--factory", "--access-log"), "served:create_app"),
    ],
)
def test_no_request_shows_our_settings(tmp_path: Path, options: tuple[str, ...], app: str) -> None:
    """They are neither in the environ nor in a frame's locals, whatever the app's kind."""
    environ = {**SECRETS, "COLOUR": "green"}
    with start(tmp_path, *options, app=app, source=APP, environ=environ) as server:
        server.wait_for_response()
        assert_clean(server)


def test_settings_of_an_env_file_are_removed(tmp_path: Path) -> None:
    """A worker reads the file itself, before it creates the app."""
    lines = [f"{name}={value}" for name, value in SECRETS.items()]
    (tmp_path / "settings").write_text("\n".join(lines))
    options = ("--env-files", "settings")
    with serve(tmp_path, *options, source=APP, environ={"COLOUR": "green"}) as server:
        assert_clean(server)


@pytest.mark.timeout(60)
def test_a_new_worker_still_finds_the_settings(tmp_path: Path) -> None:
    """The parent keeps them for the workers that SIGHUP starts."""
    environ = {**SECRETS, "COLOUR": "green"}
    options = ("--respawn-interval", "0.1")
    with serve(tmp_path, *options, source=APP, environ=environ) as server:
        first = assert_clean(server).split()[0]
        for stopped in (1, 2):
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_log("Stopped old worker", stopped)
            assert assert_clean(server).split()[0] != first


HOST_APP = """
import os
import sys

from flask import Flask

from bakrypt_proxy import create_blueprint


def authorize():
    frame = sys._getframe()
    with open("frames", "a") as seen:
        while frame is not None:
            print(frame.f_code.co_name, repr(frame.f_locals), file=seen)
            frame = frame.f_back
    return True


def create_app():
    app = Flask("host")
    app.register_blueprint(create_blueprint(authorize=authorize))
    app.add_url_rule("/", view_func=lambda: "ok")
    return app
"""


def test_no_frame_of_an_app_with_our_blueprint_holds_a_secret(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """From granian's frames down to `authorize`, while the settings work."""
    environ = {**sandbox.environ, "COLOUR": "green"}
    with serve(tmp_path, source=HOST_APP, environ=environ) as server:
        assert "access_token" in server.post("auth/exchange/")
    frames = (tmp_path / "frames").read_text()
    assert "_runner {" in frames
    assert "wsgi_app {" in frames
    assert "'COLOUR': 'green'" in frames
    assert CREDENTIALS["BAKRYPT_TOKEN"] not in frames
    assert CREDENTIALS["BAKRYPT_CLIENT_SECRET"] not in frames
