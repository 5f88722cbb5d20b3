"""Write the results of the benchmark as Markdown, with the versions and the machine."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from contestants import EXPRESS, program
from scenarios import Goal, Round, Scenario

_NOTES = """\
Each table compares servers on one machine, which were measured one after the other in each round.
Only the ratios mean something; the absolute figures depend on the machine. A ratio is computed in
each round. The table shows the median of the rounds, the smallest and the largest.

- Express is [express/app.js](express/app.js), which follows bakrypt's documentation, with
  keep-alive connections.
- Ours is the blueprint in the smallest app ([ours.py](ours.py)). `app.py` has a rate limit that
  would refuse wrk's password attempts. It would also log each successful call; ours and Express
  log none.
- nginx forwards each request and adds the header. It cannot turn JSON into a form, so its `token`
  requests contain the form that the upstream expects. The same is sent where the upstream is
  measured directly.
- The bare Flask view ([bare.py](bare.py)) returns a constant as long as the response of an
  exchange. It runs on the same server as ours,
  [bakrypt_proxy.server](../bakrypt_proxy/server/__main__.py), which pins each worker to a
  processor. Calls to the API send a receipt to ours, which checks it and reads bakrypt's response;
  Express, with http-proxy-middleware, and nginx add a token and pass on what comes. Node and nginx
  run as they start by default. [PROFILE.md](PROFILE.md) also has a figure for Express with pinned
  workers.
- Memory is the proportional set size (PSS): a page that N processes share counts 1/N in each.
"""


@dataclass(frozen=True)
class Finding:
    """A goal and its ratio in each round."""

    goal: Goal
    ratios: Sequence[float]

    @property
    def middle(self) -> float:
        """The median of the rounds, which decides whether the goal is met."""
        return median(self.ratios)

    @property
    def is_met(self) -> bool:
        """Whether the goal is met."""
        return self.goal.is_met_by(self.middle)


def find(scenario: Scenario, rounds: Sequence[Round]) -> list[Finding]:
    """Compute the ratio of each goal of a scenario in each round."""
    return [Finding(goal, [goal.ratio(figures) for figures in rounds]) for goal in scenario.goals]


def ratio_table(findings: Iterable[Finding]) -> str:
    """Return a table of the ratios and the goals."""
    rows = []
    for finding in findings:
        goal = finding.goal
        limit = f"{'at least' if goal.at_least else 'at most'} {goal.limit:g}"
        spread = f"{min(finding.ratios):.3g} to {max(finding.ratios):.3g}"
        verdict = "met" if finding.is_met else "**not met**"
        rows.append((goal.text, f"{finding.middle:.3g}", spread, limit, verdict))
    return _table(("ratio", "median", "spread", "goal", ""), rows)


def median_table(rounds: Sequence[Round]) -> str:
    """Return a table with the median of each figure of each server."""
    columns = list(next(iter(rounds[0].values())))
    rows = [
        (name, *(_median([figures[name][column] for figures in rounds]) for column in columns))
        for name in rounds[0]
    ]
    return _table(("", *columns), rows)


def _median(values: Sequence[float]) -> str:
    value = median(values)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(
    run: str,
    results: Mapping[str, tuple[Scenario, list[Round]]],
    findings: Iterable[Finding],
    failures: Sequence[str],
    surroundings: Iterable[tuple[str, str]],
) -> str:
    """Return the text of `RESULTS.md`.

    :param run: the length of the run and our server's settings, in a few words.
    :param failures: a description of each failed measurement.
    :param surroundings: rows with the versions and the machine.
    """
    failed = [f"- {failure}" for failure in failures]
    if failed:
        failed.insert(0, "**Requests failed in this run:**")
    tables = [f"### {each.title}\n\n{median_table(rounds)}" for each, rounds in results.values()]
    parts = [
        "# Measured against the documented handlers",
        f"`make bench` wrote this: {run}.",
        *failed,
        "![The ratios and the goals](results.svg)",
        ratio_table(findings),
        _NOTES.strip(),
        "## Medians of the rounds",
        *tables,
        "## Versions and machine",
        _table(("", ""), surroundings),
    ]
    return "\n\n".join(parts) + "\n"


def versions() -> list[tuple[str, str]]:
    """Return the versions of Python, of the packages and of the programs."""
    packages = ("flask", "werkzeug", "requests", "urllib3", "granian")
    found = [
        ("python", platform.python_version()),
        *((name, _installed(name)) for name in packages),
    ]
    found += [
        (name, _reported_version(program(name), flag))
        for name, flag in (("node", "-v"), ("nginx", "-v"), ("wrk", "-v"))
    ]
    for name in ("express", "axios", "http-proxy-middleware"):
        package = json.loads((EXPRESS / "node_modules" / name / "package.json").read_text())
        found.append((name, package["version"]))
    return found


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _reported_version(path: str, flag: str) -> str:
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False, timeout=10)
    found = re.search(r"\d+\.\d[\w.]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def machine() -> list[tuple[str, str]]:
    """Return a description of the machine, without its host name."""
    models = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        ("processor", models[0] if models else platform.machine()),
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("memory", f"{gibibytes:.0f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
    ]
