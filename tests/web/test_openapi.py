"""schemathesis tests the running app against its OpenAPI document."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import create_app, serve
from flask import Flask
from flask.testing import FlaskClient
from misbehaving import Upstream, replying

from bakrypt_proxy import create_blueprint
from bakrypt_proxy.sandbox import Sandbox

HERE = Path(__file__).parent
CONFIG = HERE / "schemathesis.toml"


def schemathesis(folder: Path, url: str, *arguments: str) -> None:
    """Run all checks of schemathesis against the document that the app serves."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)]
    command += ["run", "--checks", "all"]
    result = subprocess.run(
        [*command, "--max-examples", "40", "--no-color", *arguments, f"{url}/auth/openapi.json"],
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
        schemathesis(tmp_path, url)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_app_keeps_its_contract_when_bakrypt_fails(upstream: Upstream, tmp_path: Path) -> None:
    """The app follows the document while bakrypt fails; a 500 is then allowed."""
    upstream.behave = replying(503, {"detail": "down"})
    with serve(create_app(upstream.environ)) as url:
        schemathesis(tmp_path, url, "--exclude-checks", "not_a_server_error")


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
