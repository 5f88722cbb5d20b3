"""One processor for each worker, by the processor affinity of Linux."""

import multiprocessing
import os
from contextlib import suppress


class Pinning:
    """Pins each worker to the least-used processor.

    The parent moves there before it forks, and the child inherits the affinity.
    """

    def __init__(self) -> None:
        self._ids = os.sched_getaffinity(0)
        self._parent = os.getpid()

    def install(self, workers: int) -> None:
        """Pin the workers that are forked from now on, if there are as many as processors."""
        if workers == len(self._ids):
            os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork)

    def _before_fork(self) -> None:
        if os.getpid() == self._parent:  # not a worker that forks for the app
            os.sched_setaffinity(0, {self._choose()})

    def _after_fork(self) -> None:
        if os.getpid() == self._parent:
            os.sched_setaffinity(0, self._ids)

    def _choose(self) -> int:
        """Return the processor with the fewest workers.

        Among equals it is the one with the oldest worker, which ends next when granian reloads.
        """
        workers = sorted(worker.pid or 0 for worker in multiprocessing.active_children())
        taken: dict[int, list[int]] = {processor: [] for processor in sorted(self._ids)}
        for worker in workers:
            with suppress(ProcessLookupError):
                for processor in os.sched_getaffinity(worker) & self._ids:
                    taken[processor].append(worker)
        return min(taken, key=lambda processor: (len(taken[processor]), taken[processor]))
