"""HTTP through requests, with the precautions that requests leaves to its users.

A session of `open_session` reads nothing from the environment after it was opened (no `~/.netrc`, which would replace
an Authorization header). Its adapter ends each call at one deadline, however slowly the reply drips in; a
look-up of the host's name is counted, but cannot be cut short. It tries once more where a kept-alive connection turns
out to have been closed before a byte of the reply came.
"""

import http.client
import io
import os
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, ProtocolError
from urllib3.response import HTTPResponse

from .errors import SettingsError
from .settings import is_loopback

# Idle connections kept for the next calls; a server with more threads than this opens new ones for the rest.
_POOL_SIZE = 512
_SHORTEST = 0.001  # seconds; urllib3 takes no timeout of zero
_NOTICEABLE = 0.01  # seconds of a deadline; less is not worth a system call


def open_session(url: str) -> requests.Session:
    """Return a session for calls to `url`. Proxy and CA bundle are read from the environment here and only here.

    A loopback address is never asked through a proxy, which could not reach it.
    """
    session = requests.Session()
    session.trust_env = False
    session.proxies = {} if is_loopback(urlsplit(url).hostname or "") else _environ_proxies(url)
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    adapter = UpstreamAdapter(pool_maxsize=_POOL_SIZE)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _environ_proxies(url: str) -> dict[str, str]:
    proxies = get_environ_proxies(url)
    proxy = select_proxy(url, proxies)
    if proxy and not _is_http_proxy(proxy):
        # Not the address itself: it may hold the proxy's password.
        raise SettingsError("the proxy that the environment names must be an http:// or https:// address")
    return proxies


