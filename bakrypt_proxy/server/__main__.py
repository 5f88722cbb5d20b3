"""The production server: granian, with settings that suit many threads and forked workers.

`python -m bakrypt_proxy.server --factory app:create_app` serves any WSGI app. It accepts all
options of `granian`; some of them have another default. On Linux it also does this:

- It imports the app's module once, before it forks the workers, so that they share that memory.
  With `--reload`, with `--env-files`, and for an app that is given as a file path, each worker
  imports the module itself, as it does with granian.
- With as many workers as processors, it pins each worker to its own processor. A worker runs
  Python in one thread at a time, and a switch between threads costs much less on one processor.
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
    "websockets": False,  # not part of WSGI
    "blocking_threads": 256,  # the limit for each worker; granian starts threads on demand
    "respawn_failed_workers": True,
    # Seconds. In granian 2.8 a worker that has sent all its responses does not always exit.
    "workers_kill_timeout": 15,
}
# A setting of granian's allocator. Without it, the caches that the allocator keeps for each thread
# take a third of the memory of a worker with 250 threads.
_ALLOCATOR = ("_RJEM_MALLOC_CONF", "tcache:false")
# Seconds until a waiting thread forces another one to give up the interpreter. A request needs the
# interpreter for about a millisecond. With Python's default of 5 ms, the hundreds of threads whose
# responses from bakrypt arrive together interrupt each other, and half of the time is lost.
_SWITCH_INTERVAL = 0.05


def main() -> None:
    """Read granian's command line and serve until a signal stops the server.

    :raises click.UsageError: if the app's module does not exist.
    """
    os.environ.setdefault(*_ALLOCATOR)  # the allocator reads it when granian is imported
    from granian.cli import cli  # noqa: PLC0415

    def serve(**options: Any) -> None:
        if sys.platform == "linux":
            _prepare(**options)
        click.get_current_context().invoke(cli, **options)

    command = click.Command(
        "python -m bakrypt_proxy.server",
        params=cli.params,
        callback=serve,
        help="Serve a WSGI app with granian. Takes granian's options; some defaults differ.",
    )
    command(auto_envvar_prefix="GRANIAN", default_map=_DEFAULTS)


def _prepare(
    *, app: str, workers: int, working_dir: Path | None, reload: bool, env_files: Any, **_: Any
) -> None:
    """Prepare this process so that the forked workers inherit the result."""
    multiprocessing.set_start_method("fork")  # Python's own default up to 3.13
    sys.setswitchinterval(_SWITCH_INTERVAL)
    module = app.partition(":")[0]
    if not (reload or env_files or "/" in module or module.endswith(".py")):
        sys.path.insert(0, str(working_dir or Path.cwd()))
        _import(module)
    gc.collect()
    gc.freeze()  # otherwise a collection in a worker writes to the shared pages and copies them
    Pinning().install(workers)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # the module exists and fails to import another one
        raise click.UsageError(f"there is no module {name} here") from None


if __name__ == "__main__":
    main()
