"""Opens connections: TCP, a proxy's tunnel and TLS, within a deadline.

Proxy and CA bundle are read from the environment once, when the dialer is made.
"""

import base64
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from .._parsers import is_loopback
from ..errors import SettingsError, UpstreamFailedError
from .connection import Connection
from .deadline_socket import BoundedSocket, DeadlineSocket
from .masking import Masked
from .response_reader import ProtocolError
from .tls import TlsSocket

KEY_LOG_FAILED = "the file that SSLKEYLOGFILE names could not be written"
_PORTS = {"http": 80, "https": 443}


class Dialer:
    """Opens connections to one origin, through the environment's proxy if it names one.

    :raises SettingsError: if that proxy cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._origin = urlsplit(url)
        self._proxy = _find_proxy(url)
        self._ca_setting, self._ca_path = _find_ca_bundle()
        self._tls_context: ssl.SSLContext | None = None

    def dial(self, deadline: float) -> Connection:
        """Return a new connection.

        A look-up of the host's name counts, but cannot be cut short.

        :param deadline: in seconds of the monotonic clock.
        :raises UpstreamFailedError: if there is no connection by then.
        """
        host, port = _host_and_port(self._origin)
        is_tls = self._origin.scheme == "https" and self._open_tls_context() is not None
        if self._proxy is None:
            sock: BoundedSocket = _open_socket(host, port, "bakrypt", deadline)
        else:
            sock = self._open_tunnel(self._proxy, host, port, deadline)
        return Connection(self._start_tls(sock, host, "bakrypt", deadline) if is_tls else sock)

    def _open_tunnel(self, proxy: "_Proxy", host: str, port: int, deadline: float) -> BoundedSocket:
        sock: BoundedSocket = _open_socket(proxy.host, proxy.port, proxy.name, deadline)
        if proxy.scheme == "https":
            sock = self._start_tls(sock, proxy.host, proxy.name, deadline)
        connection = Connection(sock)
        with _closing_on_failure(sock, proxy.name, f"{proxy.name} gave no usable answer"):
            message = proxy.connect_message(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            status = connection.exchange(message, deadline=deadline, limit=0, head_only=True).status
            if not 200 <= status < 300:
                raise UpstreamFailedError(f"{proxy.name} refused to connect (status {status})")
            if not connection.is_reusable:
                raise ProtocolError("more than the head of a response")
        return sock

    def _start_tls(self, sock: BoundedSocket, host: str, peer: str, deadline: float) -> TlsSocket:
        with _closing_on_failure(sock, peer, f"no secure connection to {peer}"):
            return TlsSocket(sock, self._open_tls_context(), host.rstrip("."), deadline)

    def _open_tls_context(self) -> ssl.SSLContext:
        """Return what checks certificates. It is made once.

        Not by `cached_property`: until Python 3.12 that takes a lock, and a process that forks
        meanwhile would wait for it without end.
        """
        if self._tls_context is None:
            self._tls_context = self._read_certificates()
        return self._tls_context

    def _read_certificates(self) -> ssl.SSLContext:
        path = Path(self._ca_path)
        try:
            if path.is_dir():
                context = ssl.create_default_context(capath=path)
            else:
                context = ssl.create_default_context(cafile=path)
        except OSError as error:
            description = f"the certificates that {self._ca_setting} names could not be read"
            if is_of_key_log(error):
                description = KEY_LOG_FAILED
            raise UpstreamFailedError(description, detail=str(error)) from error
        context.set_alpn_protocols(["http/1.1"])
        # A server could ask for one after the other: each is a whole handshake. TLS 1.3 has none.
        context.options |= ssl.OP_NO_RENEGOTIATION
        return context


class _Proxy(NamedTuple):
    """A proxy of the environment; `name` is what errors call it."""

    name: str
    scheme: str
    host: str
    port: int
    authorization: Masked[bytes]

    def connect_message(self, target: str) -> Masked[bytes]:
        """Return a request for a tunnel (RFC 9110 section 9.3.6)."""
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n".encode()
        return Masked(head + self.authorization.reveal() + b"\r\n")


def find_environment_proxy(url: str) -> tuple[str, Masked[str]] | None:
    """Return what errors call the environment's proxy for a URL, and its address.

    Not the address in an error: it may hold the proxy's password.

    :raises SettingsError: if the environment cannot be read.
    """
    try:
        proxies = Masked(get_environ_proxies(url))
    except UnicodeError:
        raise SettingsError("NO_PROXY cannot be read: it is not UTF-8") from None
    if not select_proxy(url, proxies.reveal()):
        return None
    scheme = urlsplit(url).scheme
    setting = f"{scheme.upper()}_PROXY" if scheme in proxies.reveal() else "ALL_PROXY"
    return f"the proxy that {setting} names", Masked(select_proxy(url, proxies.reveal()) or "")


def _find_proxy(url: str) -> _Proxy | None:
    """Return the environment's proxy. One on another machine could not reach a loopback address."""
    found = None if is_loopback(urlsplit(url).hostname or "") else find_environment_proxy(url)
    if found is None:
        return None
    name, address = found
    proxy = _parse_proxy(name, address)
    if proxy is None:
        raise SettingsError(f"{name} must be an http:// or https:// address")
    return proxy


