"""Our own app, as `flask run` starts it."""

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
    """Both routes and the page work without an account and a second terminal."""
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


def test_with_a_standalone_sandbox(sandbox: Sandbox) -> None:
    """Several workers can share the sandbox at `BAKRYPT_URL`."""
    app = create_app(SANDBOX | {"BAKRYPT_URL": sandbox.url})
    assert "bakrypt_sandbox" not in app.extensions
    assert app.test_client().post("/auth/exchange/").status_code == 200
    assert sandbox.calls == {"/auth/exchange/": 1}


def test_real_credentials_never_go_to_the_sandbox(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """If real credentials are set without a network, the app warns and ignores them."""
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
    """The settings in `.flaskenv` open exchange for the sandbox only."""
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
    """`BAKRYPT_EXCHANGE_PUBLIC=False` and `BAKRYPT_API_PUBLIC=False` are not treated as absent."""
    closed = {"BAKRYPT_EXCHANGE_PUBLIC": False, "BAKRYPT_API_PUBLIC": False}
    app = create_app({**SANDBOX, **closed})
    with app.extensions["bakrypt_sandbox"]:
        client = app.test_client()
        assert client.post("/auth/exchange/").status_code == 403
        assert client.get("/bakrypt/receipts/").status_code == 403
        assert "BAKRYPT_API_PUBLIC=true" in client.get("/").text


def test_the_api_of_the_sandbox_is_open(app: Flask) -> None:
    """An asset is created and its transaction read without a token."""
    client = app.test_client()
    created = client.post("/bakrypt/v1/assets/", json=[{"name": "Gold"}])
    assert created.status_code == 201
    transaction = created.get_json()[0]["transaction"]
    assert client.get(f"/bakrypt/v1/transactions/{transaction}/").status_code == 200
    assert 'id="public-upload"' in client.get("/").text


@pytest.mark.parametrize("opened", [False, True])
def test_the_api_of_a_real_network(upstream: Upstream, opened: bool) -> None:
    """It is closed until a setting opens it, and the page says how."""
    client = create_app({**upstream.environ, "BAKRYPT_API_PUBLIC": opened}).test_client()
    assert client.get("/bakrypt/receipts/").status_code == (200 if opened else 403)
    page = client.get("/").text
    assert "Without a token" in page
    assert ("BAKRYPT_API_PUBLIC=true" in page, 'id="public-upload"' in page) == (not opened, opened)
    assert upstream.requests == []


def test_without_a_token_there_is_no_api(upstream: Upstream) -> None:
    """An app that only signs users in starts, and its page does not show the API."""
    environ = {name: value for name, value in upstream.environ.items() if name != "BAKRYPT_TOKEN"}
    client = create_app(environ).test_client()
    assert client.get("/bakrypt/receipts/").status_code == 404
    page = client.get("/")
    assert page.status_code == 200
    assert "Without a token" not in page.text
    assert "data-receipts" not in page.text


def test_an_empty_setting_is_not_set() -> None:
    """A blank line in `.env` counts as absent."""
    app = create_app(SANDBOX | {"BAKRYPT_EXCHANGE_PUBLIC": "", "BAKRYPT_URL": " "})
    with app.extensions["bakrypt_sandbox"]:
        assert app.test_client().post("/auth/exchange/").status_code == 200


def test_healthz(upstream: Upstream) -> None:
    """`/healthz` reports that the process answers, without a call to bakrypt."""
    response = create_app(upstream.environ).test_client().get("/healthz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})
    assert upstream.requests == []


def test_the_page_allows_nothing_that_it_does_not_need(upstream: Upstream) -> None:
    """The policy forbids inline code, framing, and all addresses but the API's."""
    client = create_app(upstream.environ).test_client()
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert policy.endswith(f"connect-src 'self' {upstream.url}")
    with client.get("/demo-static/demo.js") as script:
        assert script.headers["Content-Security-Policy"] == policy


def test_flask_run_in_a_fresh_clone() -> None:
    """The committed `.flaskenv` sets the app and the network; nothing else is needed."""
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
    """The page works behind a path prefix."""
    page = app.test_client().get("/", base_url="http://localhost/mounted").text
    assert 'data-module="/mounted/auth/bakrypt.js"' in page
    assert 'data-receipts="/mounted/bakrypt/receipts/"' in page
