"""One exchange of bytes over an open connection: a deadline, a strict parser, nothing left behind.

httptools, the parser of Node.js, reads every response. What it accepts and RFC 9112 does not is
refused here. The deadline is checked before each read and each write.
"""

import ssl
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .deadline_socket import BoundedSocket, time_left
from .masking import Masked

_READ_SIZE = 64 * 1024  # bytes; more than the 16 KiB of a TLS record, so that none is left in part
_MAX_FRAMING = 256 * 1024  # bytes of a response that are not body: heads, chunk sizes, trailers
_MAX_READS = 10_000  # of a response; TLS hands out each record by itself, be it one byte long
_GLANCE = 0.01  # seconds that a look for an early response may wait for the rest of a TLS record
_START = b"HTTP/1."
_LENGTHS = {"content-length", "transfer-encoding"}
_SWITCHING_PROTOCOLS = 101
_ZLIB_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_ENDED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class ProtocolError(Exception):
    """The response breaks HTTP/1.1, or ended too early."""


class NoResponseError(ConnectionError):
    """The connection ended before a single byte of the response."""


class Response(NamedTuple):
    """A final response. Header names are in lower case; the body is decoded.

    Only the first bytes of a body beyond the limit are there, so that it is longer than the limit.
    """

    status: int
    headers: Masked[Mapping[str, str]]
    body: Masked[bytes]


class Connection:
    """An open connection, which takes one request at a time.

    After an exchange, `is_reusable` says whether another request may follow. `is_kept` says whether
    it was kept for a later call.
    """

    def __init__(self, sock: BoundedSocket) -> None:
        self._sock = sock
        self.is_reusable: bool = False
        self.is_kept: bool = False
        self._kept_at = (0.0, 0.0)

    def keep(self) -> None:
        """Note that the connection is kept for a later call, from now on."""
        self.is_kept = True
        self._kept_at = (time.monotonic(), time.time())

    def idle_seconds(self) -> float:
        """Return for how long it has been kept, the time included that the machine slept."""
        monotonic, wall = self._kept_at
        return max(time.monotonic() - monotonic, time.time() - wall)

    def is_quiet(self) -> bool:
        """Return whether nothing was received since the last response, not even an end.

        Part of a TLS record counts: its rest would become the next response.
        """
        return self._sock.is_quiet()

    def exchange(
        self, request: Masked[bytes], *, deadline: float, limit: int, head_only: bool = False
    ) -> Response:
        """Send a whole request and return the final response to it.

        :param deadline: in seconds of the monotonic clock.
        :param limit: the most bytes of body to read, before and after decoding.
        :param head_only: for the response to CONNECT, which has no body (RFC 9110 section 9.3.6).
        :raises TimeoutError: when the deadline has passed.
        :raises NoResponseError: if the connection ended before a byte of the response.
        :raises ProtocolError: if the response cannot be read.
        :raises OSError: for anything else that the operating system or TLS reports.
        """
        self.is_reusable = False
        is_sent = self._send(request, deadline)
        reader = _ResponseReader(limit, head_only=head_only)
        self._receive(reader, deadline)
        response = reader.response()
        self.is_reusable = is_sent and reader.is_reusable
        return response

    def stream(
        self,
        head: Masked[bytes],
        parts: Iterable[bytes],
        *,
        silence: float,
        first_byte: float,
        limit: int,
    ) -> Response:
        """Send a request part by part, and return the final response to it.

        A response that comes before all parts are sent ends the sending.

        :param silence: seconds that sending one part may take, and the response after its start.
        :param first_byte: seconds from the last part to the first byte of the response.
        :param limit: the most bytes of body to read, before and after decoding.
        :raises Exception: as `exchange`, and what `parts` raises.
        """
        self.is_reusable = False
        reader = _ResponseReader(limit, head_only=False)
        is_sent = self._send(head, time.monotonic() + silence)
        for part in parts:
            if not is_sent or self._has_response(reader):
                is_sent = False
                break
            is_sent = self._send_part(reader, Masked(part), time.monotonic() + silence)
        deadline = time.monotonic() + (first_byte if is_sent else silence)
        while not reader.has_begun:
            self._receive_once(reader, deadline)
        self._receive(reader, time.monotonic() + silence)
        response = reader.response()
        self.is_reusable = is_sent and reader.is_reusable
        return response

    def _send_part(self, reader: "_ResponseReader", part: Masked[bytes], deadline: float) -> bool:
        """Return False if upstream stopped reading, also if it keeps the connection open."""
        try:
            return self._send(part, deadline)
        except TimeoutError:
            if self._has_response(reader):
                return False
            raise

    def _has_response(self, reader: "_ResponseReader") -> bool:
        """Read what is there, and return whether the final response has begun."""
        if self.is_quiet():
            return False
        self._sock.settimeout(_GLANCE)
        try:
            reader.feed(self._sock.recv(_READ_SIZE))
        except TimeoutError:
            return False  # a part of a TLS record, or one that is not for us
        except _ENDED:
            return True  # the next read says how it ended
        return reader.has_begun

    def _send(self, request: Masked[bytes], deadline: float) -> bool:
        """Return False if upstream stopped reading: its response may be there nevertheless."""
        sent, size = 0, len(request.reveal())
        failure: OSError | None = None
        while sent < size and failure is None:
            self._sock.settimeout(time_left(deadline))
            try:
                sent += self._sock.send(request.reveal()[sent:])
            except OSError as error:
                # Not with its traceback: the frames of the ssl module hold the request.
                failure = error.with_traceback(None)
        if failure is not None and not isinstance(failure, _ENDED):
            raise failure
        return failure is None

    def _receive(self, reader: "_ResponseReader", deadline: float) -> None:
        while not reader.is_done:
            self._receive_once(reader, deadline)
        if reader.received == 0:
            raise NoResponseError("the connection was closed")

    def _receive_once(self, reader: "_ResponseReader", deadline: float) -> None:
        self._sock.settimeout(time_left(deadline))
        try:
            # Not kept in a variable: it may be a token.
            reader.feed(self._sock.recv(_READ_SIZE))
        except _ENDED as error:
            if reader.received == 0:
                raise NoResponseError(*error.args) from error
            raise ProtocolError("the response broke off") from error

    def close(self) -> None:
        """Close the connection."""
        self.is_reusable = False
        self._sock.close()


