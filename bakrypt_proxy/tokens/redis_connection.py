"""Connections to Redis that never keep a caller waiting.

redis-py's timeouts are those of a single read: a server that sends a byte now and then is waited
for without end. Here one deadline covers connecting, sending and reading. The look-up of the
server's name is counted, too, but cannot be cut short.
"""

import math
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

# No public name leads to the parser in Python. hiredis, which redis-py takes where it is installed,
# makes room for as many answers as Redis announces, and no deadline ends that.
from redis._parsers import _RESP2Parser
from redis.backoff import NoBackoff
from redis.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import RedisError
from redis.retry import Retry
from urllib3.util.ssltransport import SSLTransport

from ..errors import BakryptError
from ..upstream.masking import Masked

# Of all our keys. The braces put them into one slot of a cluster, as a transaction needs it.
KEY_PREFIX = "bakrypt_proxy:{shared}"
ROUND_TRIP = 0.3  # seconds, connecting included; three of them fit into a caller's last second
_LONGEST_MESSAGE = 200  # characters


class UnusableError(Exception):
    """Redis cannot be used now. The message is Redis' own, or says what is wrong there."""


def redis_options(redis_url: str) -> dict[str, Any]:
    """Return the options for `Redis.from_url`.

    The CA bundle for `rediss://` is read from the environment here: the one that calls to bakrypt
    use, too.
    """
    options: dict[str, Any] = {
        "socket_timeout": ROUND_TRIP,
        "socket_connect_timeout": ROUND_TRIP,
        "retry": Retry(NoBackoff(), 0),  # the second try would have no time
        "protocol": 2,  # RESP3 needs more round trips to connect
        "parser_class": _RESP2Parser,
        "max_connections": 1000,  # above the threads of any server; they do not wait for each other
        "last_error": _LastError(),
    }
    match urlsplit(redis_url).scheme:
        case "rediss":
            bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            return {**options, "connection_class": _TLSConnection, "ca_bundle": bundle}
        case "unix":
            return {**options, "connection_class": _UnixConnection}
        case _:
            return {**options, "connection_class": _TCPConnection}


def explain(error: Exception, redis_url: str) -> str:
    """Return Redis' own message as one short line, without what it quotes of the password."""
    message = str(error)
    password = urlsplit(redis_url).password or ""
    for secret in {password, unquote(password)} - {""}:
        message = message.replace(secret, "***")  # before it is cut: a part would remain
    message = message[: 10 * _LONGEST_MESSAGE]
    message = re.sub(r"^Command # .*? of pipeline caused error: ", "", message, flags=re.DOTALL)
    # Redis quotes what it does not know, cut and with other blanks; redis-py quotes bytes.
    message = re.sub(r"(, with args beginning with|\bb['\"]).*", "", message, flags=re.DOTALL)
    # redis-py cuts the code off, such as MOVED; its class says the same.
    line = " ".join(f"{type(error).__name__}: {message}".split())
    return "".join(c if c.isprintable() else "?" for c in line)[:_LONGEST_MESSAGE]


@contextmanager
def redis_errors(redis_url: Masked[str]) -> Iterator[None]:
    """Make any error that Redis causes an `UnusableError`."""
    try:
        yield
    except (BakryptError, MemoryError, UnusableError):
        raise
    except Exception as error:
        # Not only RedisError: what is no Redis makes redis-py raise ValueError and others.
        raise UnusableError(explain(error, redis_url.reveal())) from error


class _DeadlineSocket:
    """A connected socket whose reads and writes end at the deadline of its connection."""

    def __init__(self, sock: socket.socket, connection: "_DeadlineMixin") -> None:
        self._sock = sock
        self._connection = connection
        self._timeout: float | None = ROUND_TRIP

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, seconds: float | None) -> None:
        """Set the longest time of one read. redis-py sets 0 to see whether there is anything."""
        self._timeout = seconds

    def recv(self, *arguments: Any) -> bytes:
        """Read what there is."""
        self._limit()
        return self._sock.recv(*arguments)

    def sendall(self, data: bytes) -> None:
        """Send all."""
        self._limit()
        self._sock.sendall(data)

    def _limit(self) -> None:
        left = self._connection.seconds_left()
        if self._timeout is not None:
            left = min(left, self._timeout)
        self._sock.settimeout(left)


