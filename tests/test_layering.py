"""Imports go one way only, as the rooms are drawn here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bakrypt_proxy

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bakrypt_proxy"

# From the bottom up. A room imports from itself and from the rooms above its own row in this list.
ROOMS = ["types", "errors", "settings", "telemetry", "upstream", "tokens", "account", "cli", "web"]
ROOMS += ["__main__"]
PRIVATE = {"_parsers": "settings"}  # a module that belongs to a room
# These import nothing of ours: they stand in for bakrypt, for the developer of a page, for granian.
APART = ["browser", "demo", "sandbox", "server"]
FIXTURE = "testing"  # it imports the sandbox only
WITHOUT_FLASK = ["types", "errors", "settings", "telemetry", "upstream", "tokens", "account"]
OF_FLASK = {"flask", "flask_cors", "werkzeug", "click", "oauthlib"}
FILES = sorted(PACKAGE.rglob("*.py"))
# What `app.py` and a host may import.
PUBLIC_MODULES = {
    "bakrypt_proxy",
    "bakrypt_proxy.demo",
    "bakrypt_proxy.sandbox",
    "bakrypt_proxy.tokens.redis_connection",
    "bakrypt_proxy.web.metrics",
}


def room_of(module: tuple[str, ...]) -> str:
    """The room of a module, which is given by its names below the package."""
    return PRIVATE.get(module[0], module[0])


def imports(path: Path) -> set[tuple[str, ...]]:
    """The names of the modules that a file imports, in full."""
    package = path.parent.relative_to(ROOT).parts
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = (*start, *(node.module.split(".") if node.module else ()))
            # `from . import x` imports a module, `from .y import x` a name of one.
            found |= {module} if node.module else set()
            found |= {(*module, alias.name) for alias in node.names if not node.module}
    return found


def own_imports(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, below the package."""
    found = {name[1:] for name in imports(path) if name[0] == "bakrypt_proxy"}
    return {name for name in found if name}


def module_of(path: Path) -> tuple[str, ...]:
    """A file's module below the package; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


@pytest.mark.parametrize("path", [*FILES, ROOT / "app.py"], ids=lambda path: path.name)
def test_nothing_is_longer_than_a_newcomer_reads(path: Path) -> None:
    """A function has at most 45 lines, a class less than 150."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= (149 if isinstance(node, ast.ClassDef) else 45), node.name


def test_every_room_is_in_the_list() -> None:
    """A new room finds its place there first."""
    rooms = {room_of(module) for path in FILES if (module := module_of(path))}
    assert rooms | {"browser"} == {*ROOMS, *APART, FIXTURE}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    """No room knows one above it; only the commands and the fixture may start the sandbox."""
    module = module_of(path)
    if not module:
        return  # the package's table of contents
    room = room_of(module)
    allowed = {room} if room in {*APART, FIXTURE} else set(ROOMS[: ROOMS.index(room) + 1])
    if room in {"cli", FIXTURE}:
        allowed.add("sandbox")
    assert {room_of(name) for name in own_imports(path)} <= allowed


def test_no_import_runs_in_a_circle() -> None:
    """Also not within a room."""
    edges = {module_of(path): own_imports(path) for path in FILES if module_of(path)}
    modules = set(edges)
    for module, names in edges.items():
        edges[module] = {name for name in names if name in modules and name != module}
    while edges:
        free = {module for module, names in edges.items() if not names & set(edges)}
        assert free, f"a circle: {sorted(edges)}"
        edges = {module: names for module, names in edges.items() if module not in free}


@pytest.mark.parametrize("room", WITHOUT_FLASK)
def test_the_client_is_free_of_flask(room: str) -> None:
    """It works where there is no app."""
    paths = [path for path in FILES if (module := module_of(path)) and room_of(module) == room]
    assert paths
    for path in paths:
        assert not {name[0] for name in imports(path)} & OF_FLASK, path


def test_the_app_imports_only_public_modules() -> None:
    """What a host may import is enough for our own app."""
    found = {".".join(name) for name in imports(ROOT / "app.py") if name[0] == "bakrypt_proxy"}
    assert found == PUBLIC_MODULES


def test_importing_the_package_loads_no_extra() -> None:
    """Neither an extra nor a server is needed to register a blueprint."""
    code = "import sys, bakrypt_proxy; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    extras = {"oauthlib", "redis", "cryptography", "prometheus_client", "granian", "opentelemetry"}
    assert not {*extras, "bakrypt_proxy.sandbox", "bakrypt_proxy.demo"} & set(result.stdout.split())


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
        "JsonFormatter",
        "Settings",
        "SettingsError",
        "UnavailableError",
        "UpstreamFailedError",
        "UpstreamRefusedError",
        "add_redis_probe",
        "create_api_blueprint",
        "create_blueprint",
        "is_password_attempt",
        "read_settings",
        "readiness_problems",
        "render_http_error",
    ]
