"""HTTP through requests, with the precautions that requests leaves to its users.

A session of `open_session` reads nothing from the environment after it was opened (no `~/.netrc`, which would replace
an Authorization header). Its adapter ends each call at one deadline, however slowly the reply drips in, and
tries once more where a kept-alive connection turns out to have been closed before a byte of the reply came.
"""

import http.client
import io
import os
import socket
import time
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse

from .settings import is_loopback

# Idle connections kept for the next calls; a server with more threads than this opens new ones for the rest.
_POOL_SIZE = 64
_SHORTEST = 0.001  # seconds; urllib3 takes no timeout of zero


def open_session(url: str) -> requests.Session:
    """Return a session for calls to `url`. Proxy and CA bundle are read from the environment here and only here.

    A loopback address is never asked through a proxy, which could not reach it.
    """
    session = requests.Session()
    session.trust_env = False
    session.proxies = {} if is_loopback(urlsplit(url).hostname or "") else get_environ_proxies(url)
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    adapter = UpstreamAdapter(pool_maxsize=_POOL_SIZE)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class NoAnswerError(ConnectionResetError):
    """The connection ended before a single byte of the reply."""


class StaleConnectionError(NoAnswerError):
    """A kept-alive connection ended before a single byte of the reply: upstream had closed it while it was idle."""


class _DeadlineReader(io.RawIOBase):
    """The socket's reading end, which gives up at the deadline: a socket's own timeout begins anew with each byte.

    The deadline is the socket's timeout at the start, which urllib3 has set to what is left of `Timeout.total`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Not the socket itself: the stream keeps it open when the connection is closed before the body was read.
        self._stream = cast("io.RawIOBase", sock.makefile("rb", buffering=0))
        self._deadline = time.monotonic() + (sock.gettimeout() or 0)
        self._answered = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # a Buffer, which typing names only from Python 3.12 on
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        self._sock.settimeout(left)
        try:
            count = self._stream.readinto(buffer)
        except ConnectionError as error:
            if self._answered:
                raise
            raise NoAnswerError(*error.args) from error
        if not count and not self._answered:
            raise NoAnswerError("upstream closed the connection")
        self._answered = True
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """http.client's reply, read through `_DeadlineReader`."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock))


class _UpstreamConnection(HTTPConnection):
    """A connection that knows whether it was in use before, and reads up to a deadline."""

    response_class = _DeadlineResponse
    _reused = False

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._reused = self.sock is not None
        super().request(*args, **kwargs)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 itself overrides it
        try:
            return super().getresponse()
        except NoAnswerError as error:
            if self._reused:
                raise StaleConnectionError(*error.args) from error
            raise


class _UpstreamTLSConnection(_UpstreamConnection, HTTPSConnection):
    """The same over TLS."""


class _UpstreamPool(HTTPConnectionPool):
    ConnectionCls = _UpstreamConnection


class _UpstreamTLSPool(HTTPSConnectionPool):
    ConnectionCls = _UpstreamTLSConnection


class UpstreamAdapter(HTTPAdapter):
    """An adapter whose `timeout` holds for the whole call, its one retry and its body included."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools for direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._use_own_pools(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        """Make the pools for connections through a proxy."""
        return self._use_own_pools(super().proxy_manager_for(*args, **kwargs))

    def send(  # type: ignore[override] # a plain number of seconds is all that it takes
        self, request: requests.PreparedRequest, *, timeout: float, **kwargs: Any
    ) -> requests.Response:
        """Send a request and return once the reply's headers are there. `timeout` is in seconds."""
        end = time.monotonic() + timeout
        try:
            return super().send(request, timeout=_deadline(timeout), **kwargs)
        except requests.ConnectionError as error:
            if not _is_stale(error):
                raise
        left = max(end - time.monotonic(), _SHORTEST)
        return super().send(request, timeout=_deadline(left), **kwargs)

    @staticmethod
    def _use_own_pools(manager: PoolManager) -> PoolManager:
        manager.pool_classes_by_scheme = {"http": _UpstreamPool, "https": _UpstreamTLSPool}
        return manager


def _deadline(seconds: float) -> Any:  # requests knows urllib3's Timeout, its stubs do not
    """Return a timeout for one whole call. Connecting may take a third of it, so that a second address gets a turn."""
    return Timeout(total=seconds, connect=seconds / 3)


def _is_stale(error: BaseException | None) -> bool:
    """Whether urllib3 and requests have wrapped a `StaleConnectionError`."""
    while error is not None and not isinstance(error, StaleConnectionError):
        error = error.__context__
    return error is not None