def _is_http_proxy(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


_R = TypeVar("_R", HTTPResponse, http.client.HTTPResponse)


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
        if self._answered:  # at first it is what the socket has; setting it costs a system call
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
    """A connection that knows whether it has served a call before, and keeps to a deadline."""

    response_class = _DeadlineResponse
    _has_answered = False
    _parts: list[bytes] | None = None

    def connect(self) -> None:
        self._has_answered = False
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send head and body at once: twice costs two system calls, and the interpreter's lock is let go at each."""
        self._at_once(HTTPConnection.request, *args, **kwargs)

    def send(self, data: Any) -> None:
        """Send bytes, or keep them until the whole request is there."""
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 itself overrides it
        return self._checked(super().getresponse)

    def ask(self, request: requests.PreparedRequest, target: str, timeout: float) -> http.client.HTTPResponse:
        """Send a request over this connection, which is open, and return http.client's own reply.

        This is what urllib3 does, without what it does for others: half the time of a call goes into that.
        """
        started = time.monotonic()
        self.timeout = timeout
        self.sock.settimeout(timeout)
        try:
            self._at_once(http.client.HTTPConnection.request, request.method, target, request.body, request.headers)
        except ConnectionError as error:
            raise StaleConnectionError(*error.args) from error
        if (spent := time.monotonic() - started) > _NOTICEABLE:
            self.sock.settimeout(max(timeout - spent, _SHORTEST))  # the reply has what is left of the deadline
        return self._checked(lambda: http.client.HTTPConnection.getresponse(self))

    def _at_once(self, request: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        parts: list[bytes] = []
        self._parts = parts
        try:
            request(self, *args, **kwargs)
        finally:
            self._parts = None
        self.send(b"".join(parts))

    def _checked(self, get: Callable[[], _R]) -> _R:
        try:
            response = get()
        except NoAnswerError as error:
            if self._has_answered:
                raise StaleConnectionError(*error.args) from error
            raise
        if response.status < 200:
            # The real reply is still to come, and would be taken for the reply to the next call.
            self.close()
        self._has_answered = True
        return response

    def _new_conn(self) -> socket.socket:
        """Connect within `timeout`, look-up included: urllib3 would grant it to each of the addresses anew."""
        host, timeout = self._dns_host, self.timeout or 0
        end = time.monotonic() + timeout
        addresses = self._look_up(host)
        failure: NewConnectionError | ConnectTimeoutError = ConnectTimeoutError(self, "the name was looked up too late")
        while addresses and (left := end - time.monotonic()) > 0:
            self._dns_host, self.timeout = addresses[0], left / len(addresses)
            try:
                sock = super()._new_conn()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
                addresses.pop(0)
            else:
                sock.settimeout(max(end - time.monotonic(), _SHORTEST))
                return sock
            finally:
                self._dns_host, self.timeout = host, timeout
        raise failure

    def _look_up(self, host: str) -> list[str]:
        try:
            found = socket.getaddrinfo(host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(host, self, error) from error
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _UpstreamTLSConnection(_UpstreamConnection, HTTPSConnection):
    """The same over TLS."""


class _UpstreamPool(HTTPConnectionPool):
    ConnectionCls = _UpstreamConnection

    def take_open(self) -> _UpstreamConnection | None:
        """Take a connection that is open already, if there is one. Those to a proxy need headers of urllib3's own."""
        connection = cast("_UpstreamConnection", self._get_conn())
        if connection.sock is not None and self.proxy is None:
            return connection
        self._put_conn(connection)
        return None

    def give_back(self, connection: _UpstreamConnection) -> None:
        """Put back what was taken."""
        self._put_conn(connection)


class _UpstreamTLSPool(_UpstreamPool, HTTPSConnectionPool):
    ConnectionCls = _UpstreamTLSConnection


class _WarmReply:
    """A reply over a connection that was open before: what requests calls `raw`."""

    def __init__(self, pool: "_UpstreamPool", connection: _UpstreamConnection, reply: http.client.HTTPResponse) -> None:
        self._pool, self._connection, self._reply = pool, connection, reply
        self.status, self.headers = reply.status, reply.headers
        self._is_closed = False

    def read(self, amt: int, *, decode_content: bool) -> bytes:
        """Return the body, up to so many bytes. It is an error if it ends before its Content-Length."""
        if "Content-Encoding" in self.headers:
            whole = HTTPResponse(self._reply, dict(self.headers), self.status, preload_content=False)
            return whole.read(amt, decode_content=decode_content)
        try:
            body = self._reply.read(amt)
        except http.client.HTTPException as error:
            raise ProtocolError("the reply broke off") from error
        if self._reply.length and len(body) < amt:
            raise ProtocolError("the reply broke off")
        return body

    def close(self) -> None:
        """Keep the connection for the next call if the reply was read to its end."""
        if self._is_closed:  # given back twice, it would serve two calls at once
            return
        self._is_closed = True
        if not self._reply.isclosed() or self._reply.will_close:
            self._reply.close()
            self._connection.close()
        self._pool.give_back(self._connection)


class _Route(NamedTuple):
    """How to get to an address: the pool of connections, and what to ask of them."""

    pool: "_UpstreamPool"
    target: str

    def send(self, request: requests.PreparedRequest, timeout: float) -> Any:
        """Send a request once, and return when the reply's headers are there."""
        connection = self.pool.take_open()
        return self._send_anew(request, timeout) if connection is None else self._send_on(connection, request, timeout)

    def _send_on(self, connection: _UpstreamConnection, request: requests.PreparedRequest, timeout: float) -> Any:
        try:
            reply = connection.ask(request, self.target, timeout)
        except BaseException as error:
            connection.close()
            self.pool.give_back(connection)
            if isinstance(error, http.client.HTTPException | OSError):
                raise ProtocolError("the connection broke off") from error
            raise
        return _WarmReply(self.pool, connection, reply)

    def _send_anew(self, request: requests.PreparedRequest, timeout: float) -> HTTPResponse:
        """Let urllib3 connect: through a proxy, with TLS, to one address after the other."""
        return self.pool.urlopen(  # type: ignore[return-value] # what the pool's connections return
            str(request.method),
            self.target,
            request.body,
            request.headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(total=timeout),
            preload_content=False,
            decode_content=False,
        )


class UpstreamAdapter(HTTPAdapter):
    """An adapter whose `timeout` holds for the whole call, its one retry and its body included."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools for direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._routes: dict[str | None, _Route] = {}
        self._use_own_pools(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        """Make the pools for connections through a proxy."""
        return self._use_own_pools(super().proxy_manager_for(*args, **kwargs))

    def send(  # type: ignore[override] # a plain number of seconds is all that it takes
        self, request: requests.PreparedRequest, *, timeout: float, **session: Any
    ) -> requests.Response:
        """Send a request and return once the reply's headers are there. `timeout` is in seconds.

        `session` is what requests passes on of a session: verify, cert and proxies. They are looked at once for each
        address. Errors are urllib3's own, in the chain that `client.py` reads.
        """
        route = self._routes.get(request.url)
        if route is None:
            route = self._routes[request.url] = self._find_route(request, **session)
        end = time.monotonic() + timeout
        try:
            reply = route.send(request, timeout)
        except HTTPError as error:
            if not _is_stale(error):
                raise
            reply = route.send(request, max(end - time.monotonic(), _SHORTEST))
        response = requests.Response()
        response.status_code, response.raw = reply.status, reply
        response.headers = cast("Any", reply.headers)  # names in any case, as in requests' own
        return response

    def _find_route(
        self, request: requests.PreparedRequest, *, verify: Any = True, cert: Any = None, proxies: Any = None, **_: Any
    ) -> "_Route":
        pool: Any = self.get_connection_with_tls_context(request, verify, proxies, cert)
        self.cert_verify(pool, str(request.url), verify, cert)  # type: ignore[no-untyped-call]
        return _Route(pool, self.request_url(request, proxies))

    @staticmethod
    def _use_own_pools(manager: PoolManager) -> PoolManager:
        manager.pool_classes_by_scheme = {"http": _UpstreamPool, "https": _UpstreamTLSPool}
        return manager


def _is_stale(error: BaseException | None) -> bool:
    """Whether urllib3 and requests have wrapped a `StaleConnectionError`."""
    while error is not None and not isinstance(error, StaleConnectionError):
        error = error.__context__
    return error is not None
