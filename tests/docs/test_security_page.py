"""The snippets of `docs/security.md` run as they stand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from documents import ROOT, snippets

from bakrypt_proxy import BakryptClient
from bakrypt_proxy.sandbox import Sandbox

PAGE = "docs/security.md"
UUID = "0d0d39e4-b979-40ed-a844-243693aab17f"


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
