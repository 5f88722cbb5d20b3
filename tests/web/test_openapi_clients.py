"""Clients that generators make from our OpenAPI document work against the running app."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import serve
from flask import Flask
from packages import needs_npm, npm, packages

__all__ = ["packages"]  # a fixture is used by its name
pytestmark = pytest.mark.slow

USER = {"username": "alice", "password": "alice-password"}
PACKAGE_SCRIPT = """
import { exchange, token } from "./generated";
import { client } from "./generated/client.gen";
client.setConfig({ baseUrl: process.argv[2] });
const user = { username: "alice", password: "alice-password" };
const results = [];
const call = async (operation, options) => results.push((await operation(options)).data);
await call(exchange);
await call(exchange, { body: { rejected_token: null } });
await call(exchange, { body: { rejected_token: "x" } });
await call(token, { body: { ...user, scope: null } });
const refresh_token = results.at(-1).refresh_token;
await call(token, { body: { grant_type: "refresh_token", refresh_token } });
const { error, response } = await token({ body: { ...user, password: "wrong" } });
console.log(JSON.stringify({ results, error: [response.status, error.error] }));
"""


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """The address of the routes."""
    with serve(app) as url:
        yield f"{url}/auth"


@pytest.fixture
def document(url: str, tmp_path: Path) -> Path:
    """A file with the document that the app serves."""
    path = tmp_path / "openapi.json"
    path.write_bytes(requests.get(f"{url}/openapi.json", timeout=10).content)
    return path


def generate(*arguments: str) -> None:
    """Run a generator that is a Python module."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_client_by_openapi_python_client(
    url: str, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its calls work, with and without the members that may be left out."""
    folder = tmp_path / "generated_client"
    generate("openapi_python_client", "generate", "--path", str(document), "--meta", "none",
             "--output-path", str(folder))  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    client = importlib.import_module("generated_client").Client(base_url=url)
    models: Any = importlib.import_module("generated_client.models")
    exchange: Any = importlib.import_module("generated_client.api.default.exchange").sync
    token: Any = importlib.import_module("generated_client.api.default.token").sync
    for body in ({}, {"body": models.ExchangeRequest()}):
        assert exchange(client=client, **body).expires_in > 0
    for rejected_token in (None, "x"):
        body = {"body": models.ExchangeRequest(rejected_token=rejected_token)}
        assert exchange(client=client, **body).access_token
    alice = token(client=client, body=models.PasswordRequest(**USER, scope=None))
    refresh = models.RefreshRequest(grant_type="refresh_token", refresh_token=alice.refresh_token)
    assert token(client=client, body=refresh).access_token != alice.access_token
    wrong = models.PasswordRequest(username="alice", password="wrong")
    assert token(client=client, body=wrong).error == "invalid_grant"
    client.get_httpx_client().close()


@pytest.mark.parametrize("without_null", [False, True])
def test_models_by_datamodel_codegen(
    url: str, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_null: bool
) -> None:
    """Their JSON is read, with null for what is not given too, and they read the responses."""
    module = f"generated_models_{without_null}".lower()
    generate("datamodel_code_generator", "--input", str(document), "--input-file-type", "openapi",
             "--output-model-type", "pydantic_v2.BaseModel", "--formatters", "builtin",
             "--output", str(tmp_path / f"{module}.py"))  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    models: Any = importlib.import_module(module)

    def post(path: str, model: Any) -> requests.Response:
        body = model.model_dump_json(exclude_none=without_null)
        kind = {"Content-Type": "application/json"}
        return requests.post(url + path, data=body, headers=kind, timeout=10)

    def read(response: requests.Response) -> Any:
        assert response.status_code == 200
        return models.AccessToken.model_validate_json(response.text)

    assert read(post("/exchange/", models.ExchangeRequest())).expires_in > 0
    assert read(post("/exchange/", models.ExchangeRequest(rejected_token="x"))).access_token
    alice = read(post("/token/", models.TokenRequest(models.PasswordRequest(**USER))))
    refresh = models.RefreshRequest(grant_type="refresh_token", refresh_token=alice.refresh_token)
    assert read(post("/token/", refresh)).access_token != alice.access_token
    wrong = post("/token/", models.PasswordRequest(username="alice", password="wrong"))
    assert models.ErrorResponse.model_validate_json(wrong.text).error == "invalid_grant"


class TestPackage:
    """An npm package."""

    pytestmark = needs_npm

    def test_a_client_by_hey_api(
        self, url: str, document: Path, tmp_path: Path, packages: Path
    ) -> None:
        """All of its calls work in JavaScript, with null too."""
        folder = packages / tmp_path.name
        folder.mkdir()
        (folder / "calls.ts").write_text(PACKAGE_SCRIPT)
        tool = f"{folder.name}/generated"
        npm(packages, "exec", "--", "openapi-ts", "-i", str(document), "-o", tool, "--silent")
        bundle = f"--outfile={folder / 'calls.mjs'}"
        npm(packages, "exec", "--", "esbuild", f"{folder.name}/calls.ts", "--bundle",
            "--format=esm", "--log-level=error", bundle)  # fmt: skip
        told = json.loads(npm(packages, "exec", "--", "node", str(folder / "calls.mjs"), url))
        assert all(result["access_token"] for result in told["results"])
        assert len(told["results"]) == 5
        assert told["error"] == [400, "invalid_grant"]
