"""The bodies of requests: their declared length, all of one, and what is left after the response.

A server that closes a connection with unread bytes in it resets it. nginx, if it is still sending
the body, then answers with a 502 of its own in place of our response.
"""

import time
from contextlib import suppress
from functools import partial
from threading import BoundedSemaphore

from flask import Request, Response
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    HTTPException,
    RequestEntityTooLarge,
)
from werkzeug.wsgi import get_input_stream

_MOST_DIGITS = 18  # of a length
_LONGEST_REST = 2.0  # seconds; a proxy that buffers requests needs some milliseconds
_PART = 64 * 1024  # bytes
# Of a process. No WSGI app can end a body that stalls: it keeps its thread until the caller leaves.
_PLACES = BoundedSemaphore(16)


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
    # One more than allowed: werkzeug cuts off a chunked body at its limit without an error.
    request.max_content_length = limit + 1
    size = len(request.get_data())
    if size > limit:
        raise RequestEntityTooLarge
    if 0 < size < length:
        # Where the input ends by itself (wsgi.input_terminated), werkzeug does not compare.
        raise ClientDisconnected
    return request.get_data()


def read_rest_after(response: Response, request: Request) -> None:
    """Have the rest of a request's body read and thrown away once its response is sent."""
    environ = request.environ
    has_body = environ.get("CONTENT_LENGTH") not in {None, "", "0"}
    if (has_body or "HTTP_TRANSFER_ENCODING" in environ) and "HTTP_EXPECT" not in environ:
        response.call_on_close(partial(_read_rest, request))


def _read_rest(request: Request) -> None:
    if not _PLACES.acquire(blocking=False):
        return
    end = time.monotonic() + _LONGEST_REST
    try:
        with suppress(OSError, HTTPException):  # the caller has left
            # Not `request.stream`, which raises for a body above the limit.
            stream = vars(request).get("stream") or get_input_stream(request.environ)
            while stream.read(_PART) and time.monotonic() < end:
                pass
    finally:
        _PLACES.release()
