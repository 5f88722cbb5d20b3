"""A real redis-server for tests, and a TCP forwarder that acts as its name."""

import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from processes import free_port, wait_until
from redis import Redis
from redis.exceptions import RedisError

REDIS_SERVER = shutil.which("redis-server")


class RedisServer:
    """A redis-server on a free port. A test can stop it and start it again.

    `options` are more of its command line.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
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
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", *self.options]
        arguments += ["--save", "", "--dir", str(self.directory)]
        self._process = subprocess.Popen([REDIS_SERVER, *arguments], stdout=subprocess.DEVNULL)
        with Redis.from_url(self.url) as redis:
            wait_until(lambda: answers(redis))

    def freeze(self) -> None:
        """Pause the process: it accepts connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait()


class Forwarder:
    """A name that leads to a Redis: it can be moved, and it can drip or stall.

    `pass_on` sends what the server says to the client, `pass_up` what the client says.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.pass_on: Callable[[socket.socket, bytes], None] = socket.socket.sendall
        self.pass_up: Callable[[socket.socket, bytes], None] = socket.socket.sendall
        self.stopped = threading.Event()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._open:
            connection.close()

    @property
    def url(self) -> str:
        """The address to give as `BAKRYPT_REDIS_URL`."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def drip(self, client: socket.socket, data: bytes) -> None:
        """Send a byte each 0.1 s, so that no single read ever times out."""
        for byte in data:
            if self.stopped.wait(0.1):
                return
            client.sendall(bytes([byte]))

    def stall(self, client: socket.socket, data: bytes) -> None:
        """Send nothing."""

    def _accept(self) -> None:
        while not self.stopped.is_set():
            with suppress(OSError):
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self._open += [client, server]
                self._start(client, server, lambda peer, data: self.pass_up(peer, data))  # noqa: PLW0108 - it may change
                self._start(server, client, lambda peer, data: self.pass_on(peer, data))  # noqa: PLW0108 - it may change

    def _start(
        self,
        source: socket.socket,
        sink: socket.socket,
        pass_on: Callable[[socket.socket, bytes], None],
    ) -> None:
        def run() -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    pass_on(sink, data)
            with suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()


def answers(redis: "Redis") -> bool:
    """Return whether a Redis answers."""
    with suppress(RedisError):
        return bool(redis.ping())
    return False


def probed_keys(redis: "Redis", probe: Callable[[], object]) -> set[str]:
    """Run a probe and return the keys that it uses for itself."""
    with redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        probe()
        redis.echo("the end")
        commands = iter(lambda: monitor.next_command()["command"], "ECHO the end")
        keys = {word for command in commands for word in command.split() if "probe" in word}
    assert keys
    return keys


class Replicated(NamedTuple):
    """A primary, its replica, and the name that leads to the primary until a failover."""

    primary: Redis
    replica: Redis
    name: Forwarder
    port: int  # of the replica

    def fail_over(self) -> None:
        """Promote the replica and move the name. Connections to the old primary stay open."""
        self.replica.replicaof("NO", "ONE")
        self.primary.replicaof("127.0.0.1", str(self.port))
        wait_until(lambda: self.primary.info()["role"] == "slave")
        self.name.target = self.port


@contextmanager
def replicated(directory: Path) -> Iterator[Replicated]:
    """Start two servers, the second one a replica."""
    for folder in ("old", "new"):
        (directory / folder).mkdir()
    with (
        RedisServer(directory / "old") as old,
        RedisServer(directory / "new", "--replicaof", f"127.0.0.1 {old.port}") as new,
        Redis.from_url(old.url) as primary,
        Redis.from_url(new.url) as replica,
        Forwarder(old.port) as name,
    ):
        wait_until(lambda: replica.info()["master_link_status"] == "up", 20)
        yield Replicated(primary, replica, name, new.port)
