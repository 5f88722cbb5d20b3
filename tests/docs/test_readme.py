"""The README is short, and its snippets run as they stand."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import create_app, serve
from documents import ROOT, read, snippets
from flask import Flask

from bakrypt_proxy.sandbox import Sandbox

NODE = shutil.which("node")


def test_a_stranger_reads_it_in_five_minutes() -> None:
    """At most 130 lines and 1,100 words."""
    text = read("README.md")
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 1100


def test_what_it_spares_you_comes_early() -> None:
    """The table of differences before the first heading, the two commands right after it."""
    text = read("README.md")
    assert text.index("| the documented handlers |") < text.index("\n## ")
    assert text.index("make run") < text.index("make test") < 2500


def test_the_blueprint_snippet(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets in whom the session knows, and everybody where the page gets no token."""
    for name, value in {**sandbox.environ, "FLASK_SECRET_KEY": "a-secret-key"}.items():
        monkeypatch.setenv(name, value)
    (snippet,) = snippets("README.md", "python")
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(snippet, names)  # noqa: S102 - our own README
    app: Flask = names["app"]
    client = app.test_client()
    assert client.post("/auth/exchange/").status_code == 403
    with client.session_transaction() as session:
        session["user"] = "somebody"
    assert client.post("/auth/exchange/").status_code == 200
    assert client.get("/bakrypt/receipts/").get_json() == {"transactions": []}


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_the_page_snippet(sandbox: Sandbox, tmp_path: Path) -> None:
    """Run by Node, with its relative paths made whole."""
    (code,) = snippets("README.md", "js")
    with serve(create_app(sandbox.environ)) as url:
        script = tmp_path / "snippet.mjs"
        # A browser resolves a path against its page; Node has no page.
        whole = code.replace("fetch(path", f"fetch({url!r} + path")
        script.write_text(f"{whole}\nconsole.log(account.access_token, user.access_token)\n")
        assert NODE is not None
        result = subprocess.run(
            [NODE, str(script)], capture_output=True, text=True, timeout=30, check=False
        )
    assert result.returncode == 0, result.stderr
    owners = [sandbox.store.owner(token) for token in result.stdout.split()]
    assert owners == ["account", "alice"]


def test_the_module_snippet_is_about_the_module() -> None:
    """What it imports and calls is there; `tests/browser` runs the module itself."""
    (snippet,) = snippets("README.md", "html")
    code = (ROOT / "bakrypt_proxy" / "browser" / "bakrypt.js").read_text("utf-8")
    called = re.findall(r"session\.(\w+)\(", snippet)
    assert len(called) > 2
    for name in called:
        assert name == "addEventListener" or f"this.{name} = " in code


def test_the_routes_are_those_of_the_contract(sandbox: Sandbox) -> None:
    """Each route of the OpenAPI document, and those that serve files."""
    table = set(re.findall(r"^\| `(GET|POST) /auth(/\S+)`", read("README.md"), re.MULTILINE))
    app = create_app(sandbox.environ)
    paths = app.test_client().get("/auth/openapi.json").get_json()["paths"]
    routes = {(method.upper(), path) for path, item in paths.items() for method in item}
    assert table >= {(method, path) for method, path in routes if method in {"GET", "POST"}}
    for method, path in table:
        assert app.test_client().open(f"/auth{path}", method=method).status_code != 404
