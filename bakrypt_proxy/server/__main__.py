"""The production server: granian, with settings that suit many threads and forked workers.

`python -m bakrypt_proxy.server --factory app:create_app` serves any WSGI app. It accepts all
options of `granian`; some of them have another default. It takes our settings out of the requests'
WSGI environ, where granian puts the whole environment. On Linux it also does this:

- It imports the app's module once, before it forks the workers, so that they share that memory.
  With `--reload`, with `--env-files`, and for an app that is given as a file path, each worker
  imports the module itself, as it does with granian.
- With as many workers as processors, it pins each worker to its own processor. A worker runs
  Python in one thread at a time, and a switch between threads costs much less on one processor.
"""

import os
import sys
from pathlib import Path
from typing import Any

import click

_DEFAULTS = {
    "interface": "wsgi",
    "http": "1",
    "websockets": False,  # not part of WSGI
    "blocking_threads": 256,  # the limit for each worker; granian starts threads on demand
    "respawn_failed_workers": True,
    # Seconds. A request body that stalls holds a worker for ever. `docker stop` waits for 10.
    "workers_kill_timeout": 8,
}
_JSON_LOGGING = Path(__file__).with_name("logging.json")
# A setting of granian's allocator. Without it, the caches that the allocator keeps for each thread
# take a third of the memory of a worker with 250 threads.
_ALLOCATOR = ("_RJEM_MALLOC_CONF", "tcache:false")
_HELP = """Serve a WSGI app with granian. Takes granian's options; some defaults differ.

Put it behind a proxy that buffers requests, such as nginx. A client that sends its request body
slowly, or never ends it, holds a thread and a connection of this server. No WSGI server or app ends
that. Without such a proxy, a few hundred slow clients stop all responses. See docs/deploy.md.
"""


def main() -> None:
    """Read granian's command line and serve until a signal stops the server.

    :raises click.UsageError: if the app's module does not exist.
    :raises SystemExit: if the extra is not installed; the message names it.
    """
    os.environ.setdefault(*_ALLOCATOR)  # the allocator reads it when granian is imported
    try:
        import granian.cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: pip install 'bakrypt_proxy[server]'")

    from ._granian_server import Server  # noqa: PLC0415

    granian.cli.Server = Server  # type: ignore[attr-defined] # what the command creates

    def serve(**options: Any) -> None:
        click.get_current_context().invoke(granian.cli.cli, **options)

    defaults: dict[str, Any] = dict(_DEFAULTS)
    if os.environ.get("BAKRYPT_LOG_FORMAT") == "json":
        defaults["log_config"] = str(_JSON_LOGGING)
    command = click.Command(
        "python -m bakrypt_proxy.server",
        params=granian.cli.cli.params,
        callback=serve,
        help=_HELP,
    )
    command(auto_envvar_prefix="GRANIAN", default_map=defaults)


if __name__ == "__main__":
    main()
