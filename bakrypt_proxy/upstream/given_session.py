"""Requests through a `requests.Session` that a user passed in."""

import os
import ssl
import sys
from contextlib import suppress
from io import BytesIO
from typing import Any

import requests
from requests.exceptions import InvalidProxyURL, InvalidSchema
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy
from urllib3 import PoolManager
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    NewConnectionError,
    ResponseError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from ..errors import UpstreamFailedError
from .dialer import KEY_LOG_FAILED, find_environment_proxy, is_of_key_log
from .masking import Masked
from .response_reader import Response
from .transport import Request

# By OpenSSL, before it sends anything. A peer's weak certificate has other words.
_OWN_CERTIFICATE_REFUSED = {
    "EE_KEY_TOO_SMALL",
    "CA_KEY_TOO_SMALL",
    "CA_MD_TOO_WEAK",
    "NO_CERTIFICATE_ASSIGNED",
}
_CHUNK = 16 * 1024  # bytes
# `peer` is bakrypt, or bakrypt and the proxy before it, where requests does not tell which.
_FAILURES: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((requests.exceptions.RetryError,), "bakrypt failed, also when it was asked again"),
    ((requests.exceptions.ProxyError,), "{proxy} did not connect to bakrypt"),
    ((InvalidSchema, InvalidProxyURL, LocationParseError), "{proxy} cannot be used"),
    ((ssl.SSLError, SSLError), "no secure connection to {peer}"),
    # Before timeouts: urllib3 counts it as one.
    ((NewConnectionError,), "bakrypt could not be reached"),
    ((TimeoutError, requests.Timeout, Urllib3TimeoutError), "{peer} did not answer in time"),
)


class GivenSession:
    """Sends requests by `session.send`, where users' adapters and test tools hook in.

    The session's headers, adapters, certificates and proxies are used, and requests' own timeouts.
    Redirects are not followed, no cookie stays, and each call opens a connection. requests takes an
    interim response 102 or 103 for the final one, and such a call fails.
    """

    def __init__(self, session: requests.Session, url: str) -> None:
        self._session = session
        self._url = url
        self._pid = 0  # its owner may have used it in another process
        self._no_pools: Any = None

    def send(self, request: Request, *, timeout: float, limit: int) -> Response:
        """Send a request.

        :param timeout: in seconds, for connecting and for each read.
        :param limit: the most bytes of body to read.
        :raises UpstreamFailedError: if no response comes that can be read.
        """
        failure: UpstreamFailedError | None = None
        handled = sys.exception()  # by the caller, perhaps: it is no cause of ours
        try:
            self._keep_nothing(self._url + request.path)
            return self._send(request, timeout, limit)
        except (OSError, HTTPError, ValueError, OverflowError, MemoryError) as error:
            failure = _failure(_causes(error, handled), self._proxy_name())
        finally:
            self._session.cookies.clear()
        # Not `from error`: the frames of requests and urllib3 hold the request.
        raise failure from None

    def close(self) -> None:
        """Leave the session open: it is its owner's."""

    def _send(self, request: Request, timeout: float, limit: int) -> Response:
        session, url = self._session, self._url + request.path
        options = session.merge_environment_settings(url, {}, True, None, None)
        try:
            response = session.send(
                self._prepare(request), timeout=timeout, allow_redirects=False, **options
            )
        except requests.HTTPError as error:
            if error.response is None:
                raise
            response = error.response  # a hook of the session raised it for its status
        if response.raw is None:  # made by hand, as tests do
            response.raw = BytesIO(response.content or b"")
        with response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status_code, Masked(headers), _read(response, limit))

    def _proxy_name(self) -> str:
        """Return what errors call the proxy before bakrypt, or "". The environment's goes first."""
        found = find_environment_proxy(self._url) if self._session.trust_env else None
        if found is not None:
            return found[0]
        return "the session's proxy" if select_proxy(self._url, self._session.proxies) else ""

    def _prepare(self, request: Request) -> requests.PreparedRequest:
        """Return a request with the session's headers. `session.prepare_request` reads ~/.netrc."""
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = "POST", self._url + request.path
        # Ours is the first: one of the session's may read the body, or raise.
        prepared.prepare_hooks({"response": _take_over})
        prepared.prepare_hooks(self._session.hooks)
        prepared.body = request.body.reveal() or None
        own: dict[str, Any] = {
            name: value for name, value in self._session.headers.items() if value is not None
        }
        prepared.headers = CaseInsensitiveDict(own)
        # Where an adapter hides its pools, bakrypt closes the connection.
        prepared.headers.update(
            {"Accept": "application/json", "Connection": "close", **request.headers.reveal()}
        )
        prepared.headers["Content-Length"] = str(len(request.body.reveal()))
        return prepared

    def _keep_nothing(self, url: str) -> None:
        """Have the session's adapter use other connections for each call, however a call ends.

        What comes behind a response that requests takes for whole would be the response to another
        caller. A connection that a parent process opened would serve both processes.
        """
        adapter: Any = self._session.get_adapter(url)
        is_new_process = self._pid != os.getpid()
        if is_new_process:
            # New locks, too. A copied lock may be held by a thread that does not exist here, and
            # a lock of our own around this could be such a one.
            self._no_pools = PoolManager(num_pools=0).pools
            self._pid = os.getpid()
        manager = getattr(adapter, "poolmanager", None)
        if isinstance(manager, PoolManager) and manager.pools is not self._no_pools:
            # Not closed: a thread that is about to use one of its pools would fail.
            adapter.proxy_manager = _ProxyManagers(self._no_pools)
            manager.pools = self._no_pools
        if is_new_process and hasattr(adapter, "close"):
            with suppress(NotImplementedError):  # BaseAdapter's own
                adapter.close()  # it may keep connections in a way of its own


