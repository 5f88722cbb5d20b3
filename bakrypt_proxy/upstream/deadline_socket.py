"""A socket with one deadline over all its reads and writes, until the next one is set."""

import socket
import time
from collections.abc import Callable
from typing import Protocol

from urllib3.util import wait_for_read, wait_for_write

_SMALL_READS = 4000  # besides one for each 256 bytes; an honest server sends larger parts
_PART = 256  # bytes
_READ_SIZE = 16 * 1024  # bytes


class FloodError(OSError):
    """More came than any response has, or in smaller parts: reading on would keep a processor busy.

    Below TLS this is not seen otherwise: nothing of it need ever be decrypted.
    """


class BoundedSocket(Protocol):
    """What `DeadlineSocket` has, and TLS above it."""

    @property
    def received(self) -> int:
        """How many bytes came since `allow`."""

    @property
    def delivered(self) -> int:
        """How many of them may be of use to what is above this socket."""

    def set_deadline(self, deadline: float) -> None:
        """Set when all that follows has to be over, in seconds of the monotonic clock."""

    def allow(self, size: int) -> None:
        """Allow so many bytes to come from now on."""

    def recv(self, size: int) -> bytes:
        """Read what is there, or wait for it."""

    def receive_now(self) -> bytes:
        """Read what is there, and return nothing if nothing is there. Never wait."""

    def send(self, data: bytes) -> int:
        """Write, and return how many bytes were taken."""

    def is_quiet(self) -> bool:
        """Return whether nothing was received that is not read yet, not even an end."""

    def close(self) -> None:
        """Close the connection."""


class DeadlineSocket:
    """A connected TCP socket. It starts without any time: set a deadline before each use.

    The socket below is non-blocking. With a timeout, Python would make two system calls more for
    each read and write, and each lets another thread take the interpreter.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._deadline = time.monotonic()
        self._size = self._reads_left = 0
        self.received: int = 0
        self.close: Callable[[], None] = sock.close

    @property
    def delivered(self) -> int:
        """The same as `received`."""
        return self.received

    def set_deadline(self, deadline: float) -> None:
        """Set when all that follows has to be over, in seconds of the monotonic clock."""
        self._deadline = deadline

    def allow(self, size: int) -> None:
        """Allow so many bytes to come from now on."""
        self._size, self._reads_left = size, _SMALL_READS + size // _PART
        self.received = 0

    def is_quiet(self) -> bool:
        """Return whether nothing was received that is not read yet, not even an end."""
        return not wait_for_read(self._sock, timeout=0)

    def recv(self, size: int) -> bytes:
        """Read what is there, or wait for it.

        :raises TimeoutError: if the deadline has passed, also if there is something to read.
        :raises FloodError: if more has come than was allowed.
        """
        self._count_read()
        while True:
            # Not a try first: the response to a request is never there at once.
            _check(wait_for_read(self._sock, self._time_left()))
            try:
                data = self._sock.recv(size)
            except BlockingIOError:  # woken up for nothing
                continue
            self.received += len(data)
            return data

    def receive_now(self) -> bytes:
        """Read what is there, and return nothing if nothing is there. Never wait.

        :raises TimeoutError: if the deadline has passed: TLS may ask again and again.
        :raises FloodError: if more has come than was allowed.
        """
        self._count_read()
        self._time_left()
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return b""
        self.received += len(data)
        return data

    def send(self, data: bytes) -> int:
        """Write what the system takes now, at least a byte, and return how many it took.

        :raises TimeoutError: if the deadline has passed.
        """
        while True:
            left = self._time_left()
            try:
                return self._sock.send(data)
            except BlockingIOError:
                is_writable = wait_for_write(self._sock, left)
            # Not in the handler: its error would be part of this one, with the request in a frame.
            _check(is_writable)

    def _count_read(self) -> None:
        self._reads_left -= 1
        if self.received > self._size or self._reads_left < 0:
            raise FloodError("too much came, or in too small parts")

    def _time_left(self) -> float:
        left = self._deadline - time.monotonic()
        _check(left > 0)
        return left


def _check(is_in_time: bool) -> None:
    if not is_in_time:
        raise TimeoutError("the deadline has passed")
