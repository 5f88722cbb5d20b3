"""A granian server whose workers share memory and keep our settings out of the requests."""

import importlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from granian import Granian
from granian._internal import load_target

from . import starting
from .pinning import Pinning

logger = logging.getLogger("_granian")  # granian's own
# Seconds until a waiting thread forces another one to give up the interpreter. A request needs the
# interpreter for about a millisecond. With Python's default of 5 ms, the hundreds of threads whose
# responses from bakrypt arrive together interrupt each other, and half of the time is lost.
_SWITCH_INTERVAL = 0.05


class Server(Granian):  # type: ignore[misc,valid-type] # a variable: it depends on the build
    """Serves an app with granian, as `python -m bakrypt_proxy.server` does."""

    def serve(self, *_: Any, **__: Any) -> None:
        """Serve until a signal stops the server.

        :raises click.UsageError: if the app's module does not exist.
        """
        if sys.platform == "linux":
            self._prepare()
        loader = partial(_load, self.target, self.working_dir, factory=self.factory)
        super().serve(target_loader=loader, wrap_loader=False)

    def _prepare(self) -> None:
        """Prepare this process so that the forked workers inherit the result."""
        multiprocessing.set_start_method("fork")  # Python's own default up to 3.13
        sys.setswitchinterval(_SWITCH_INTERVAL)
        module = self.target.partition(":")[0]
        is_path = "/" in module or module.endswith(".py")
        if not (self.reload_on_changes or self.env_files or is_path):
            _import(module, self.working_dir or Path.cwd())
        Pinning().install(self.workers)
        starting.install()


def _import(module: str, directory: Path) -> None:
    sys.path.insert(0, str(directory))
    with _failure_logged():
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise  # the module exists and fails to import another one
            raise click.UsageError(f"there is no module {module} here") from None


def _load(target: str, directory: Path | None, *, factory: bool) -> Callable[..., Any]:
    """Return the app of a worker and remove our settings from the worker's environment.

    granian copies the environment into the WSGI environ of each request, where an error tracker
    picks up everything. The app has read its settings by then. The parent keeps the environment for
    the next workers.
    """
    with _failure_logged():
        app: Callable[..., Any] = load_target(target, wd=directory, factory=factory)
    for name in [name for name in os.environ if name.startswith("BAKRYPT_")]:
        del os.environ[name]
    return app


@contextmanager
def _failure_logged() -> Iterator[None]:
    """Log why the app cannot be loaded, in the format of all other lines, and exit."""
    try:
        yield
    except click.UsageError:
        raise
    except Exception:
        logger.exception("The app cannot be loaded")
        sys.exit(1)
