"""The tests of `docs/testing.md` are a suite that passes."""

import subprocess
import sys
from pathlib import Path

from documents import rows, snippets

from bakrypt_proxy.sandbox import Sandbox

PAGE = "docs/testing.md"


def test_the_snippets_pass(tmp_path: Path) -> None:
    """As files of their own, each with its own imports."""
    for number, snippet in enumerate(snippets(PAGE, "python")):
        (tmp_path / f"test_{number}.py").write_text(snippet)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1].startswith("4 passed")


def test_the_members_exist(sandbox: Sandbox) -> None:
    """Each row of the table is a member of a sandbox."""
    names = [cells[0].strip("`").partition("(")[0] for cells in rows(PAGE, "`")]
    assert len(names) > 5
    for name in names:
        first, _, rest = name.partition(".")
        assert hasattr(sandbox, first)
        assert not rest or hasattr(sandbox.store, rest)
