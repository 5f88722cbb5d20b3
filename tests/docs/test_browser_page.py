"""`docs/browser.md`: the way without a token, as its snippets show it."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from browsing import browser, needs_chromium
from conftest import serve
from documents import read, rows, snippets
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser

from bakrypt_proxy import create_api_blueprint
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.web.api import CALLS

__all__ = ["browser"]  # a fixture is used by its name

PAGE = "docs/browser.md"
(PLAIN,) = snippets(PAGE, "python")
CALL, RELOAD, UPLOAD, *_ = snippets(PAGE, "js")
NODE = shutil.which("node")
# A browser keeps cookies and resolves paths against its page. Node does neither.
BROWSER = """
const jar = new Map();
const fetchWithoutCookies = globalThis.fetch;
globalThis.fetch = async (path, options = {}) => {
  const headers = { ...options.headers, Cookie: [...jar].map((pair) => pair.join("=")).join("; ") };
  const response = await fetchWithoutCookies(ADDRESS + path, { ...options, headers });
  for (const line of response.headers.getSetCookie()) jar.set(...line.split(";")[0].split("="));
  return response;
};
"""


def host(sandbox: Sandbox) -> Flask:
    """An app of a host's, with the sandbox as its bakrypt."""
    app = Flask("host")
    app.config.from_mapping(sandbox.environ, SECRET_KEY="planted")
    return app


def transaction_of(client: FlaskClient) -> str:
    """Make an asset and return its transaction."""
    response = client.post("/bakrypt/v1/assets/", json=[{"name": "Gold"}])
    return str(response.get_json()[0]["transaction"])


def status_of(client: FlaskClient, transaction: str) -> int:
    """Ask for a transaction."""
    return client.get(f"/bakrypt/v1/transactions/{transaction}/").status_code


def test_the_calls_are_those_of_the_blueprint() -> None:
    """Each row of the table by name, method and path, and whether it is off by default."""
    shown = {
        (cells[0].strip("`"), cells[1].strip("`"), "off by default" in cells[2])
        for name in (call.name for call in CALLS)
        for cells in rows(PAGE, f"`{name}` |")
    }
    assert shown == {
        (
            call.name,
            f"{call.method} /bakrypt{call.path.replace('<uuid:transaction>', '<uuid>')}",
            call.name in {"mint", "refund"},
        )
        for call in CALLS
    }


def test_the_other_routes_exist(sandbox: Sandbox) -> None:
    """Those without a call's name, too."""
    app = host(sandbox)
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    listed = set(re.findall(r"^\| \| `GET (/bakrypt/\S+)`", read(PAGE), re.MULTILINE))
    assert listed == {"/bakrypt/receipts/", "/bakrypt/passthrough.js", "/bakrypt/openapi.json"}
    assert listed <= {rule.rule for rule in app.url_map.iter_rules()}


def test_the_snippet_that_registers(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maker of a transaction reaches it, another browser does not."""
    for name, value in sandbox.environ.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(PLAIN, names)  # noqa: S102 - our own page
    maker, other = names["app"].test_client(), names["app"].test_client()
    transaction = transaction_of(maker)
    assert [status_of(maker, transaction), status_of(other, transaction)] == [200, 404]


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_the_snippets_of_plain_fetch(sandbox: Sandbox, tmp_path: Path) -> None:
    """They make an asset, and find its invoice again after a reload."""
    app = host(sandbox)
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    with serve(app) as url:
        script = tmp_path / "snippet.mjs"
        shown = "console.log(status, deposit_address, invoices.length, invoices[0].uuid)"
        code = [BROWSER.replace("ADDRESS", repr(url)), CALL, RELOAD, UPLOAD, shown]
        script.write_text("\n".join(code))
        assert NODE is not None
        result = subprocess.run(
            [NODE, str(script)], capture_output=True, text=True, timeout=30, check=False
        )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"waiting addr_test1_\w+ 1 [0-9a-f-]{36}\n", result.stdout)


@pytest.mark.parametrize("megabytes", [pytest.param(2, marks=needs_chromium)])
def test_the_snippet_of_an_upload(sandbox: Sandbox, browser: Browser, megabytes: int) -> None:
    """It tells the progress, sends a file again whose token was dead, and says what is wrong."""
    app = host(sandbox)
    app.config["BAKRYPT_MAX_UPLOAD"] = "3 MiB"
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    send = """async (size) => {
        const seen = [];
        const file = new File([new Uint8Array(size)], "cat.png", { type: "image/png" });
        const answer = await upload(file, (share) => seen.push(share)).catch(String);
        return [answer.ipfs ?? answer, seen.at(-1)];
    }"""
    with serve(app) as url:
        page = browser.new_page()
        page.goto(f"{url}/bakrypt/openapi.json")
        page.add_script_tag(content=UPLOAD)
        first, _ = page.evaluate(send, 1000)
        sandbox.revoke()
        again, share = page.evaluate(send, megabytes * 10**6)
        refused, _ = page.evaluate(send, 2 * megabytes * 10**6)
        page.close()
    assert (first[:7], again[:7], share) == ("ipfs://", "ipfs://", 1)
    assert sandbox.calls["/v1/files/"] == 3  # one of them with a dead token
    assert refused == "Error: a file may have at most 3145728 bytes"


@pytest.mark.parametrize("status", [400, 403, 404, 413, 429, 500, 503])
def test_each_error_is_in_the_page_of_errors(status: int) -> None:
    """With the same code."""
    section = read(PAGE).partition("### Errors without a token")[2].partition("\n### ")[0]
    (code,) = re.findall(rf"^\| {status} \| (`\w+`) ", section, re.MULTILINE)
    assert code in {cells[1] for cells in rows("docs/errors.md", str(status))}
