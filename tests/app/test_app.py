"""Our own app: what `flask run` gives somebody who has none yet."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from dotenv import dotenv_values
from flask import Flask
from misbehaving import Upstream

from app import create_app
from bakrypt_proxy.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
SANDBOX = {"BAKRYPT_NETWORK": "sandbox"}


@pytest.fixture
def app() -> Iterator[Flask]:
    """The app with its embedded sandbox."""
    app = create_app(SANDBOX)
    with app.extensions["bakrypt_sandbox"]:
        yield app


def test_with_the_embedded_sandbox(app: Flask) -> None:
    """No account, no second terminal: both routes and the page work."""
    client = app.test_client()
    assert client.post("/auth/exchange/").status_code == 200
    assert (
        client.post(
            "/auth/token/", json={"username": "alice", "password": "alice-password"}
        ).status_code
        == 200
    )
    page = client.get("/")
    assert page.status_code == 200
    assert "alice-password" in page.text
    assert 'id="upload"' in page.text
    assert app.extensions["bakrypt_sandbox"].calls == {"/auth/exchange/": 1, "/auth/token/": 1}


def test_with_a_sandbox_that_runs_alone(sandbox: Sandbox) -> None:
    """Several workers can share one, at BAKRYPT_URL."""
    app = create_app(SANDBOX | {"BAKRYPT_URL": sandbox.url})
    assert "bakrypt_sandbox" not in app.extensions
    assert app.test_client().post("/auth/exchange/").status_code == 200
    assert sandbox.calls == {"/auth/exchange/": 1}


def test_real_credentials_never_go_to_the_sandbox(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A .env with a secret and without a network is answered with a warning."""
    secret = tmp_path / "secret"
    secret.write_text("planted-client-secret")
    real = {
        "BAKRYPT_TOKEN": "planted-secret",
        "BAKRYPT_CLIENT_SECRET_FILE": str(secret),
        "BAKRYPT_URL": upstream.url,
    }
    client = create_app(SANDBOX | real).test_client()
    client.post("/auth/exchange/")
    client.post("/auth/token/", json={"username": "a", "password": "b"})
    assert upstream.requests[0].headers["authorization"] == "Token sandbox-token"
    assert b"planted" not in upstream.requests[1].body
    assert "these are not used: BAKRYPT_TOKEN, BAKRYPT_CLIENT_SECRET_FILE" in caplog.text
    assert "planted" not in caplog.text


def test_a_real_network_stays_closed(upstream: Upstream) -> None:
    """What opens the sandbox does not open the account, nor does what .flaskenv leaves in the environment."""
    committed = {
        key: value
        for key, value in dotenv_values(ROOT / ".flaskenv").items()
        if key != "BAKRYPT_NETWORK"
    }
    client = create_app({**committed, **upstream.environ}).test_client()
    assert client.post("/auth/exchange/").status_code == 403
    assert "alice" not in client.get("/").text
    assert 'id="upload"' not in client.get("/").text


def test_a_sandbox_can_be_closed() -> None:
    """A deliberate false is not taken for absent."""
    app = create_app(SANDBOX | {"BAKRYPT_EXCHANGE_PUBLIC": False})
    with app.extensions["bakrypt_sandbox"]:
        assert app.test_client().post("/auth/exchange/").status_code == 403


def test_an_empty_setting_is_not_set() -> None:
    """As a line of .env that was left blank."""
    app = create_app(SANDBOX | {"BAKRYPT_EXCHANGE_PUBLIC": "", "BAKRYPT_URL": " "})
    with app.extensions["bakrypt_sandbox"]:
        assert app.test_client().post("/auth/exchange/").status_code == 200


def test_healthz(upstream: Upstream) -> None:
    """It says that the process answers, and asks nothing of bakrypt."""
    reply = create_app(upstream.environ).test_client().get("/healthz")
    assert (reply.status_code, reply.json) == (200, {"status": "ok"})
    assert upstream.requests == []


def test_the_page_allows_nothing_that_it_does_not_need(upstream: Upstream) -> None:
    """No inline code, no framing, no other address than the API's."""
    client = create_app(upstream.environ).test_client()
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert policy.endswith(f"connect-src 'self' {upstream.url}")
    with client.get("/demo-static/demo.js") as script:
        assert script.headers["Content-Security-Policy"] == policy


def test_flask_run_in_a_fresh_clone() -> None:
    """The committed .flaskenv is enough: FLASK_APP and the network are set, and nothing is asked for."""
    environ = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("FLASK_", "BAKRYPT_"))
    }
    command = [sys.executable, "-m", "flask", "run", "--port", "0"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    with process:
        line = next(line for line in process.stderr if "Running on " in line)
        address = line.split("Running on ")[1].split()[0]
        try:
            assert requests.post(f"{address}/auth/exchange/", timeout=5).status_code == 200
        finally:
            process.terminate()


def test_the_page_finds_its_routes_where_the_app_is_mounted(app: Flask) -> None:
    """Behind a path prefix too."""
    page = app.test_client().get("/", base_url="http://localhost/mounted").text
    assert 'data-module="/mounted/auth/bakrypt.js"' in page
