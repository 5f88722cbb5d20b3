"""One connection to bakrypt: a deadline over each call, and a lean way to ask over a connection that is open already.

http.client and urllib3 connect, and read whatever a server may send. The lean way is for what nearly every reply is: a
head in one piece, then a body of the length that it states. Through http.client, such a call takes twice as long.
"""

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)
from urllib3.response import HTTPResponse
from urllib3.util import wait_for_read, wait_for_write

SHORTEST = 0.001  # seconds; urllib3 takes no timeout of zero
_USUAL_HEAD = re.compile(
    rb"HTTP/1\.1 (?!204)([245]\d\d) [^\r\n]*\r\n((?:[\w-]+:[^\r\n\0]*\r\n)+)\r\n"
)
_USUAL_LENGTH = re.compile(r"\d{1,9}", re.ASCII)
_UNUSUAL = {"transfer-encoding", "content-encoding"}


class NoAnswerError(ConnectionResetError):
    """The connection ended before a single byte of the reply."""


class StaleConnectionError(NoAnswerError):
    """A kept-alive connection ended before a single byte of the reply: upstream had closed it while it was idle."""


class Answer(NamedTuple):
    """What came back. `headers` knows its names in lower case; `body` has at most as many bytes as were asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _DeadlineReader(io.RawIOBase):
    """The reading end of a socket that does not block. It gives up at `end`, in seconds of the monotonic clock.

    A socket's own timeout would begin anew with each byte.
    """

    def __init__(self, sock: socket.socket, end: float) -> None:
        sock.settimeout(0)
        self._sock = sock
        # Not the socket itself: the stream keeps it open when the connection is closed before the body was read.
        self._stream = cast("io.RawIOBase", sock.makefile("rb", buffering=0))
        self._end = end
        self.received = 0  # bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # a Buffer, which typing names only from Python 3.12 on
        try:
            count = self._receive(buffer)
        except ConnectionError as error:
            if self.received:
                raise
            raise NoAnswerError(*error.args) from error
        if not count and not self.received:
            raise NoAnswerError("upstream closed the connection")
        self.received += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _receive(self, buffer: Any) -> int:
        count = None
        if not self.received:
            wait_until(self._end, wait_for_read, self._sock)
        while count is None:
            try:
                count = self._stream.readinto(buffer)
            except ssl.SSLWantReadError:
                count = None
            if count is None:
                wait_until(self._end, wait_for_read, self._sock)
        return count


def wait_until(end: float, wait: Callable[..., bool], sock: socket.socket) -> None:
    """Wait for a socket to be ready."""
    left = end - time.monotonic()
    if left <= 0 or not wait(sock, left):
        raise TimeoutError("the deadline has passed")


class _Source(NamedTuple):
    """What http.client's reply takes for a socket."""

    reader: "io.BufferedReader[Any]"

    def makefile(self, _: str) -> "io.BufferedReader[Any]":
        """Return the reading end."""
        return self.reader


