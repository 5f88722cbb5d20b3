"""schemathesis tests the running app against its OpenAPI document."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests
from conftest import create_app, serve
from flask import Flask
from flask.testing import FlaskClient
from misbehaving import Upstream, replying

from bakrypt_proxy import create_api_blueprint, create_blueprint
from bakrypt_proxy.sandbox import Sandbox

HERE = Path(__file__).parent
CONFIG = HERE / "schemathesis.toml"
API_CONFIG = HERE / "schemathesis_api.toml"
# The lists at the paths of files and assets are a 404, and not a 405: see test_api.py.
LISTS = "unsupported_method"
FEWER = ("--max-examples", "15")  # there are six operations


def schemathesis(folder: Path, url: str, *arguments: str, config: Path = CONFIG) -> None:
    """Run all checks of schemathesis against the app's document with this address."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)]
    command += ["run", "--checks", "all"]
    result = subprocess.run(
        [*command, "--max-examples", "40", "--no-color", *arguments, url],
        cwd=folder,  # where it stores its examples
        env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_app_keeps_its_contract(app: Flask, tmp_path: Path) -> None:
    """The app follows the document while bakrypt works."""
    with serve(app) as url:
        schemathesis(tmp_path, f"{url}/auth/openapi.json")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_app_keeps_its_contract_when_bakrypt_fails(upstream: Upstream, tmp_path: Path) -> None:
    """The app follows the document while bakrypt fails; a 500 is then allowed."""
    upstream.behave = replying(503, {"detail": "down"})
    with serve(create_app(upstream.environ)) as url:
        document = f"{url}/auth/openapi.json"
        schemathesis(tmp_path, document, "--exclude-checks", "not_a_server_error")


def create_api_app(config: Mapping[str, object]) -> Flask:
    """A host app with the API's blueprint and all its calls."""
    app = Flask("host")
    app.config.from_mapping(config, BAKRYPT_API_CALLS="files,assets,transactions,mint,refund")
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    return app


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_api_keeps_its_contract(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API follows its document while bakrypt works, for the maker of a transaction."""
    with serve(create_api_app(sandbox.environ)) as url:
        made = requests.post(f"{url}/bakrypt/v1/assets/", json={"name": "A"}, timeout=20)
        monkeypatch.setenv("MADE_TRANSACTION", made.json()["transaction"]["uuid"])
        cookie = made.headers["Set-Cookie"].partition(";")[0]
        arguments = (f"{url}/bakrypt/openapi.json", *FEWER, "--exclude-checks", LISTS)
        schemathesis(tmp_path, *arguments, "-H", f"Cookie: {cookie}", config=API_CONFIG)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_api_keeps_its_contract_when_bakrypt_fails(upstream: Upstream, tmp_path: Path) -> None:
    """The API follows its document while bakrypt fails; a 500 is then allowed."""
    upstream.behave = replying(503, {"detail": "down"})
    with serve(create_api_app(upstream.environ)) as url:
        excluded = f"{LISTS},not_a_server_error"
        arguments = (f"{url}/bakrypt/openapi.json", *FEWER, "--exclude-checks", excluded)
        schemathesis(tmp_path, *arguments, config=API_CONFIG)


def test_it_is_served(client: FlaskClient) -> None:
    """The document is JSON and can only be read."""
    response = client.get("/auth/openapi.json")
    assert response.content_type == "application/json"
    assert response.get_json()["openapi"] == "3.1.0"
    assert client.post("/auth/openapi.json").status_code == 405
    assert client.head("/auth/openapi.json").data == b""


def test_a_listed_page_may_read_it(sandbox: Sandbox) -> None:
    """A page of an allowed origin gets CORS headers."""
    origin = "https://shop.example.com"
    client = create_app({**sandbox.environ, "BAKRYPT_ALLOWED_ORIGINS": origin}).test_client()
    response = client.get(
        "/auth/openapi.json", headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    )
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == origin


def test_it_says_where_the_routes_are(sandbox: Sandbox) -> None:
    """The server's URL has the app's prefix, and each path appended to it is a route."""
    app = Flask("host")
    app.config.from_mapping(sandbox.environ)
    app.register_blueprint(create_blueprint(authorize=lambda: True), url_prefix="/a/b")
    document = (
        app.test_client().get("/a/b/openapi.json", base_url="http://localhost/mounted").get_json()
    )
    assert document["servers"][0]["url"] == "/mounted/a/b"
    prefix = document["servers"][0]["url"].removeprefix("/mounted")
    for path in ("/exchange/", "/token/"):
        assert app.test_client().post(prefix + path).status_code in {200, 400}


def test_any_page_may_link_to_it(client: FlaskClient) -> None:
    """The document is public; CORS decides which pages may read it."""
    response = client.get(
        "/auth/openapi.json",
        headers={"Sec-Fetch-Site": "cross-site", "Origin": "https://b.example"},
    )
    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response.headers


def test_document_and_routes_agree(app: Flask) -> None:
    """The document describes each route of the blueprint and no other one."""
    document = json.loads(app.test_client().get("/auth/openapi.json").data)
    described = {
        (f"/auth{path}", method.upper())
        for path, operations in document["paths"].items()
        for method in operations
    }
    routes = {
        (str(rule), method)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("bakrypt.")
        for method in set(rule.methods or ()) - {"OPTIONS", "HEAD"}
    }
    assert described == routes
