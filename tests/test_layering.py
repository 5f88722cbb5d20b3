"""Imports go downward only, as the layers are drawn here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bakrypt_proxy

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bakrypt_proxy"

# From the top down. A module imports from layers below its own, never from its own or from above.
LAYERS = [
    {"__init__"},
    {"blueprint", "metrics"},
    {"cli"},
    {"registration"},
    {"gate", "parameters", "client", "fleet"},
    {"shared_token"},
    {"observation", "replies", "transport"},
    {"connection"},
    {"settings"},
    {"errors", "json_log"},
    {"types"},
]
APART = {"sandbox", "demo", "server"}  # they import nothing of ours
WITHOUT_FLASK = {
    "client",
    "fleet",
    "shared_token",
    "replies",
    "transport",
    "connection",
    "settings",
    "errors",
    "types",
}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in APART)
FILES_APART = [
    path
    for name in sorted(APART)
    for path in [*PACKAGE.glob(f"{name}.py"), *PACKAGE.glob(f"{name}/*.py")]
]


def imports(path: Path) -> set[str]:
    """The names of the modules that a file imports, `.` before those of its own package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def layer(module: str) -> int:
    """How far down a module stands."""
    return next(depth for depth, modules in enumerate(LAYERS) if module in modules)


def test_every_module_has_a_layer() -> None:
    """A new module finds its place in the drawing first."""
    assert set(MODULES) == set().union(*LAYERS)
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == APART - {"server"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward(module: str) -> None:
    """Nothing knows what stands above it; the command alone may start the sandbox."""
    own = {name.lstrip(".") for name in imports(PACKAGE / f"{module}.py") if name.startswith(".")}
    allowed = set().union(*LAYERS[layer(module) + 1 :]) | (
        {"sandbox"} if module == "cli" else set()
    )
    assert own <= allowed


@pytest.mark.parametrize("module", sorted(WITHOUT_FLASK))
def test_the_client_is_free_of_flask(module: str) -> None:
    """It works where there is no app."""
    roots = {name.partition(".")[0] for name in imports(PACKAGE / f"{module}.py")}
    assert not roots & {"flask", "flask_cors", "werkzeug", "click", "oauthlib"}


@pytest.mark.parametrize("path", FILES_APART, ids=str)
def test_what_stands_apart_imports_nothing_of_ours(path: Path) -> None:
    """It stands for somebody else: bakrypt, the SPA's developer, and who runs the server."""
    siblings = {f".{sibling.stem}" for sibling in path.parent.glob("*.py")}
    assert {name for name in imports(path) if name.startswith((".", "bakrypt_proxy"))} <= siblings


def test_importing_the_package_loads_no_sandbox() -> None:
    """Oauthlib is an extra, and neither it nor a server is needed to register a blueprint."""
    code = "import sys, bakrypt_proxy; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {
        "oauthlib",
        "redis",
        "cryptography",
        "bakrypt_proxy.sandbox",
        "bakrypt_proxy.demo",
    } & set(loaded)


def test_the_public_names() -> None:
    """What others may rely on."""
    assert bakrypt_proxy.__all__ == [
        "AccessDeniedError",
        "AccessToken",
        "BakryptClient",
        "BakryptError",
        "CredentialsRefusedError",
        "ErrorResponse",
        "InvalidRequestError",
        "Settings",
        "SettingsError",
        "UpstreamFailedError",
        "UpstreamRefusedError",
        "create_blueprint",
    ]
