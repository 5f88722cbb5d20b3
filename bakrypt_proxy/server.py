"""granian, the production server, with its workers kept out of each other's way.

`python -m bakrypt_proxy.server --factory app:create_app` takes all options of `granian`; for some it has defaults of
its own. It serves any WSGI app. What it does besides, on Linux:

- The app's module is imported once, before the workers are forked, so that they share what it takes of memory.
- Where there are as many workers as processors, each has one to itself: it runs Python in one thread at a time, and to
  hand over to the next costs a third less on the same processor.
"""

import fcntl
import gc
import importlib
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import click
from granian.cli import cli

_DEFAULTS = {
    "interface": "wsgi",
    "http": "1",
    "blocking_threads": 256,  # of each worker; granian starts as many as there is work for
    "respawn_failed_workers": True,
    "workers_kill_timeout": 15,  # seconds; in granian 2.8 a worker that has answered everything does not always end
}
# Seconds until a thread takes the interpreter from another by force. A request needs it for a millisecond; with
# Python's 5 ms, the hundreds that come back from bakrypt at once take it from each other, and half the time is lost.
_SWITCH_INTERVAL = 0.05
_COUNTED = 4  # workers of a processor; while granian reloads, there are two
_HELP = "Serve a WSGI app with granian: its options, some other defaults, and a processor for each worker."


class Processors:
    """The processors that this process may use, and which worker runs on which.

    A worker holds a lock on one of a processor's bytes in a file. It ends with the worker, however that ends.
    """

    def __init__(self) -> None:
        self._ids = sorted(os.sched_getaffinity(0))
        self._file = os.memfd_create("processors")
        self._parent = os.getpid()

    def __len__(self) -> int:
        return len(self._ids)

    def take_one(self) -> None:
        """Move this worker to the processor that has the fewest."""
        if os.getppid() != self._parent:  # the app of a worker has forked
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)  # one worker after the other
        free = {processor: self._lock_free_places(number) for number, processor in enumerate(self._ids)}
        chosen = max(free, key=lambda processor: len(free[processor]))
        free[chosen] = free[chosen][1:]
        for place in [0, *(place for places in free.values() for place in places)]:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        os.sched_setaffinity(0, {chosen})

    def _lock_free_places(self, number: int) -> list[int]:
        first = 1 + number * _COUNTED
        return [place for place in range(first, first + _COUNTED) if self._lock(place)]

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            return False
        return True


def serve(**options: Any) -> None:
    """Prepare this process for the workers that granian forks from it, and start granian."""
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork")  # Python's default up to 3.13
        sys.setswitchinterval(_SWITCH_INTERVAL)
        sys.path.insert(0, str(options["working_dir"] or Path.cwd()))
        _import(options["app"].partition(":")[0])
        gc.collect()
        gc.freeze()  # what is there now stays, and a collection in a worker must not write to its pages
        processors = Processors()
        if options["workers"] == len(processors):
            os.register_at_fork(after_in_child=processors.take_one)
    click.get_current_context().invoke(cli, **options)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise click.UsageError(f"there is no module {name} here") from None


def main() -> None:
    """Read the command line, as granian does."""
    command = click.Command("python -m bakrypt_proxy.server", params=cli.params, callback=serve, help=_HELP)
    command(auto_envvar_prefix="GRANIAN", default_map=_DEFAULTS)


if __name__ == "__main__":
    main()
