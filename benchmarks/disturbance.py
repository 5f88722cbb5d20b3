"""Whether the machine was the benchmark's own: what others used between the scenarios, and what a hypervisor took."""

import time
from pathlib import Path

_IDLE, _WAITING, _STOLEN = 3, 4, 7  # columns of /proc/stat, see proc(5)


class Disturbance:
    """Watches the processors from its making on."""

    def __init__(self) -> None:
        self._start = _ticks()
        self._busiest = 0.0

    def look(self) -> None:
        """Note how busy the processors are for half a second, in which nothing of the benchmark's runs."""
        before = _ticks()
        time.sleep(0.5)
        past = [now - then for now, then in zip(_ticks(), before, strict=True)]
        self._busiest = max(self._busiest, 1 - (past[_IDLE] + past[_WAITING]) / max(sum(past), 1))

    def row(self) -> tuple[str, str]:
        """Return what it saw, in words."""
        past = [now - then for now, then in zip(_ticks(), self._start, strict=True)]
        stolen = past[_STOLEN] / max(sum(past) - past[_IDLE] - past[_WAITING], 1)
        said = f"{self._busiest:.0%} of the processors busy before a scenario, {stolen:.1%} of their work stolen"
        return "disturbance", said


def _ticks() -> list[int]:
    """Return the first eight columns of all processors: the guests' are counted among them already."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
