"""npm packages that tests run in a browser or as tools. They are installed once for all tests."""

import shutil
import subprocess
from pathlib import Path

import pytest

NPM = shutil.which("npm")
needs_npm = [
    pytest.mark.slow,
    pytest.mark.skipif(NPM is None, reason="npm is not installed"),
    pytest.mark.timeout(180),  # the download may be slow
]
_WANTED = [
    "@hey-api/openapi-ts@0.95",
    "axe-core@4",
    "bakrypt-launchpad@0.0.1",
    "esbuild@0.25",
    "typescript@5",
]


def npm(folder: Path, *command: str) -> str:
    """Run npm in a folder and return what it prints."""
    assert NPM is not None
    return subprocess.run(
        [NPM, *command], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `node_modules` contains the packages."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "package.json").write_text("{}")
    npm(folder, "install", "--silent", "--no-audit", "--no-fund", *_WANTED)
    return folder
