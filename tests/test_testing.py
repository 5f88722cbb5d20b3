"""The pytest plugin, in pytest runs of a host's: what it sets, and what it costs nobody."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import bakrypt_proxy
from bakrypt_proxy.sandbox import Sandbox

pytestmark = pytest.mark.timeout(180)  # each run of pytest takes long on a busy machine
PACKAGE = Path(bakrypt_proxy.__file__).parent
# Plugins of these tests' own. They are slow to load, and some import requests or werkzeug.
OTHERS = ("cacheprovider", "anyio", "hypothesispytest", "requests_mock", "schemathesis", "timeout")
FOREIGN = {
    "BAKRYPT_NETWORK": "mainnet",
    "BAKRYPT_TOKEN_FILE": "/run/secrets/of-a-developer",
    "BAKRYPT_CLIENT_SECRET_FILE": "/run/secrets/of-a-developer",
    "BAKRYPT_COOKIE_KEY": "of-a-developer-of-a-developer-of-a-developer",
    "BAKRYPT_REDIS_URL": "redis://of-a-developer",
    "BAKRYPT_REDIS_URL_FILE": "/run/secrets/of-a-developer",
    "BAKRYPT_TOKEN": "of-a-developer",
    "BAKRYPT_URL": "https://bakrypt.io",
    "BAKRYPT_TIMEOUT": "600",
    "BAKRYPT_UNKNOWN": "1",
}
USING = """
import os

from flask import Flask

from bakrypt_proxy import create_api_blueprint, create_blueprint

OUTSIDE = dict(os.environ)


def create_client():
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(authorize=lambda: True))
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    return app.test_client()


def test_the_environment(bakrypt_sandbox):
    found = {name: value for name, value in os.environ.items() if name.startswith("BAKRYPT_")}
    assert found == bakrypt_sandbox.environ
    assert bakrypt_sandbox.calls == {}


def test_what_a_test_sets_afterwards(bakrypt_sandbox, monkeypatch):
    monkeypatch.setenv("BAKRYPT_SHARE_TOKEN", "false")
    client = create_client()
    client.post("/auth/exchange/")
    client.post("/auth/exchange/")
    assert bakrypt_sandbox.calls == {"/auth/exchange/": 2}


def test_the_environment_is_restored():
    # pytest's own names the running test.
    now = {**os.environ, "PYTEST_CURRENT_TEST": ""}
    assert now == {**OUTSIDE, "PYTEST_CURRENT_TEST": ""}


def test_failing(bakrypt_sandbox):
    bakrypt_sandbox.fail = 503
    assert create_client().post("/auth/exchange/").get_json()["error"] == "server_error"


def test_throttling(bakrypt_sandbox):
    bakrypt_sandbox.throttle = 42
    body = {"username": "alice", "password": "alice-password"}
    response = create_client().post("/auth/token/", json=body)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "42")


def test_slow(bakrypt_sandbox, monkeypatch):
    monkeypatch.setenv("BAKRYPT_TIMEOUT", "0.05")
    bakrypt_sandbox.delay = 1
    assert create_client().post("/auth/exchange/").status_code == 500


def test_revoking(bakrypt_sandbox):
    client = create_client()
    for _ in range(2):
        assert client.post("/bakrypt/v1/assets/", json=[{"name": "Gold"}]).status_code == 201
        bakrypt_sandbox.revoke()
    assert bakrypt_sandbox.calls["/auth/exchange/"] == 2


def test_each_test_has_its_own(bakrypt_sandbox):
    assert (bakrypt_sandbox.fail, bakrypt_sandbox.throttle) == (None, None)
"""
UNUSED = """
import sys

AT_COLLECTION = sorted(name for name in sys.modules if name.split(".")[0] in OURS)


def test_nothing_is_imported():
    assert AT_COLLECTION == []


def test_the_plugin_is_there(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("bakrypt_proxy")
"""
NO_EXTRA = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "oauthlib":
            raise ModuleNotFoundError("No module named 'oauthlib'", name=name)


sys.meta_path.insert(0, Missing())
"""
COVERED = """
def test_it(bakrypt_sandbox):
    assert bakrypt_sandbox.url
"""


def run(
    folder: Path, *arguments: str, environ: Mapping[str, str] | None = None, **files: str
) -> tuple[int, str]:
    """Run pytest on a host's files, with warnings as errors. Returns exit code and output."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error"]
    command += [part for name in OTHERS for part in ("-p", f"no:{name}")]
    result = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_a_host_uses_it(tmp_path: Path) -> None:
    """Its settings are set, those of the developer are gone, and afterwards they are back."""
    code, output = run(tmp_path, environ=FOREIGN, test_host=USING)
    assert code == 0, output
    assert "8 passed" in output


def test_a_host_that_does_not_use_it(tmp_path: Path) -> None:
    """Nothing of ours is imported, nor what we need."""
    ours = {"bakrypt_proxy", "flask", "werkzeug", "requests", "oauthlib"}
    code, output = run(tmp_path, test_host=UNUSED.replace("OURS", repr(ours)))
    assert code == 0, output
    assert "2 passed" in output


def test_without_the_extra(tmp_path: Path) -> None:
    """The fixture says what to install, in one line."""
    code, output = run(tmp_path, conftest=NO_EXTRA, test_host=COVERED)
    assert code == 1, output
    assert "oauthlib is missing: pip install 'bakrypt_proxy[sandbox]'" in output
    assert "No module named" not in output


def test_coverage_sees_the_whole_package(tmp_path: Path) -> None:
    """Also the lines that run when it is imported: the plugin does not import it earlier."""
    options = ("--cov", "bakrypt_proxy", "--cov-report", "term")
    code, output = run(tmp_path, *options, test_host=COVERED)
    assert code == 0, output
    shown = {line.split()[0]: line.split()[-1] for line in output.splitlines() if ".py " in line}
    for module in ("__init__.py", "types.py"):
        assert shown[str(PACKAGE / module)] == "100%", output


def test_in_this_process(bakrypt_sandbox: Sandbox) -> None:
    """As a fixture of these tests, too."""
    assert os.environ["BAKRYPT_URL"] == bakrypt_sandbox.url
