"""HTTP through requests, with the precautions that requests leaves to its users.

A session of `open_session` reads nothing from the environment after it was opened (no `~/.netrc`, which would replace
an Authorization header). Its adapter ends each call at one deadline, however slowly the reply drips in; a
look-up of the host's name is counted, but cannot be cut short. It tries once more where a kept-alive connection turns
out to have been closed before a byte of the reply came.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from .._parsers import is_loopback
from ..errors import SettingsError
from .connection import (
    SHORTEST,
    Answer,
    StaleConnectionError,
    UpstreamConnection,
    UpstreamTLSConnection,
)

# Idle connections kept for the next calls; a server with more threads than this opens new ones for the rest.
_POOL_SIZE = 512


def open_session(url: str) -> requests.Session:
    """Return a session for calls to `url`. Proxy and CA bundle are read from the environment here and only here.

    A loopback address is never asked through a proxy, which could not reach it.
    """
    session = requests.Session()
    session.trust_env = False
    # A token's reply is short; compressed, it would not get shorter.
    session.headers["Accept-Encoding"] = "identity"
    session.proxies = {} if is_loopback(urlsplit(url).hostname or "") else _environ_proxies(url)
    session.verify = (
        os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    )
    adapter = UpstreamAdapter(pool_maxsize=_POOL_SIZE)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _environ_proxies(url: str) -> dict[str, str]:
    proxies = get_environ_proxies(url)
    proxy = select_proxy(url, proxies)
    if proxy and not _is_http_proxy(proxy):
        # Not the address itself: it may hold the proxy's password.
        raise SettingsError(
            "the proxy that the environment names must be an http:// or https:// address"
        )
    return proxies


def _is_http_proxy(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


class Post(NamedTuple):
    """A POST: `body` is ASCII, and no header holds a line break."""

    url: str
    headers: Mapping[str, str]
    body: str


def send(session: requests.Session, post: Post, *, timeout: float, limit: int) -> Answer:
    """Send a POST and return the answer, up to `limit` bytes of its body.

    In a session of `open_session`, `timeout`, in seconds, is a deadline over the whole call. Another session is used
    with its headers, adapters, certificates and proxies.
    Raises the errors of requests, of urllib3 and of the operating system.
    """
    # Not session.send: it would follow redirects, or read their bodies without a limit, and keep cookies.
    adapter = session.get_adapter(post.url)
    if isinstance(adapter, UpstreamAdapter):
        return adapter.answer(session, post, end=time.monotonic() + timeout, limit=limit)
    with adapter.send(
        _prepare(session, post), stream=True, timeout=timeout, **_options(session)
    ) as response:
        return Answer(
            response.status_code, response.headers, response.raw.read(limit, decode_content=True)
        )


def _prepare(session: requests.Session, post: Post) -> requests.PreparedRequest:
    """Return a POST with a session's headers, too. `session.prepare_request` may read ~/.netrc."""
    request = requests.PreparedRequest()
    request.method, request.url, request.body, request.hooks = (
        "POST",
        post.url,
        post.body or None,
        session.hooks,
    )
    length = {"Content-Length": str(len(post.body))}
    request.headers = CaseInsensitiveDict({**_headers(session), **post.headers, **length})
    return request


def _headers(session: requests.Session) -> dict[str, Any]:
    own = CaseInsensitiveDict(
        {name: value for name, value in session.headers.items() if value is not None}
    )
    return {**own, "Accept": "application/json"}


def _options(session: requests.Session) -> dict[str, Any]:
    verify = True if session.verify is None else session.verify
    return {"verify": verify, "cert": session.cert, "proxies": session.proxies}


class _UpstreamPool(HTTPConnectionPool):
    ConnectionCls = UpstreamConnection

    def ask(self, message: bytes, *, end: float, limit: int) -> Answer | None:
        """Ask over a connection that is open already, if there is one. Those to a proxy need more than `message`."""
        connection = cast("UpstreamConnection", self._get_conn())
        try:
            is_open = connection.sock is not None and self.proxy is None
            return connection.ask(message, end=end, limit=limit) if is_open else None
        finally:
            self._put_conn(connection)


class _UpstreamTLSPool(_UpstreamPool, HTTPSConnectionPool):
    ConnectionCls = UpstreamTLSConnection


class _Route(NamedTuple):
    """How to get to an address: the pool of connections, what to ask of them, and how each message begins."""

    pool: _UpstreamPool
    target: str
    start: str

    def message(self, post: Post) -> bytes:
        """Return a whole request as it is sent."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in post.headers.items()])
        return f"{self.start}{lines}Content-Length: {len(post.body)}\r\n\r\n{post.body}".encode(
            "latin-1"
        )


class UpstreamAdapter(HTTPAdapter):
    """An adapter that keeps to a deadline over the whole call, its one retry and its body included.

    What requests says of a session is looked at once for each address.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools for direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._routes: dict[str, _Route] = {}
        self._use_own_pools(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        """Make the pools for connections through a proxy."""
        return self._use_own_pools(super().proxy_manager_for(*args, **kwargs))

    def answer(self, session: requests.Session, post: Post, *, end: float, limit: int) -> Answer:
        """Send a POST, again if it went over a stale connection. `end` is in seconds of the monotonic clock."""
        route = self._routes.get(post.url)
        if route is None:
            route = self._routes[post.url] = self._find_route(session, post)
        try:
            return self._answer(session, route, post, end, limit)
        except (HTTPError, StaleConnectionError) as error:
            if not _is_stale(error):
                raise
            return self._answer(session, route, post, end, limit)

    def _answer(
        self, session: requests.Session, route: _Route, post: Post, end: float, limit: int
    ) -> Answer:
        answer = route.pool.ask(route.message(post), end=end, limit=limit)
        return (
            self._connect_and_ask(route, _prepare(session, post), end, limit)
            if answer is None
            else answer
        )

    def _connect_and_ask(
        self, route: _Route, request: requests.PreparedRequest, end: float, limit: int
    ) -> Answer:
        """Let urllib3 connect: through a proxy, with TLS, to one address after the other."""
        response = route.pool.urlopen(
            "POST",
            route.target,
            request.body,
            request.headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(total=max(end - time.monotonic(), SHORTEST)),
            preload_content=False,
            decode_content=False,
        )
        try:
            return Answer(
                response.status, response.headers, response.read(limit, decode_content=True)
            )
        finally:
            response.close()  # closes the connection, too, unless the body was read to its end
            response.release_conn()

    def _find_route(self, session: requests.Session, post: Post) -> _Route:
        request, options = _prepare(session, post), _options(session)
        pool: Any = self.get_connection_with_tls_context(request, **options)
        self.cert_verify(pool, post.url, options["verify"], options["cert"])  # type: ignore[no-untyped-call]
        target = self.request_url(request, session.proxies)
        own = "".join(f"{name}: {value}\r\n" for name, value in _headers(session).items())
        return _Route(
            pool, target, f"POST {target} HTTP/1.1\r\nHost: {urlsplit(post.url).netloc}\r\n{own}"
        )

    @staticmethod
    def _use_own_pools(manager: PoolManager) -> PoolManager:
        manager.pool_classes_by_scheme = {"http": _UpstreamPool, "https": _UpstreamTLSPool}
        return manager


def _is_stale(error: BaseException | None) -> bool:
    """Whether an error is a `StaleConnectionError`, or urllib3's wrapping of one."""
    while error is not None and not isinstance(error, StaleConnectionError):
        error = error.__context__
    return error is not None
