"""A socket with one deadline over all its reads and writes, until the next one is set."""

import socket
import time
from typing import Protocol

from urllib3.util import wait_for_read, wait_for_write


class BoundedSocket(Protocol):
    """What `DeadlineSocket` has, and TLS above it."""

    def settimeout(self, timeout: float) -> None:
        """Set the time for all that follows, in seconds."""

    def recv(self, size: int) -> bytes:
        """Read what is there, or wait for it."""

    def send(self, data: bytes) -> int:
        """Write, and return how many bytes were taken."""

    def is_quiet(self) -> bool:
        """Return whether nothing was received that is not read yet, not even an end."""

    def close(self) -> None:
        """Close the connection."""


class DeadlineSocket:
    """A connected TCP socket. It starts without any time: set a timeout before each use.

    The socket below is non-blocking. With a timeout, Python would make two system calls more for
    each read and write, and each lets another thread take the interpreter.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._deadline = time.monotonic()
        self.close, self.fileno = sock.close, sock.fileno

    def settimeout(self, timeout: float) -> None:
        """Set the time for all that follows, in seconds."""
        self._deadline = time.monotonic() + timeout

    def is_quiet(self) -> bool:
        """Return whether nothing was received that is not read yet, not even an end."""
        return not wait_for_read(self._sock, timeout=0)

    def recv(self, size: int) -> bytes:
        """Read what is there, or wait for it.

        :raises TimeoutError: if the deadline has passed, also if there is something to read.
        """
        while True:
            left = time_left(self._deadline)
            try:
                return self._sock.recv(size)
            except BlockingIOError:
                wait_for_read(self._sock, left)

    def send(self, data: bytes) -> int:
        """Write what the system takes now, at least a byte, and return how many it took.

        :raises TimeoutError: if the deadline has passed.
        """
        while True:
            left = time_left(self._deadline)
            try:
                return self._sock.send(data)
            except BlockingIOError:
                wait_for_write(self._sock, left)

    def sendall(self, data: bytes) -> None:
        """Write all.

        :raises TimeoutError: if the deadline has passed.
        """
        while data:
            data = data[self.send(data) :]


def time_left(deadline: float) -> float:
    """Return the seconds until a deadline, or raise `TimeoutError` if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left
