"""The tests of `docs/testing.md` are a suite that passes, and its other sentences hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from conftest import create_app
from documents import rows, snippets
from flask import Flask
from misbehaving import TOKEN_REPLY, Upstream, replying
from requests_mock import Mocker

from bakrypt_proxy import BakryptClient, Settings, create_api_blueprint
from bakrypt_proxy.sandbox import Sandbox

PAGE = "docs/testing.md"


@pytest.mark.timeout(180)  # a run of pytest takes long on a busy machine
def test_the_snippets_pass(tmp_path: Path) -> None:
    """As files of their own, each with its own imports."""
    for number, snippet in enumerate(snippets(PAGE, "python")):
        (tmp_path / f"test_{number}.py").write_text(snippet)
    result = subprocess.run(
        # Plugins of these tests' own are slow to load.
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1].startswith("8 passed")


def test_the_members_exist(bakrypt_sandbox: Sandbox) -> None:
    """Each row of the table is a member of the fixture."""
    names = [cells[0].strip("`").partition("(")[0] for cells in rows(PAGE, "`")]
    assert set(names) >= {"environ", "calls", "delay", "fail", "throttle", "revoke"}
    for name in names:
        first, _, rest = name.partition(".")
        assert hasattr(bakrypt_sandbox, first)
        assert not rest or hasattr(bakrypt_sandbox.store, rest)


def test_what_is_revoked(bakrypt_sandbox: Sandbox) -> None:
    """One token if it is named, otherwise all."""
    with BakryptClient(Settings.from_mapping(bakrypt_sandbox.environ)) as bakrypt:
        tokens = [bakrypt.exchange()["access_token"] for _ in range(3)]
    bakrypt_sandbox.revoke(tokens[0])
    assert [bakrypt_sandbox.store.owner(token) is None for token in tokens] == [True, False, False]
    bakrypt_sandbox.revoke()
    assert {bakrypt_sandbox.store.owner(token) for token in tokens} == {None}


def test_a_script(bakrypt_sandbox: Sandbox) -> None:
    """It reads the environment."""
    with BakryptClient(Settings.from_mapping(os.environ)) as bakrypt:
        token = bakrypt.password("alice", "alice-password")
    assert bakrypt_sandbox.store.owner(token["access_token"]) == "alice"


def test_settings_of_the_app_win(bakrypt_sandbox: Sandbox) -> None:
    """Until the app is updated."""
    config = {"BAKRYPT_URL": "http://127.0.0.1:1"}
    assert create_app(config).test_client().post("/auth/exchange/").status_code == 500
    app = create_app(config | bakrypt_sandbox.environ)
    assert app.test_client().post("/auth/exchange/").status_code == 200


def test_a_failure_is_remembered(bakrypt_sandbox: Sandbox) -> None:
    """By this app, and not by a new one."""
    bakrypt_sandbox.fail = 503
    client = create_app({}).test_client()
    assert client.post("/auth/exchange/").status_code == 500
    bakrypt_sandbox.fail = None
    assert client.post("/auth/exchange/").status_code == 500
    assert create_app({}).test_client().post("/auth/exchange/").status_code == 200


def test_a_mock_does_not_see_a_client_without_a_session(
    upstream: Upstream, requests_mock: Mocker
) -> None:
    """The call reaches bakrypt, whatever the mock was told."""
    upstream.behave = replying(200, TOKEN_REPLY)
    requests_mock.post(f"{upstream.environ['BAKRYPT_URL']}/auth/exchange/", status_code=503)
    with BakryptClient(Settings.from_mapping(upstream.environ)) as bakrypt:
        assert bakrypt.exchange()["access_token"] == TOKEN_REPLY["access_token"]
    assert requests_mock.call_count == 0


def test_the_calls_without_a_token_take_no_session() -> None:
    """The app says so when it starts."""
    settings = Settings(token="fake")
    with requests.Session() as session:
        bakrypt = BakryptClient(settings, session=session)
        with pytest.raises(TypeError, match="session of its own"):
            Flask("host").register_blueprint(create_api_blueprint(client=bakrypt))
