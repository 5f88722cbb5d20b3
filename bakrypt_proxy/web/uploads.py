"""The body of an upload: passed on part by part, counted, and never more at a time than allowed."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from flask import Request
from werkzeug.exceptions import ClientDisconnected, LengthRequired, RequestEntityTooLarge

from ..errors import BakryptError, UnavailableError
from .bodies import declared_length, is_chunked

MAX_REPEATED = 2**20  # bytes; a smaller file is kept, so that it can be sent a second time
_PART = 64 * 1024  # bytes


class Uploads:
    """Bounds the uploads that a process handles at a time.

    An upload keeps a thread until its last byte is here, and no WSGI app can end one that stalls.
    """

    def __init__(self, limit: int) -> None:
        self._slots = BoundedSemaphore(limit)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Take one of the places.

        :raises UnavailableError: if there is none.
        """
        if not self._slots.acquire(blocking=False):
            raise UnavailableError("too many uploads at a time, try again", retry_after="1")
        try:
            yield
        finally:
            self._slots.release()


def check_length(request: Request, limit: int) -> int:
    """Return the length of a body, in bytes, before any of it is read.

    :raises BadRequest: if it is no number.
    :raises LengthRequired: if it is not given.
    :raises RequestEntityTooLarge: if it is above the limit.
    """
    length = declared_length(request)
    if length is None or is_chunked(request):
        raise LengthRequired("an upload needs a Content-Length")
    if length > limit:
        raise RequestEntityTooLarge(f"a file may have at most {limit} bytes")
    if "stream" in vars(request):
        raise BakryptError("the app has read the body before it came here: exempt this route")
    request.max_content_length = limit
    return length


def parts(request: Request, length: int) -> Iterator[bytes]:
    """Yield a body part by part.

    A caller who leaves early must never look like a whole file (RFC 9112 section 8).

    :raises ClientDisconnected: if less than `length` bytes come.
    """
    left = length
    while left:
        part = request.stream.read(min(left, _PART))
        if not part:
            raise ClientDisconnected
        left -= len(part)
        yield part
