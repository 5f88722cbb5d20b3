"""A short run of `benchmarks/bench.py` with all its servers."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "benchmarks" / "bench.py"
PROGRAMS = ("wrk", "nginx", "node", "npm")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]


def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the benchmark. `environ` replaces the whole environment."""
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(
        command,
        env=environ or None,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=BENCH.parent,
    )


@pytest.mark.slow
@pytest.mark.timeout(110)
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_a_short_benchmark(tmp_path: Path) -> None:
    """No request fails, and the output and the files contain the ratio of each goal."""
    only = ["--only", "exchange", "--only", "call"]
    done = run(*only, "--rounds", "1", "--seconds", "1", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No request failed." in done.stdout
    results = (tmp_path / "RESULTS.md").read_text()
    for goal in (
        "against the Express cluster",
        "against the bare Flask view",
        "against Express with",
    ):
        row = next(line for line in done.stdout.splitlines() if goal in line)
        assert float(row.split("|")[2]) > 0
        assert row in results
    assert (tmp_path / "results.svg").read_text().count("<rect") == 3


def test_a_missing_program(tmp_path: Path) -> None:
    """Without wrk the benchmark says what to install and starts no server."""
    done = run("--output", str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "The benchmark needs wrk: install it, with `apt install wrk` on Debian."
    )
