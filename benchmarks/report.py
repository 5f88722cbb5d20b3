"""What the benchmark found: tables in Markdown, with the versions and the machine."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from contestants import EXPRESS, program
from scenarios import Goal, Round, Scenario

_SAID = """\
Every contestant of a table was driven once a round, in turn with the others, all on one machine: only the ratios say
anything. A ratio is taken in each round; what stands here is the median of the rounds, with the smallest and the
largest.

- Express is [express/app.js](express/app.js), written after bakrypt's documentation, with connections kept alive.
- Ours is the blueprint in the smallest app ([ours.py](ours.py)), not `app.py`: its rate limit would refuse wrk's
  password attempts. Neither it nor Express logs a call that went well; `app.py` would.
- nginx passes on what comes, with the header added. It makes no form of JSON, so at `token` it is sent the upstream's
  form, and so is the upstream where it is driven directly.
- The bare Flask view ([bare.py](bare.py)) returns a constant as long as an exchange's reply, on the same server as
  ours: [bakrypt_proxy.server](../bakrypt_proxy/server.py), which gives each worker a processor. Node and nginx are
  left to the system, as they start by themselves; [PROFILE.md](PROFILE.md) has Express with a processor for each, too.
- Memory is proportional (PSS): pages that several processes share are divided up among them.
"""


@dataclass(frozen=True)
class Finding:
    """A goal, and the ratio of each round."""

    goal: Goal
    ratios: Sequence[float]

    @property
    def middle(self) -> float:
        """The median, which is what counts."""
        return median(self.ratios)

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.goal.is_met_by(self.middle)


def find(scenario: Scenario, rounds: Sequence[Round]) -> list[Finding]:
    """Take the goals' ratios from a scenario's rounds."""
    return [Finding(goal, [goal.ratio(figures) for figures in rounds]) for goal in scenario.goals]


def ratio_table(findings: Iterable[Finding]) -> str:
    """Return the ratios and the goals."""
    rows = []
    for finding in findings:
        goal = finding.goal
        limit = f"{'at least' if goal.at_least else 'at most'} {goal.limit:g}"
        spread = f"{min(finding.ratios):.3g} to {max(finding.ratios):.3g}"
        rows.append(
            (
                goal.text,
                f"{finding.middle:.3g}",
                spread,
                limit,
                "met" if finding.is_met else "**not met**",
            )
        )
    return _table(("ratio", "median", "spread", "goal", ""), rows)


def median_table(rounds: Sequence[Round]) -> str:
    """Return the median of each figure of each contestant."""
    columns = list(next(iter(rounds[0].values())))
    rows = [
        (
            name,
            *(_number(median(figures[name][column] for figures in rounds)) for column in columns),
        )
        for name in rounds[0]
    ]
    return _table(("", *columns), rows)


def _number(value: float) -> str:
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
    """Return `RESULTS.md`. `run` says in a few words how it was run, `surroundings` what took part and where."""
    failed = (
        ["**Requests failed in this run:**", *(f"- {failure}" for failure in failures)]
        if failures
        else []
    )
    tables = [
        f"### {scenario.title}\n\n{median_table(rounds)}" for scenario, rounds in results.values()
    ]
    parts = [
        "# Measured against the documented handlers",
        f"`make bench` wrote this: {run}.",
        *failed,
        "![The ratios and the goals](results.svg)",
        ratio_table(findings),
        _SAID.strip(),
        "## Medians of the rounds",
        *tables,
        "## Versions and machine",
        _table(("", ""), surroundings),
    ]
    return "\n\n".join(parts) + "\n"


def versions() -> list[tuple[str, str]]:
    """Return the versions of all that took part."""
    packages = ("flask", "werkzeug", "requests", "urllib3", "granian")
    found = [
        ("python", platform.python_version()),
        *((name, _installed(name)) for name in packages),
    ]
    found += [
        (name, _said(program(name), flag))
        for name, flag in (("node", "-v"), ("nginx", "-v"), ("wrk", "-v"))
    ]
    for name in ("express", "axios"):
        package = json.loads((EXPRESS / "node_modules" / name / "package.json").read_text())
        found.append((name, package["version"]))
    return found


def _installed(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:  # its PackageNotFoundError is one
        return "not installed"


def _said(path: str, flag: str) -> str:
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False, timeout=10)
    found = re.search(r"\d+\.\d[\w.]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def machine() -> list[tuple[str, str]]:
    """Return what it ran on, without its name."""
    models = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        ("processor", models[0] if models else platform.machine()),
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("memory", f"{gibibytes:.0f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
    ]
