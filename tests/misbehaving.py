"""An upstream over real sockets that misbehaves on request."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import parse_qs

TOKEN_REPLY = {
    "access_token": "an-access-token",
    "expires_in": 36000,
    "token_type": "Bearer",
    "scope": "read write",
    "refresh_token": "a-refresh-token",
}


@dataclass
class Received:
    """A request that the upstream received. `connection` counts the connections from 1."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def form(self) -> dict[str, list[str]]:
        """The fields of a form."""
        return parse_qs(self.body.decode(), keep_blank_values=True, strict_parsing=True)


Behaviour = Callable[["Upstream", socket.socket, Received], None]


@dataclass
class Upstream:
    """Answers each request with `behave` and keeps the connection open unless that closes it."""

    behave: Behaviour = field(default_factory=lambda: replying(200, TOKEN_REPLY))
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    reads_bodies: bool = True

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.stopped = threading.Event()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            _close(connection)
        for thread in self._threads:
            thread.join()

    @property
    def url(self) -> str:
        """The address to set as `BAKRYPT_URL`."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def environ(self) -> dict[str, str]:
        """Settings for this upstream, with planted credentials."""
        return {
            "BAKRYPT_URL": self.url,
            "BAKRYPT_TOKEN": "planted-exchange-secret",
            "BAKRYPT_CLIENT_ID": "planted-client-id",
            "BAKRYPT_CLIENT_SECRET": "planted-client-secret",
            "BAKRYPT_TIMEOUT": "1",
        }

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # What is sent is there at once: a test may wait for it.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, len(self._open)))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self.tls is not None:
                connection = self._open[number - 1] = self.tls.wrap_socket(
                    connection, server_side=True
                )
            with connection, connection.makefile("rb") as stream:
                while (
                    received := _receive(stream, number, with_body=self.reads_bodies)
                ) is not None:
                    self.requests.append(received)
                    self.behave(self, connection, received)
        except OSError:
            return


def _receive(stream: BinaryIO, number: int, *, with_body: bool) -> Received | None:
    line = stream.readline().decode("latin-1").strip()
    if not line:
        return None
    headers: dict[str, str] = {}
    while header := stream.readline().decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", "0"))) if with_body else b""
    return Received(line, headers, body, number)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def head(status: int, length: int, *headers: str) -> bytes:
    """Return the head of a response."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def replying(status: int, body: object, *headers: str) -> Behaviour:
    """Return a behaviour that sends this body: bytes as HTML, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = (
        "Content-Type: text/html" if isinstance(body, bytes) else "Content-Type: application/json"
    )
    return lambda upstream, connection, _: connection.sendall(
        head(status, len(content), kind, *headers) + content
    )


def token_for(received: Received) -> dict[str, object]:
    """A token that names its caller, so that another caller's is recognised."""
    return TOKEN_REPLY | {"access_token": f"token-of-{received.form['username'][0]}"}


def reply_to_each(upstream: "Upstream", connection: socket.socket, received: Received) -> None:
    """Give each caller a token of its own."""
    replying(200, token_for(received))(upstream, connection, received)


def sending(*parts: bytes | float, close: bool = False) -> Behaviour:
    """Send bytes as they are. A number is a pause in seconds."""

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        for part in parts:
            if isinstance(part, bytes):
                connection.sendall(part)
            else:
                upstream.stopped.wait(part)
        if close:
            close_cleanly(connection)

    return behave


def endlessly(start: bytes, again: bytes, *, pause: float = 0) -> Behaviour:
    """Send the start, and then something again and again."""

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(start)
        while not upstream.stopped.wait(pause):
            connection.sendall(again)

    return behave


def close_cleanly(connection: socket.socket) -> None:
    """End a connection, over TLS with the alert that says so."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(0)  # the alert is sent; the other side's is not waited for
        with contextlib.suppress(OSError):
            connection.unwrap()
    _close(connection)
    raise ConnectionError("closed")


def hang(upstream: Upstream, connection: socket.socket, received: Received) -> None:
    """Never respond."""
    upstream.stopped.wait()


def drip_body(upstream: Upstream, connection: socket.socket, received: Received) -> None:
    """Send one byte from time to time, so that no single read times out."""
    connection.sendall(head(200, 1000))
    _drip(upstream, connection)


def drip_head(upstream: Upstream, connection: socket.socket, received: Received) -> None:
    """Send a header one byte at a time, so that no single read times out."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Endless: ")
    _drip(upstream, connection)


def _drip(upstream: Upstream, connection: socket.socket) -> None:
    while not upstream.stopped.wait(0.2):
        connection.sendall(b" ")


def close_half_way(upstream: Upstream, connection: socket.socket, received: Received) -> None:
    """Close the connection in the middle of the body."""
    connection.sendall(head(200, 1000) + b'{"access_token": "half')
    _close(connection)


def close_at_once(upstream: Upstream, connection: socket.socket, received: Received) -> None:
    """Close the connection without sending a byte."""
    _close(connection)


def echo_as_error(upstream: Upstream, connection: socket.socket, received: Received) -> None:
    """Repeat the caller's credentials in an error, as a careless server might."""
    description = f"{received.headers.get('authorization')} {received.body.decode()}"
    replying(400, {"error": "invalid_request", "error_description": description})(
        upstream, connection, received
    )
