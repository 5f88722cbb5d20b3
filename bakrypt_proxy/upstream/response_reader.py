"""Reads one response from the bytes that come: strictly, and not a byte beyond it.

httptools, the parser of Node.js, reads every response. What it accepts and RFC 9112 does not is
refused here.
"""

import sys
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .masking import Masked

_MAX_FRAMING = 256 * 1024  # bytes of a response that are not body: heads, chunk sizes, trailers
_SMALL_READS = 10_000  # besides one for each 64 bytes of body: a TLS record may hold one byte
_PART = 64  # bytes
_START = b"HTTP/1."
_NO_BODY = {204, 304}  # the final responses that never have one (RFC 9112 section 6.3)
_LENGTHS = {"content-length", "transfer-encoding"}
_SWITCHING_PROTOCOLS = 101
_ZLIB_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def most_bytes(limit: int) -> int:
    """Return how many bytes may come for a response with so many bytes of body, TLS included."""
    return 2 * limit + _MAX_FRAMING


class ProtocolError(Exception):
    """The response breaks HTTP/1.1, or ended too early."""


class Response(NamedTuple):
    """A final response. Header names are in lower case; the body is decoded.

    Only the first bytes of a body beyond the limit are there, so that it is longer than the limit.
    """

    status: int
    headers: Masked[Mapping[str, str]]
    body: Masked[bytes]


class ResponseReader:
    """Reads one response, after any interim ones (RFC 9110 section 15.2).

    Faults are noted and raised at the end: no frame that raises holds bytes of the response.
    """

    def __init__(self, limit: int, *, head_only: bool) -> None:
        self._parser = HttpResponseParser(self)
        # Else nothing may follow an interim response that says close, or one of HTTP/1.0.
        self._parser.set_dangerous_leniencies(
            lenient_keep_alive=True, lenient_chunked_length=head_only
        )
        self._limit = limit
        self._head_only = head_only
        self._start = b""
        self._status = 0  # until the head is complete
        self._values: Masked[dict[str, list[str]]] = Masked({})
        self._headers: Masked[dict[str, str]] = Masked({})
        self._body: Masked[list[bytes]] = Masked([])
        self._size = 0  # bytes of body
        self._fault = ""
        self._interruption: BaseException | None = None
        self._ends_with_connection = False
        self._keeps_alive = True  # until a response, be it an interim one, says close
        self._reads = 0
        self.received: int = 0  # bytes
        self.is_complete: bool = False
        self.is_reusable: bool = False

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
        if self.received > self._limit + _MAX_FRAMING:
            self._fault = "too much of headers, chunk sizes or trailers"
        if self._reads > _SMALL_READS + self._limit // _PART:
            self._fault = "too many small parts"
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
        :raises BaseException: what ended the call from outside, such as a signal.
        """
        del self._parser  # it refers to this object: without it, both are freed at once
        if self._interruption is not None:
            raise self._interruption from None
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
        """Take the head of a response, and check what the parser lets through."""
        headers = {key: ", ".join(values) for key, values in self._values.reveal().items()}
        self._headers, version = Masked(headers), self._parser.get_http_version()
        self._status = self._parser.get_status_code()
        self._ends_with_connection = headers.keys().isdisjoint(_LENGTHS)
        is_all = self._head_only and self._status >= 200
        fault = _fault_of(self._status, version, self._headers, is_all=is_all)
        self._fault = self._fault or fault
        if version == "1.0" and "close" in headers.get("connection", "").lower():
            self._keeps_alive = False  # the parser looks for keep-alive only
        if self._status in _NO_BODY:
            self._keeps_alive = False  # a server that sends one nevertheless may send it late
        self.is_complete = self.is_reusable = is_all

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
        handled = sys.exception()  # by the caller, perhaps
        try:
            self._parser.feed_data(part)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.is_reusable = False
            cause = error.__context__
            if cause is not handled and not isinstance(cause, HttpParserError | None):
                # A signal or another thread ends the call: the parser wraps that too. It may be an
                # Exception, as celery's SoftTimeLimitExceeded is.
                self._interruption = cause.with_traceback(None)
                self._fault = "interrupted"
            elif not self.is_complete:
                self._fault = self._fault or str(error)

    def _end(self) -> None:
        if self._status and self._ends_with_connection:
            self.is_complete = True
        else:
            self._fault = self._fault or "the response broke off"


def _fault_of(status: int, version: str, headers: Masked[dict[str, str]], *, is_all: bool) -> str:
    """Return what is wrong with a head (RFC 9112 sections 2.3, 6.1 and 6.3), or an empty string.

    :param is_all: it is the whole response, and neither a length nor a coding counts (RFC 9110
        section 9.3.6).
    """
    if version not in {"1.0", "1.1"} or status < 100:
        return "not HTTP/1"
    if status == _SWITCHING_PROTOCOLS:
        return "an upgrade that nobody asked for"
    if is_all:
        return ""
    coding = headers.reveal().get("transfer-encoding")
    if coding is not None and (version == "1.0" or coding.lower() != "chunked"):
        return "an unknown Transfer-Encoding"
    if status < 200 and {headers.reveal().get(name, "0") for name in _LENGTHS} != {"0"}:
        return "an interim response with a body"
    return ""


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
