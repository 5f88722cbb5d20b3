"""Pin each worker to one processor, with the processor affinity of Linux."""

import multiprocessing
import os
from contextlib import suppress


class Pinning:
    """Pins each worker to the least-used processor.

    The parent moves to that processor before it forks, and the child inherits the affinity.
    """

    def __init__(self) -> None:
        self._processors = os.sched_getaffinity(0)
        self._parent = os.getpid()

    def install(self, workers: int) -> None:
        """Pin all workers that this process forks from now on.

        Does nothing if the number of workers is not the number of processors.

        :param workers: how many workers the server runs.
        """
        if workers == len(self._processors):
            os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork)

    def _before_fork(self) -> None:
        if os.getpid() == self._parent:  # not a worker that forks for the app
            os.sched_setaffinity(0, {self._choose()})

    def _after_fork(self) -> None:
        if os.getpid() == self._parent:
            os.sched_setaffinity(0, self._processors)

    def _choose(self) -> int:
        """Return the processor with the fewest workers.

        If several have equally few, return the one with the oldest worker: when granian reloads,
        that worker ends next.
        """
        workers = sorted(worker.pid or 0 for worker in multiprocessing.active_children())
        pinned: dict[int, list[int]] = {processor: [] for processor in sorted(self._processors)}
        for worker in workers:
            with suppress(ProcessLookupError):
                for processor in os.sched_getaffinity(worker) & self._processors:
                    pinned[processor].append(worker)
        return min(pinned, key=lambda processor: (len(pinned[processor]), pinned[processor]))
