"""The bodies of requests: their declared length, all of one, and what is left after the response.

A server that closes a connection with unread bytes in it resets it. nginx, if it is still sending
the body, then answers with a 502 of its own in place of our response.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import BoundedSemaphore
from typing import IO, TYPE_CHECKING, cast

from flask import Request, Response
from werkzeug.exceptions import BadRequest, ClientDisconnected, RequestEntityTooLarge
from werkzeug.wsgi import LimitedStream, get_input_stream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_GUNICORN = "gunicorn.socket"  # in the WSGI environ
_SAFE_WITH_CHUNKS = ("Granian", "Werkzeug/")  # in SERVER_SOFTWARE
_MOST_DIGITS = 18  # of a length
_LONGEST_REST = 2.0  # seconds; a proxy that buffers requests needs some milliseconds
_PART = 8 * 1024  # bytes, small: a slow caller's part is waited for
# Of a process. On most servers a body that stalls keeps its thread until the caller leaves.
_PLACES = BoundedSemaphore(8)


def declared_length(request: Request) -> int | None:
    """Return a body's Content-Length, in bytes, or None if there is none.

    :raises BadRequest: if it is no number (RFC 9112 section 6.3); werkzeug takes that for 0.
    """
    text = request.environ.get("CONTENT_LENGTH") or ""  # servers may set an empty one (PEP 3333)
    if text and not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise BadRequest("the Content-Length is not valid")
    return int(text) if text else None


def read_body(request: Request, limit: int) -> bytes:
    """Return a whole body. It stays readable for the app.

    :param limit: the most bytes that it may have.
    :raises BadRequest: if its length is not valid.
    :raises RequestEntityTooLarge: if it is larger.
    :raises ClientDisconnected: if the caller left before all of it was there.
    """
    length = declared_length(request) or 0
    if length > limit:
        raise RequestEntityTooLarge
    if length and not is_chunked(request) and "stream" not in vars(request):
        # As werkzeug does on some servers only. On the others it reads once more for the end.
        request.stream = cast("IO[bytes]", LimitedStream(request.environ["wsgi.input"], length))
    # One more than allowed: werkzeug cuts off a chunked body at its limit without an error.
    request.max_content_length = limit + 1
    size = len(request.get_data())
    if size > limit:
        raise RequestEntityTooLarge
    if 0 < size < length:
        # Werkzeug does not compare in a stream of the host's if the input ends by itself.
        raise ClientDisconnected
    return request.get_data()


def read_rest_after(response: Response, request: Request) -> None:
    """Have the rest of a request's body read and thrown away once its response is sent."""
    environ = request.environ
    in_chunks = is_chunked(request)
    has_rest = environ.get("CONTENT_LENGTH") not in {None, "", "0"} and not _is_read(request)
    if not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
        return  # Each request of HTTP/2 has a stream of its own, which ends without the others.
    # Who asks before sending a body sends none now, except where gunicorn has said yes already.
    is_sent = "HTTP_EXPECT" not in environ or _GUNICORN in environ
    if is_sent and (in_chunks or has_rest) and _keeps_place(environ, in_chunks=in_chunks):
        response.call_on_close(partial(_read_rest, request))


def is_chunked(request: Request) -> bool:
    """Return whether a body comes in chunks; its Content-Length does not count then."""
    return "HTTP_TRANSFER_ENCODING" in request.environ


def _is_read(request: Request) -> bool:
    """Return whether a body of known length was read to its end."""
    stream = vars(request).get("stream")  # asking the request for it would make one
    return isinstance(stream, LimitedStream) and stream.is_exhausted


def _keeps_place(environ: "WSGIEnvironment", *, in_chunks: bool) -> bool:
    """Return whether no part of a body that breaks off can become the next request.

    That is request smuggling (RFC 9112 section 11.2). gunicorn notes since version 27 that reading
    failed, and ends the connection. Others lose their place among chunks, such as cheroot.
    """
    if _GUNICORN in environ:
        return hasattr(environ["wsgi.input"], "failed")
    return not in_chunks or environ.get("SERVER_SOFTWARE", "").startswith(_SAFE_WITH_CHUNKS)


def _read_rest(request: Request) -> None:
    if not _PLACES.acquire(blocking=False):
        return
    try:
        # Whatever a server raises: the caller has left, stalls or sends nonsense, and has its
        # response. The server sees the error, too (`_keeps_place`).
        with suppress(Exception), _bounded(request.environ):
            stream, end = _input_of(request), time.monotonic() + _LONGEST_REST
            while stream.read(_PART) and time.monotonic() < end:
                pass
    finally:
        _PLACES.release()


def _input_of(request: Request) -> IO[bytes]:
    """Return what is left of a body. `request.stream` would raise above the limit of its size."""
    environ = request.environ
    if environ.get("wsgi.input_terminated"):
        return cast("IO[bytes]", environ["wsgi.input"])
    return vars(request).get("stream") or get_input_stream(environ)


@contextmanager
def _bounded(environ: "WSGIEnvironment") -> Iterator[None]:
    """Bound each read where the server gives its socket, as gunicorn does."""
    sock = environ.get(_GUNICORN)
    if sock is None:
        yield
        return
    timeout = sock.gettimeout()
    sock.settimeout(_LONGEST_REST)
    try:
        yield
    finally:
        sock.settimeout(timeout)
