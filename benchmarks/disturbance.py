"""How much other work the machine did: its other processes, and other guests of a hypervisor."""

import time
from pathlib import Path

_IDLE, _WAITING, _STOLEN = 3, 4, 7  # columns of /proc/stat, see proc(5)


class Disturbance:
    """Measures the load that does not come from the benchmark."""

    def __init__(self) -> None:
        self._start = _ticks()
        self._busiest = 0.0

    def sample(self) -> None:
        """Measure for half a second how busy the processors are.

        Call it between two scenarios, while no server of the benchmark runs.
        """
        before = _ticks()
        time.sleep(0.5)
        past = [now - then for now, then in zip(_ticks(), before, strict=True)]
        self._busiest = max(self._busiest, 1 - (past[_IDLE] + past[_WAITING]) / max(sum(past), 1))

    def row(self) -> tuple[str, str]:
        """Return a row for the table of the machine: a label and a sentence."""
        past = [now - then for now, then in zip(_ticks(), self._start, strict=True)]
        stolen = past[_STOLEN] / max(sum(past) - past[_IDLE] - past[_WAITING], 1)
        busy = f"at most {self._busiest:.0%} of the processors busy before a scenario"
        return "disturbance", f"{busy}, {stolen:.1%} of their time taken by a hypervisor"


def _ticks() -> list[int]:
    """Return the first eight columns of all processors. The other two are included in these."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
