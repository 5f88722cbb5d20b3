"""One exchange of bytes over an open connection: a deadline, one response, nothing left behind.

The socket checks the deadline before each read and each write.
"""

import ssl
import time
from collections.abc import Iterable

from .deadline_socket import BoundedSocket
from .masking import Masked
from .response_reader import ProtocolError, Response, ResponseReader, most_bytes

_READ_SIZE = 64 * 1024  # bytes; more than the 16 KiB of a TLS record, so that none is left in part
_GLANCE = 0.01  # seconds that a look for an early response may wait for the rest of a TLS record
_ENDED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class NoResponseError(ConnectionError):
    """The connection ended before a single byte of the response."""


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
        self._begin(limit, deadline)
        is_sent = _send(self._sock, request)
        reader = ResponseReader(limit, head_only=head_only)
        self._receive(reader)
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

        A response that comes before all parts are sent ends the sending. After a body, no other
        request may follow.

        :param silence: seconds that sending one part may take, and the response after its start.
        :param first_byte: seconds from the last part to the first byte of the response.
        :param limit: the most bytes of body to read, before and after decoding.
        :raises Exception: as `exchange`, and what `parts` raises.
        """
        self._begin(limit, time.monotonic() + silence)
        reader = ResponseReader(limit, head_only=False)
        is_sent, has_body = _send(self._sock, head), False
        for part in map(Masked, parts):
            if not is_sent or self._has_response(reader):
                is_sent = False
                break
            has_body = has_body or bool(part.reveal())
            self._sock.set_deadline(time.monotonic() + silence)
            is_sent = self._send_part(reader, part)
        self._sock.set_deadline(time.monotonic() + (first_byte if is_sent else silence))
        while not reader.has_begun:
            self._receive_once(reader)
        self._sock.set_deadline(time.monotonic() + silence)
        self._receive(reader)
        response = reader.response()
        # A server that ignores a body takes it for the next request. A visitor wrote the body, and
        # the next caller would get the response to it.
        self.is_reusable = is_sent and not has_body and reader.is_reusable
        return response

    def _begin(self, limit: int, deadline: float) -> None:
        """Get ready for a request, and refuse what a new connection brought before it.

        That is no response (RFC 9112 section 9.2). From then on, each caller would get the former
        caller's. The pool has looked at a kept connection already.
        """
        self.is_reusable = False
        self._sock.allow(most_bytes(limit))
        self._sock.set_deadline(deadline)
        if not self.is_kept and _came_early(self._sock):
            raise ProtocolError("a response before the request")

    def _send_part(self, reader: ResponseReader, part: Masked[bytes]) -> bool:
        """Return False if upstream stopped reading, also if it keeps the connection open."""
        try:
            return _send(self._sock, part)
        except TimeoutError:
            if self._has_response(reader):
                return False
            raise

    def _has_response(self, reader: ResponseReader) -> bool:
        """Read what is there, and return whether the final response has begun."""
        if self.is_quiet():
            return False
        self._sock.set_deadline(time.monotonic() + _GLANCE)
        try:
            reader.feed(self._sock.recv(_READ_SIZE))
        except TimeoutError:
            return False  # a part of a TLS record, or one that is not for us
        except _ENDED:
            return True  # the next read says how it ended
        return reader.has_begun

    def _receive(self, reader: ResponseReader) -> None:
        while not reader.is_done:
            self._receive_once(reader)
        if reader.received == 0:
            raise NoResponseError("the connection was closed")

    def _receive_once(self, reader: ResponseReader) -> None:
        try:
            # Not kept in a variable: it may be a token.
            reader.feed(self._sock.recv(_READ_SIZE))
        except _ENDED as error:
            # Below TLS, a part of a record may be there: bakrypt has begun to answer.
            if self._sock.received == 0:
                raise NoResponseError(*error.args) from error
            raise ProtocolError("the response broke off") from error

    def close(self) -> None:
        """Close the connection."""
        self.is_reusable = False
        self._sock.close()


def _came_early(sock: BoundedSocket) -> bool:
    try:
        # Not kept in a variable: it may be a token.
        return bool(sock.receive_now())
    except _ENDED:
        return False  # the next read says how it ended


def _send(sock: BoundedSocket, request: Masked[bytes]) -> bool:
    """Return False if upstream stopped reading: its response may be there nevertheless."""
    sent, size = 0, len(request.reveal())
    failure: OSError | None = None
    while sent < size and failure is None:
        try:
            sent += sock.send(request.reveal()[sent:])
        except OSError as error:
            # Not with its traceback: the frames of the ssl module hold the request.
            failure = error.with_traceback(None)
    if failure is not None and not isinstance(failure, _ENDED):
        raise failure
    return failure is None