class _ProxyManagers(dict[str, Any]):
    """An adapter's managers of proxies, which it makes at the first call through each."""

    def __init__(self, pools: Any) -> None:
        super().__init__()
        self._pools = pools

    def __setitem__(self, proxy: str, manager: Any) -> None:
        manager.pools = self._pools
        super().__setitem__(proxy, manager)


def _take_over(response: requests.Response, **_: Any) -> None:
    """Drop the address of a redirect, and let the connection end with its response.

    requests would read the whole body of a redirect, however long. The connection would stay open
    until Python frees it, although no other call uses it.
    """
    response.headers.pop("Location", None)
    connection: Any = getattr(response.raw, "connection", None)
    sock = getattr(connection, "sock", None)
    if sock is not None:
        connection.sock = None  # urllib3 opens another for the next call
        sock.close()  # as soon as the response is read


def _read(response: requests.Response, limit: int) -> Masked[bytes]:
    body = Masked(bytearray())
    # Not response.raw: a hook of the session may have read it already.
    for chunk in response.iter_content(_CHUNK):
        body.reveal().extend(chunk)
        if len(body.reveal()) > limit:
            break
    return Masked(bytes(body.reveal()))


def _failure(causes: list[BaseException], proxy: str) -> UpstreamFailedError:
    """Name the kind of failure. Errors of requests are not quoted: they may hold a header."""
    description = next(
        (text for kinds, text in _FAILURES if any(isinstance(cause, kinds) for cause in causes)),
        "{reply} broke off or could not be read",
    ).format(
        proxy=proxy or "the session",
        peer=f"bakrypt or {proxy}" if proxy else "bakrypt",
        reply=f"the reply of bakrypt or of {proxy}" if proxy else "bakrypt's reply",
    )
    root = causes[-1]
    if is_of_key_log(root):
        description = KEY_LOG_FAILED
    elif _is_of_own_files(causes):
        description = "the certificates that REQUESTS_CA_BUNDLE or the session names cannot be used"
    is_quotable = isinstance(root, OSError) and not isinstance(root, requests.RequestException)
    is_quotable = is_quotable or isinstance(root, ResponseError)  # too many responses of a status
    quote = f": {root}" if is_quotable else ""
    return UpstreamFailedError(description, detail=f"{type(root).__name__}{quote}")


def _is_of_own_files(causes: list[BaseException]) -> bool:
    """Return whether a call failed by the files of this side's certificates, not by the peer's."""
    error, root = causes[0], causes[-1]
    if type(error) is OSError and str(error).startswith("Could not find "):  # said by requests
        return True
    if isinstance(root, ssl.SSLError):
        is_unreadable = str(root).startswith("[X509") or "PEM lib" in str(root)
        return is_unreadable or root.reason in _OWN_CERTIFICATE_REFUSED
    if isinstance(root, SSLError) and "private key is encrypted" in str(root):  # urllib3's words
        return True
    is_denied = isinstance(root, PermissionError) and isinstance(
        error, requests.exceptions.SSLError
    )
    is_folder = isinstance(root, IsADirectoryError) and isinstance(error, requests.ConnectionError)
    return is_denied or is_folder


def _causes(error: BaseException | None, handled: BaseException | None) -> list[BaseException]:
    """Return an error and its causes, without one that was handled before it was raised."""
    causes: list[BaseException] = []
    while error is not None and not any(error is known for known in causes):  # not in a ring
        causes.append(error)
        error = error.__cause__ or error.__context__
        if error is handled:
            break
    return causes