class _DeadlineResponse(http.client.HTTPResponse):
    """http.client's reply, read until the socket's timeout is over, which urllib3 has set to what is left."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        end = time.monotonic() + (sock.gettimeout() or 0)
        source = _Source(io.BufferedReader(_DeadlineReader(sock, end)))
        super().__init__(cast("socket.socket", source), *args, **kwargs)


class UpstreamConnection(HTTPConnection):
    """A connection that knows whether it has served a call before, and keeps to a deadline."""

    response_class = _DeadlineResponse
    _has_answered = False

    def connect(self) -> None:
        """Connect, as urllib3 does."""
        self._has_answered = False
        super().connect()

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 itself overrides it
        """Return the reply to what was sent by urllib3."""
        try:
            response = super().getresponse()
        except NoAnswerError as error:
            if self._has_answered:
                raise StaleConnectionError(*error.args) from error
            raise
        if response.status < 200:
            # The real reply is still to come, and would be taken for the reply to the next call.
            self.close()
        self._has_answered = True
        return response

    def ask(self, message: bytes, *, end: float, limit: int) -> Answer:
        """Send a whole request over this connection, which is open, and return the reply, of `limit` bytes at most.

        `end` is the deadline, in seconds of the monotonic clock. After anything but a complete reply, the connection is
        closed.
        """
        is_reusable = False
        try:
            raw = _DeadlineReader(self.sock, end)
            self._send_by(end, message)
            answer, is_reusable = _read_answer(raw, limit)
        except NoAnswerError as error:
            raise StaleConnectionError(*error.args) from error
        except http.client.HTTPException as error:
            raise ProtocolError("the reply could not be read") from error
        finally:
            if not is_reusable:
                self.close()
        return answer

    def _send_by(self, end: float, message: bytes) -> None:
        sock, left = self.sock, memoryview(message)
        while left:
            try:
                left = left[sock.send(left) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                wait_until(end, wait_for_write, sock)
            except ssl.SSLWantReadError:
                wait_until(end, wait_for_read, sock)
            except ConnectionError as error:
                raise NoAnswerError(*error.args) from error

    def _new_conn(self) -> socket.socket:
        """Connect within `timeout`, look-up included: urllib3 would grant it to each of the addresses anew."""
        host, timeout = self._dns_host, self.timeout or 0
        end = time.monotonic() + timeout
        addresses = self._look_up(host)
        failure: NewConnectionError | ConnectTimeoutError = ConnectTimeoutError(
            self, "the name was looked up too late"
        )
        while addresses and (left := end - time.monotonic()) > 0:
            self._dns_host, self.timeout = addresses[0], left / len(addresses)
            try:
                sock = super()._new_conn()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
                addresses.pop(0)
            else:
                sock.settimeout(max(end - time.monotonic(), SHORTEST))
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


class UpstreamTLSConnection(UpstreamConnection, HTTPSConnection):
    """The same over TLS."""


class _Head(NamedTuple):
    """The head of a usual reply: it takes `size` bytes, and `length` of body follow."""

    status: int
    headers: dict[str, str]
    size: int
    length: int


def _read_answer(raw: _DeadlineReader, limit: int) -> tuple[Answer, bool]:
    """Return a reply, and whether another call may follow on its connection."""
    with io.BufferedReader(raw) as reader:
        head = _usual_head(reader.peek())
        if head is None:
            return _read_with_urllib3(reader, limit)
        wanted = head.size + min(head.length, limit)
        whole = reader.read(wanted)
    if len(whole) < wanted:
        raise ProtocolError("the reply broke off")
    ends_there = raw.received == head.size + head.length  # what came besides is nobody's reply
    answer = Answer(head.status, head.headers, whole[head.size :])
    return answer, ends_there and head.headers.get("connection", "").lower() != "close"


def _usual_head(start: bytes) -> _Head | None:
    """Read a head that is there as a whole, without a header that stands twice, and before a body of known length."""
    found = _USUAL_HEAD.match(start)
    if found is None:
        return None
    lines = found[2].decode("latin-1").split("\r\n")[:-1]
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    length = headers.get("content-length", "")
    if (
        len(headers) < len(lines)
        or not _UNUSUAL.isdisjoint(headers)
        or not _USUAL_LENGTH.fullmatch(length)
    ):
        return None
    return _Head(int(found[1]), headers, found.end(), int(length))


def _read_with_urllib3(reader: "io.BufferedReader[Any]", limit: int) -> tuple[Answer, bool]:
    """Read whatever else HTTP allows: chunks, compression, a body that ends with its connection, cookies."""
    reply = http.client.HTTPResponse(cast("socket.socket", _Source(reader)), method="POST")
    reply.begin()
    response = HTTPResponse(reply, dict(reply.headers), reply.status, preload_content=False)
    body = response.read(limit, decode_content=True)
    is_final = (
        reply.status >= 200
    )  # after an interim one, the real reply would be taken for that to the next call
    return Answer(
        reply.status, response.headers, body
    ), is_final and reply.isclosed() and not reply.will_close
