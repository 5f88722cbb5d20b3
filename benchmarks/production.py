"""The production server, as `docs/deploy.md` starts it."""

import sys
from pathlib import Path

WORKERS = 2
THREADS = 256  # of each worker


def command(app: str, port: int, *, workers: int = WORKERS, threads: int = THREADS) -> list[str]:
    """Return the command that serves a WSGI app on 127.0.0.1. `app` names a factory, as in `app:create_app`."""
    start = [
        sys.executable,
        "-m",
        "bakrypt_proxy.server",
        "--log-level",
        "error",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return [*start, "--workers", str(workers), "--blocking-threads", str(threads), "--factory", app]


def worker_ids(parent: int) -> list[int]:
    """Return the process ids of its workers."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children]