class _TLSSocket(SSLTransport):
    """TLS above a socket with a deadline.

    In Python's own `SSLSocket`, OpenSSL reads from the socket: as long as bytes come, no timeout
    ends that.
    """

    def shutdown(self, how: int) -> None:
        """End the connection."""
        self.socket.shutdown(how)


class _LastError:
    """When Redis last gave an error to any of the connections that share this, in seconds."""

    at = -math.inf


class _DeadlineMixin:
    """A connection of redis-py with one deadline for each use."""

    def __init__(self, *, last_error: _LastError, **options: Any) -> None:
        super().__init__(**options)
        # No CLIENT SETINFO: each has a round trip of its own, in a process that may be busy.
        self.driver_info = self.lib_name = self.lib_version = None
        self._deadline = 0.0
        self._is_unused = False  # since `connect`
        self._made_at = -math.inf
        self._last_error = last_error

    def connect(self) -> None:
        """Begin a use. A pool calls this each time it hands the connection out.

        It does so twice where something is there to read. The use has begun by then.
        """
        if self._made_at <= self._last_error.at:
            self.disconnect()  # type: ignore[attr-defined]
        now = time.monotonic()
        if not (self._is_unused and now < self._deadline):
            self._deadline = now + ROUND_TRIP
        super().connect()  # type: ignore[misc]
        self._is_unused = True

    def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        """Send commands."""
        self._is_unused = False
        super().send_packed_command(*arguments, **options)  # type: ignore[misc]

    def seconds_left(self) -> float:
        """Return the seconds until the deadline.

        :raises TimeoutError: if there are none.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    @property
    def socket_connect_timeout(self) -> float:
        """Half of what is left: one of the addresses that a name has may never answer."""
        return self.seconds_left() / 2

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, seconds: float) -> None:
        """Ignore what redis-py sets."""

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read a response. After an error no connection that was made before it is used again.

        The name may lead to a new primary by now. Many errors are a sign of that, such as READONLY,
        which is somewhere in the message if a script meets it (Redis 6.2).
        """
        try:
            return super().read_response(*arguments, **options)  # type: ignore[misc]
        except RedisError:
            self._last_error.at = time.monotonic()
            raise

    def _connect(self) -> Any:
        self._made_at = time.monotonic()
        return _DeadlineSocket(super()._connect(), self)  # type: ignore[misc]


class _TCPConnection(_DeadlineMixin, Connection):  # type: ignore[misc]
    pass


class _UnixConnection(_DeadlineMixin, UnixDomainSocketConnection):  # type: ignore[misc]
    pass


class _TLSConnection(_TCPConnection):
    """TLS with the CA bundle in place of the system's certificates, as requests uses it."""

    def __init__(self, *, ca_bundle: str | None, **options: Any) -> None:
        super().__init__(**options)
        self._ca_bundle = ca_bundle

    def _connect(self) -> Any:
        sock = super()._connect()
        try:
            return _TLSSocket(
                sock,
                _create_context(self._ca_bundle),
                server_hostname=self.host,
                suppress_ragged_eofs=False,
            )
        except BaseException:
            sock.close()
            raise


@cache
def _create_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return a context, read once: the system's certificates take milliseconds to read."""
    if ca_bundle is None:
        return ssl.create_default_context()
    try:
        if os.path.isdir(ca_bundle):  # noqa: PTH112 - the name is as the variable has it
            return ssl.create_default_context(capath=ca_bundle)
        return ssl.create_default_context(cafile=ca_bundle)
    except OSError as error:
        # OpenSSL does not say which file it could not read.
        raise OSError(f"the CA bundle {ca_bundle} cannot be used: {error}") from error
