"""The README's snippets run as they stand."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import create_app, serve
from flask import Flask

from app import create_app as create_our_app
from bakrypt_proxy import Settings
from bakrypt_proxy.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = ["README.md", "docs/deploy.md", "docs/security.md", "examples/README.md"]
LINKS = [
    (name, link)
    for name in DOCUMENTS
    for link in re.findall(r"""(?:\]\(|src(?:set)?=")(?!https?:)([^)"#]+)[)"]""", (ROOT / name).read_text("utf-8"))
]
NODE = shutil.which("node")


def snippets(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def environ(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings for the sandbox in the environment, and the secret files that a snippet names."""
    for name, value in sandbox.environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "secrets").mkdir()
    for network in ("mainnet", "testnet"):
        (tmp_path / "secrets" / network).write_text("secret\n")
    monkeypatch.chdir(tmp_path)


def test_the_blueprint_snippet(environ: None, sandbox: Sandbox) -> None:
    """It lets in whom the session knows."""
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(snippets("python")[0], names)  # noqa: S102 - our own README
    app: Flask = names["app"]
    client = app.test_client()
    assert client.post("/auth/exchange/").status_code == 403
    with client.session_transaction() as session:
        session["user"] = "somebody"
    assert client.post("/auth/exchange/").status_code == 200


def test_the_two_networks_snippet(environ: None) -> None:
    """Both are registered, and closed."""
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(snippets("python")[1], names)  # noqa: S102 - our own README
    client = names["app"].test_client()
    assert client.post("/mainnet/exchange/").status_code == client.post("/testnet/exchange/").status_code == 403


def test_the_client_snippet(environ: None, sandbox: Sandbox) -> None:
    """It ends with a token of alice's."""
    names: dict[str, Any] = {}
    exec(snippets("python")[2], names)  # noqa: S102 - our own README
    assert sandbox.store.owner(names["token"]["access_token"]) == "alice"
    assert len(snippets("python")) == 3


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_the_page_snippet(sandbox: Sandbox, tmp_path: Path) -> None:
    """Run by Node, with its relative paths made whole."""
    (code,) = snippets("js")
    with serve(create_app(sandbox.environ)) as url:
        script = tmp_path / "snippet.mjs"
        # A browser resolves a path against its page; Node has no page.
        script.write_text(f"{code.replace('fetch(path', f'fetch({url!r} + path')}\nconsole.log(renewed.access_token)\n")
        assert NODE is not None
        result = subprocess.run([NODE, str(script)], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr
    assert sandbox.store.owner(result.stdout.strip()) == "alice"


def test_the_module_snippet_is_about_the_module() -> None:
    """What it imports and calls is there; `tests/browser` runs the module itself."""
    (snippet,) = snippets("html")
    code = (ROOT / "bakrypt_proxy" / "browser" / "bakrypt.js").read_text("utf-8")
    for name in re.findall(r"session\.(\w+)\(", snippet):
        assert name == "addEventListener" or f"this.{name} = " in code


def test_the_settings_table_is_complete() -> None:
    """Each setting that is read stands in the table, and no other."""
    source = (ROOT / "bakrypt_proxy" / "settings.py").read_text("utf-8")
    read = set(re.findall(r'"(BAKRYPT_\w+)"', source)) | {"BAKRYPT_TOKEN_FILE", "BAKRYPT_CLIENT_SECRET_FILE"}
    rows = [line for line in README.splitlines() if line.startswith("| `BAKRYPT_")]
    assert {name for row in rows for name in re.findall(r"`(BAKRYPT_\w+)`", row.split("|")[1])} == read


def test_the_commands_exist() -> None:
    """Each line of the commands is one that `flask bakrypt` knows."""
    app = create_our_app({"BAKRYPT_NETWORK": "testnet"})
    listed = set(re.findall(r"^flask bakrypt (\w+)", README, re.MULTILINE))
    assert listed == set(app.cli.commands["bakrypt"].commands)  # type: ignore[attr-defined]


def test_the_example_of_the_environment_is_right() -> None:
    """.env.example is read without a problem, is closed, and names settings that exist."""
    from dotenv import dotenv_values  # noqa: PLC0415

    values = dotenv_values(ROOT / ".env.example")
    assert Settings.from_mapping(values) == Settings()
    assert "BAKRYPT_EXCHANGE_PUBLIC" not in values


@pytest.mark.parametrize(("document", "link"), LINKS)
def test_links_lead_somewhere(document: str, link: str) -> None:
    """To files of this repository; on the project's page they are read from their document's folder."""
    assert (ROOT / document).parent.joinpath(link).exists()