class _ResponseReader:
    """Reads one response, after any interim ones (RFC 9110 section 15.2).

    Faults are noted and raised at the end: no frame that raises holds bytes of the response.
    """

    def __init__(self, limit: int, *, head_only: bool) -> None:
        self._parser = HttpResponseParser(self)
        # Else nothing may follow an interim response that says close, or one of HTTP/1.0.
        self._parser.set_dangerous_leniencies(lenient_keep_alive=True)
        self._limit = limit
        self._head_only = head_only
        self._start = b""
        self._status = 0  # until the head is complete
        self._values: Masked[dict[str, list[str]]] = Masked({})
        self._headers: Masked[dict[str, str]] = Masked({})
        self._body: Masked[list[bytes]] = Masked([])
        self._size = 0  # bytes of body
        self._fault = ""
        self._ends_with_connection = False
        self._keeps_alive = True  # until a response, be it an interim one, says close
        self._reads = 0
        self.received = 0  # bytes
        self.is_complete = False
        self.is_reusable = False

    @property
    def has_begun(self) -> bool:
        """Whether the head of the final response was read, or will never be."""
        return self._status >= 200 or self.is_done

    @property
    def is_done(self) -> bool:
        """Whether nothing more needs to be read."""
        return self.is_complete or bool(self._fault) or self._size > self._limit

    def feed(self, data: bytes) -> None:
        """Take the next bytes. No bytes mean that the connection ended."""
        self._reads += 1
        self.received += len(data)
        self._start += data[: len(_START) - len(self._start)]
        if not _START.startswith(self._start):
            self._fault = "not HTTP/1"
        if self._reads > _MAX_READS or self.received > self._limit + _MAX_FRAMING:
            self._fault = "too much of headers, chunk sizes or trailers"
        if not data:
            self._end()
        # The last byte by itself: a response that is complete before it has something behind it.
        for part in (data[:-1], data[-1:]):
            if self.is_complete:
                self.is_reusable = False
            elif part and not self._fault:
                self._parse(part)

    def response(self) -> Response:
        """Return the response.

        :raises ProtocolError: if there is none that can be used.
        """
        del self._parser  # it refers to this object: without it, both are freed at once
        body: Masked[bytes] | None = Masked(b"".join(self._body.reveal()))
        if body is not None and self._size <= self._limit and not self._fault:
            body = _decode(body, self._headers, self._limit)
        if body is None:
            self._fault = "an unknown or broken Content-Encoding"
        if self._fault or body is None:
            raise ProtocolError(self._fault)
        return Response(self._status, self._headers, body)

    def on_message_begin(self) -> None:
        """Stop at a second response in the same bytes."""
        if self.is_complete:
            raise HttpParserError("another response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. A trailer is ignored: it must not replace a header."""
        if self._status:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        # Joined at the end: 60,000 lines of one name, joined one by one, would take a second.
        self._values.reveal().setdefault(key, []).append(text)

    def on_headers_complete(self) -> None:
        """Check what the parser lets through (RFC 9112 sections 2.3, 6.1 and 6.3)."""
        headers = {key: ", ".join(values) for key, values in self._values.reveal().items()}
        self._headers, version = Masked(headers), self._parser.get_http_version()
        coding = headers.get("transfer-encoding", "chunked").lower()
        self._status = self._parser.get_status_code()
        self._ends_with_connection = headers.keys().isdisjoint(_LENGTHS)
        if version not in {"1.0", "1.1"} or self._status < 100:
            self._fault = "not HTTP/1"
        if self._status == _SWITCHING_PROTOCOLS:
            self._fault = "an upgrade that nobody asked for"
        if coding != "chunked" or (version == "1.0" and "transfer-encoding" in headers):
            self._fault = "an unknown Transfer-Encoding"
        self.is_complete = self.is_reusable = self._head_only and self._status >= 200

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._size += len(body)
        self._body.reveal().append(body)

    def on_message_complete(self) -> None:
        """Note the end of the response. After an interim one, the final one is still to come."""
        if self.is_complete:
            return  # the head was enough
        # Only here does the parser know.
        self._keeps_alive = self._keeps_alive and self._parser.should_keep_alive()
        if self._status < 200:
            self._status = 0
            self._values.reveal().clear()
            return
        self.is_complete = True
        self.is_reusable = self._keeps_alive

    def _parse(self, part: bytes) -> None:
        try:
            self._parser.feed_data(part)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.is_reusable = False
            if error.__context__ is not None and not isinstance(error.__context__, Exception):
                # A signal or another thread ends this thread: the parser wraps that too.
                raise error.__context__ from None
            if not self.is_complete:
                self._fault = self._fault or str(error)

    def _end(self) -> None:
        if self._status and self._ends_with_connection:
            self.is_complete = True
        else:
            self._fault = self._fault or "the response broke off"


def _decode(
    body: Masked[bytes], headers: Masked[dict[str, str]], limit: int
) -> Masked[bytes] | None:
    """Return the body without its compression, or None if that is unknown or broken.

    Requests ask for no compression, but something between may add it.
    """
    coding = headers.reveal().get("content-encoding", "identity").lower()
    if coding == "identity" or not body.reveal():
        return body
    if coding not in _ZLIB_WINDOWS:
        return None
    decoder = zlib.decompressobj(_ZLIB_WINDOWS[coding])
    try:
        decoded = Masked(decoder.decompress(body.reveal(), limit + 1))
    except zlib.error:
        return None
    is_whole = decoder.eof and not decoder.unused_data
    return decoded if is_whole or len(decoded.reveal()) > limit else None
