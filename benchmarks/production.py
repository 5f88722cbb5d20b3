"""The production server, as `docs/deploy.md` starts it."""

import sys
from pathlib import Path

WORKERS = 2
THREADS = 256  # in each worker


def command(app: str, port: int, *, workers: int = WORKERS, threads: int = THREADS) -> list[str]:
    """Return the command that serves a WSGI app on 127.0.0.1.

    :param app: a factory, as in `app:create_app`.
    :param threads: the number of threads in each worker.
    """
    start = [sys.executable, "-m", "bakrypt_proxy.server", "--log-level", "error"]
    start += ["--host", "127.0.0.1", "--port", str(port)]
    return [*start, "--workers", str(workers), "--blocking-threads", str(threads), "--factory", app]


def worker_ids(parent: int) -> list[int]:
    """Return the process ids of the workers of a server."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children]
