"""The snippets of `docs/security.md` run as they stand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from documents import ROOT, snippets
from flask import Flask

from bakrypt_proxy import BakryptClient, create_api_blueprint
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.web.api import CALLS

PAGE = "docs/security.md"
UUID = "0d0d39e4-b979-40ed-a844-243693aab17f"


def test_the_snippet_of_a_limiter(sandbox: Sandbox) -> None:
    """20 POSTs a minute, counted together and said with Retry-After; GETs are not counted."""
    app = Flask("host")
    app.config.update(sandbox.environ)
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    (snippet,) = snippets(PAGE, "python")
    exec(snippet, {"app": app})  # noqa: S102 - our own page
    client = app.test_client()
    for path in [call.path for call in CALLS if call.method == "POST"] * 5:
        client.post("/bakrypt" + path.replace("<uuid:transaction>", UUID), data=b"x")
        assert client.get("/bakrypt/receipts/").status_code == 200
    response = client.post("/bakrypt/v1/files/", data=b"x")
    assert (response.status_code, response.get_json()["error"]) == (429, "too_many_requests")
    assert int(response.headers["Retry-After"]) > 0
    assert client.get("/bakrypt/receipts/").status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_snippet_that_looks_a_transaction_up(sandbox: Sandbox, bakrypt: BakryptClient) -> None:
    """It prints a transaction of the account."""
    headers = {"Authorization": f"Bearer {bakrypt.exchange()['access_token']}"}
    made = requests.post(
        f"{sandbox.url}/v1/assets/", json=[{"name": "Gold"}], headers=headers, timeout=10
    ).json()
    (snippet,) = snippets(PAGE, "sh")
    command = snippet.replace("https://testnet.bakrypt.io", sandbox.url)
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = {"PATH": programs, "PYTHONPATH": str(ROOT), "FLASK_APP": "tests/api_app.py"}
    result = subprocess.run(
        ["/bin/bash", "-c", command.replace(UUID, made[0]["transaction"])],
        env={**os.environ, **sandbox.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert made[0]["transaction"] in result.stdout, result.stderr
