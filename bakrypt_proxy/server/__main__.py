"""granian, the production server, with its workers kept small and out of each other's way.

`python -m bakrypt_proxy.server --factory app:create_app` serves any WSGI app. It takes all options of `granian`, with
some other defaults. What it does besides, on Linux:

- The app's module is imported once, before the workers are forked, so that they share the memory that this takes; not
  with `--reload` and `--env-files`, and not if it is given as a path: then each worker imports it, as granian has it.
- Where there are as many workers as processors, each has one to itself: a worker runs Python in one thread at a time,
  and to hand over to the next costs much less on the same processor.
"""

import gc
import importlib
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import click

from .pinning import Pinning

_DEFAULTS = {
    "interface": "wsgi",
    "http": "1",
    "websockets": False,  # which WSGI does not know
    "blocking_threads": 256,  # of each worker; granian starts as many as there is work for
    "respawn_failed_workers": True,
    "workers_kill_timeout": 15,  # seconds; in granian 2.8 a worker that has answered everything does not always end
}
# Of granian's allocator: what it would keep for each thread is a third of the memory of a worker with 250 of them.
_ALLOCATOR = ("_RJEM_MALLOC_CONF", "tcache:false")
# Seconds until a thread takes the interpreter from another by force. A request needs it for a millisecond; with
# Python's 5 ms, the hundreds that come back from bakrypt at once take it from each other, and half the time is lost.
_SWITCH_INTERVAL = 0.05


def main() -> None:
    """Read the command line, as granian does, and serve until a signal ends it."""
    os.environ.setdefault(*_ALLOCATOR)  # it is read when granian is imported
    from granian.cli import cli  # noqa: PLC0415

    def serve(**options: Any) -> None:
        if sys.platform == "linux":
            _prepare(**options)
        click.get_current_context().invoke(cli, **options)

    about = "Serve a WSGI app with granian: with its options, and some other defaults."
    command = click.Command(
        "python -m bakrypt_proxy.server", params=cli.params, callback=serve, help=about
    )
    command(auto_envvar_prefix="GRANIAN", default_map=_DEFAULTS)


def _prepare(
    *, app: str, workers: int, working_dir: Path | None, reload: bool, env_files: Any, **_: Any
) -> None:
    """Do in this process what its workers are to find done when they are forked."""
    multiprocessing.set_start_method("fork")  # Python's own default up to 3.13
    sys.setswitchinterval(_SWITCH_INTERVAL)
    module = app.partition(":")[0]
    if not (reload or env_files or "/" in module or module.endswith(".py")):
        sys.path.insert(0, str(working_dir or Path.cwd()))
        _import(module)
    gc.collect()
    gc.freeze()  # a collection in a worker would write to the pages that it shares
    Pinning().install(workers)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise click.UsageError(f"there is no module {name} here") from None


if __name__ == "__main__":
    main()
