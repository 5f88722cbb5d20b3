"""Calls over kept connections: a pool, forks, and one retry where a kept connection was stale."""

import os
import time
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import UpstreamFailedError
from .connection import Connection, NoResponseError
from .dialer import Dialer, describe_failure
from .masking import Masked
from .response_reader import ProtocolError, Response

_MAX_IDLE = 512  # connections; a server with more threads opens new ones for the rest
_LONGEST_IDLE = 60.0  # seconds; NATs and firewalls forget an idle connection and tell nobody
_FRESH = 1.0  # seconds; servers close an idle connection after 2 or more, and tell it too late


class Request(NamedTuple):
    """A request. The body is ASCII, and no header holds a line break."""

    path: str
    headers: Masked[Mapping[str, str]]
    body: Masked[str] = Masked("")
    method: str = "POST"


class Transport:
    """Sends requests to one origin, each within a deadline over the whole call."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool(Dialer(url))
        self._start = (
            f"Host: {urlsplit(url).netloc}\r\nUser-Agent: bakrypt_proxy\r\n"
            # A token's response is short; compressed, it would not get shorter.
            "Accept: application/json\r\nAccept-Encoding: identity\r\n"
        )

    def send(self, request: Request, *, timeout: float, limit: int) -> Response:
        """Send a request, a second time if a kept connection ended before a byte came back.

        :param timeout: in seconds, for all of it.
        :param limit: the most bytes of body to read.
        :raises UpstreamFailedError: if no response comes that can be read.
        """
        deadline = time.monotonic() + timeout
        message = self._encode(request)
        connection = self._pool.acquire(deadline)
        try:
            try:
                return self._exchange(connection, message, deadline, limit)
            except NoResponseError:
                if not connection.is_kept:
                    raise
            return self._exchange(self._pool.dial(deadline), message, deadline, limit)
        except (OSError, ProtocolError) as error:
            raise _failure(error) from error

    def stream(  # noqa: PLR0913 - all but two are named
        self,
        request: Request,
        parts: Iterable[bytes],
        *,
        length: int,
        silence: float,
        first_byte: float,
        limit: int,
    ) -> Response:
        """Send a request with a body in parts, once only, and return the response to it.

        A connection that was idle for long is not used: if the server closes it at that moment,
        nobody knows whether it took the request.

        :param length: of all parts, in bytes.
        :param silence: in seconds, for connecting, for each part and for the response once it has
            begun.
        :param first_byte: in seconds, from the last part to the first byte of the response.
        :param limit: the most bytes of the response's body to read.
        :raises UpstreamFailedError: if no response comes that can be read.
        """
        connection = self._pool.acquire(
            time.monotonic() + silence, longest_idle=_FRESH, is_last_use=length > 0
        )
        try:
            return connection.stream(
                self._head(request, length),
                parts,
                silence=silence,
                first_byte=first_byte,
                limit=limit,
            )
        except (OSError, ProtocolError) as error:
            raise _failure(error) from error
        finally:
            self._pool.release(connection)

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()

    def _exchange(
        self, connection: Connection, message: Masked[bytes], deadline: float, limit: int
    ) -> Response:
        try:
            return connection.exchange(message, deadline=deadline, limit=limit)
        finally:
            self._pool.release(connection)

    def _encode(self, request: Request) -> Masked[bytes]:
        body = request.body.reveal()
        return Masked(self._head(request, len(body)).reveal() + body.encode("latin-1"))

    def _head(self, request: Request, length: int) -> Masked[bytes]:
        lines = [f"{name}: {value}\r\n" for name, value in request.headers.reveal().items()]
        if request.method != "GET":
            lines.append(f"Content-Length: {length}\r\n")
        start = f"{request.method} {request.path} HTTP/1.1\r\n{self._start}"
        return Masked(f"{start}{''.join(lines)}\r\n".encode("latin-1"))


def _failure(error: OSError | ProtocolError) -> UpstreamFailedError:
    return describe_failure(error, "bakrypt", "bakrypt's reply broke off or could not be read")


class ConnectionPool:
    """Keeps connections that can take another request."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._idle: list[Connection] = []
        self._pid = os.getpid()
        weakref.finalize(self, _close_all, self._idle)

    def acquire(
        self, deadline: float, *, longest_idle: float = _LONGEST_IDLE, is_last_use: bool = False
    ) -> Connection:
        """Return a kept connection, or a new one.

        :param deadline: in seconds of the monotonic clock.
        :param longest_idle: in seconds, for which a kept one may have been idle.
        :param is_last_use: whether it will not be kept afterwards.
        :raises UpstreamFailedError: if no connection can be opened.
        """
        if self._pid != os.getpid():
            self.close()  # after a fork, they belong to the parent
            self._pid = os.getpid()
        while (connection := _pop(self._idle)) is not None:
            idle = connection.idle_seconds()
            if idle >= _LONGEST_IDLE or not connection.is_quiet():
                connection.close()
                continue
            if idle < longest_idle:
                return connection
            if is_last_use:
                self._idle.append(connection)
            else:
                connection.close()  # the new one takes its place
            break  # all others were idle for longer
        return self.dial(deadline)

    def dial(self, deadline: float) -> Connection:
        """Return a new connection, as `acquire` does if it keeps none."""
        return self._dialer.dial(deadline)

    def release(self, connection: Connection) -> None:
        """Keep a connection for a later call if it can take one, or close it.

        Connections that were not needed for long are closed, too. Bakrypt has probably closed its
        end, and `acquire` never comes to them as long as newer ones are enough (RFC 9112 section
        9.5).
        """
        if connection.is_reusable and len(self._idle) < _MAX_IDLE:
            connection.keep()
            self._idle.append(connection)
        else:
            connection.close()
        if len(self._idle) > 1:  # the newest is needed
            self._close_unneeded()

    def _close_unneeded(self) -> None:
        with suppress(IndexError, ValueError):  # another thread was faster
            while (oldest := self._idle[0]).idle_seconds() >= _LONGEST_IDLE:
                self._idle.remove(oldest)
                oldest.close()

    def close(self) -> None:
        """Close the kept connections."""
        _close_all(self._idle)


def _close_all(idle: list[Connection]) -> None:
    while (connection := _pop(idle)) is not None:
        connection.close()


def _pop(idle: list[Connection]) -> Connection | None:
    """Return a kept connection, unless another thread was faster."""
    try:
        return idle.pop()
    except IndexError:
        return None
