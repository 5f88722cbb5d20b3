"""A real redis-server for tests."""

import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

from processes import free_port, wait_until
from redis import Redis
from redis.exceptions import RedisError

REDIS_SERVER = shutil.which("redis-server")


class RedisServer:
    """A redis-server on a free port. A test can stop it and start it again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start an empty server and wait until it answers."""
        assert REDIS_SERVER is not None
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1"]
        arguments += ["--save", "", "--dir", str(self.directory)]
        self._process = subprocess.Popen([REDIS_SERVER, *arguments], stdout=subprocess.DEVNULL)
        with Redis.from_url(self.url) as redis:
            wait_until(lambda: answers(redis))

    def freeze(self) -> None:
        """Pause the process: it accepts connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait()


def answers(redis: "Redis") -> bool:
    """Return whether a Redis answers."""
    with suppress(RedisError):
        return bool(redis.ping())
    return False