def _parse_proxy(name: str, address: Masked[str]) -> _Proxy | None:
    text = address.reveal()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = _host_and_port(parts)
    except (ValueError, KeyError):
        return None
    if not host or parts.scheme not in _PORTS:
        return None
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    # fsencode: what is no UTF-8 in the environment cannot be encoded otherwise.
    pair = unquote_to_bytes(os.fsencode(f"{user}:{password}")) if user or password else b""
    credentials = base64.b64encode(pair)
    line = b"Proxy-Authorization: Basic %b\r\n" % credentials if credentials else b""
    return _Proxy(name, parts.scheme, host, port, Masked(line))


def _host_and_port(address: SplitResult) -> tuple[str, int]:
    return address.hostname or "", address.port or _PORTS[address.scheme]


def _find_ca_bundle() -> tuple[str, str]:
    """Return which setting names the certificates to trust, and where they are."""
    for setting in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := os.environ.get(setting):
            return setting, path
    return "requests", DEFAULT_CA_BUNDLE_PATH


def _open_socket(host: str, port: int, peer: str, deadline: float) -> DeadlineSocket:
    """Try each address of a host for its share of the time that is left."""
    failure: OSError | UnicodeError = TimeoutError("the name was looked up too late")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys((_numeric(address), port) for *_, address in found))
    except (OSError, UnicodeError) as error:
        failure, addresses = error, []
    for tried, address in enumerate(addresses):
        share = (deadline - time.monotonic()) / (len(addresses) - tried)
        if share <= 0:
            break
        try:
            sock = socket.create_connection(address, share)
        except OSError as error:
            failure = error
        else:
            with suppress(OSError):  # macOS refuses it if the other side has reset the connection
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return DeadlineSocket(sock)
    raise describe_failure(failure, peer, f"{peer} could not be reached") from failure


def _numeric(address: Any) -> str:
    """Return an address of `getaddrinfo` with its zone, as in `fe80::1%eth0` (RFC 4007)."""
    return socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


@contextmanager
def _closing_on_failure(sock: BoundedSocket, peer: str, description: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        sock.close()
        # ValueError: TLS cannot carry a host name such as `a..b`.
        if isinstance(error, OSError | ProtocolError | ValueError):
            raise describe_failure(error, peer, description) from error
        raise


def is_of_key_log(error: BaseException) -> bool:
    """Return whether Python failed to open the file into which it writes TLS' keys."""
    path = os.environ.get("SSLKEYLOGFILE")
    return bool(path) and isinstance(error, OSError) and error.filename == path


def describe_failure(error: Exception, peer: str, otherwise: str) -> UpstreamFailedError:
    """Return the error that names a failure. It quotes the system, TLS or the parser only."""
    description = otherwise
    if isinstance(error, TimeoutError):
        description = f"{peer} did not answer in time"
    elif isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        description = f"no secure connection to {peer}"
    return UpstreamFailedError(description, detail=f"{type(error).__name__}: {error}")
