"""TLS over a socket, or over another TLS, with one deadline for each read and write.

Python's own `SSLSocket` gives the socket to OpenSSL, which goes on reading as long as bytes come:
a flood of handshake messages never lets it look at a timeout. Here each read is our own, and the
socket below has one deadline for all reads and writes that one of ours needs. OpenSSL gets one
record at a time: so it is seen which of them have content.
"""

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from .deadline_socket import BoundedSocket, FloodError

Result = TypeVar("Result")

_LONGEST_HANDSHAKE = 256 * 1024  # bytes; OpenSSL takes 100 KiB of certificates
_READ_SIZE = 16 * 1024  # bytes; the content of a whole record
_HEADER = 5  # bytes, the last two of which are the length of what follows (RFC 8446 section 5.1)
_LONGEST_RECORD = _HEADER + 18 * 1024  # bytes, in TLS 1.2
_VERSION = 3  # the second byte of a record, in all versions of TLS
# Until the next `allow`, in records without content: tickets, new keys. OpenSSL answers some
# messages of 4 or 27 bytes itself, which takes longer than to read a kilobyte of content.
_MOST_OVERHEAD = 64 * 1024  # bytes
_SMALL_RECORDS = 8000  # besides one for each 128 bytes; for content alone `ResponseReader` has this
_PART = 128  # bytes


class TlsSocket:
    """A client's side of TLS.

    urllib3's `SSLTransport` sends what TLS has to say before it returns what TLS has read. If the
    other side is gone, the response is lost then, and stays in a frame that a crash reporter
    collects.

    :param deadline: for the handshake, in seconds of the monotonic clock.
    :raises OSError: if the handshake fails, or takes longer.
    :raises ValueError: if no certificate could hold the name.
    """

    def __init__(
        self, sock: BoundedSocket, context: ssl.SSLContext, name: str, deadline: float
    ) -> None:
        self._below = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._ahead = bytearray()  # what came and TLS was not given yet
        self._is_ended = False  # by the alert that says so
        self.set_deadline: Callable[[float], None] = sock.set_deadline
        self.close: Callable[[], None] = sock.close
        self.set_deadline(deadline)
        self.allow(_LONGEST_HANDSHAKE)
        self._overhead_left = _LONGEST_HANDSHAKE
        try:
            self._run(self._tls.do_handshake)
        except ssl.SSLError:
            with suppress(OSError):
                self._send_outgoing()  # the alert that says why (RFC 8446 section 6.2)
            raise
        self._send_outgoing()

    @property
    def received(self) -> int:
        """How many bytes came since `allow`, encrypted."""
        return self._below.delivered

    @property
    def delivered(self) -> int:
        """How many bytes came for what is above, part of a record included.

        If the other side ended TLS properly, its alert does not count, nor does anything else that
        TLS sends for itself.
        """
        return self._decrypted if self._is_ended else self.received

    def allow(self, size: int) -> None:
        """Allow so many encrypted bytes to come from now on."""
        self._below.allow(size)
        self._decrypted = 0
        self._without_content = 0  # bytes of the last record, until there is content from it
        self._overhead_left = _MOST_OVERHEAD
        self._records_left = _SMALL_RECORDS + size // _PART

    def recv(self, size: int) -> bytes:
        """Read what is there, or wait for it.

        What TLS has to say then is sent with the next request (RFC 8446 section 4.6.3).

        :raises OSError: also if the other side ended the connection without an alert, which may
            have been an attacker (RFC 9112 section 9.8).
        """
        data = self._run(lambda: self._tls.read(size))
        self._count_content(len(data))
        self._is_ended = not data
        return data

    def receive_now(self) -> bytes:
        """Read what is there, and return nothing if only tickets or part of a record are there."""
        while True:
            try:
                data = self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                if not (self._give_record() or self._add(self._below.receive_now())):
                    return b""
            else:
                self._count_content(len(data))
                return data

    def send(self, data: bytes) -> int:
        """Write all, and return how many bytes that is."""
        sent = self._run(lambda: self._tls.write(data))
        self._send_outgoing()
        return sent

    def is_quiet(self) -> bool:
        """Return whether nothing was received that is not read or answered yet.

        Part of a record counts, and so does what TLS has to say: as long as a server waits for
        that, it may not take another request.
        """
        is_done = not (self._ahead or self._outgoing.pending or self._tls.pending())
        return is_done and self._below.is_quiet()

    def _run(self, step: Callable[[], Result]) -> Result:
        """Run a step of TLS. Read what it waits for."""
        while True:
            with suppress(ssl.SSLWantReadError):
                return step()
            while not self._give_record():
                with suppress(ConnectionError):  # what came before is there nevertheless
                    self._send_outgoing()
                if not self._add(self._below.recv(_READ_SIZE)):
                    self._incoming.write_eof()
                    break

    def _add(self, data: bytes) -> bool:
        """Keep what came, and return whether anything did."""
        self._ahead += data
        return bool(data)

    def _give_record(self) -> bool:
        """Give to TLS the next record if all of it is there. What is no record is given at once.

        :raises FloodError: if too much came without content, or in too small parts.
        """
        if len(self._ahead) < _HEADER:
            return False
        size = _HEADER + int.from_bytes(self._ahead[_HEADER - 2 : _HEADER], "big")
        if self._ahead[1] == _VERSION and len(self._ahead) < size <= _LONGEST_RECORD:
            return False
        self._overhead_left -= self._without_content
        self._records_left -= 1
        if self._overhead_left < 0 or self._records_left < 0:
            raise FloodError("too much came that is no content, or in too small parts")
        self._incoming.write(self._ahead[:size])
        del self._ahead[:size]
        self._without_content = size
        return True

    def _count_content(self, size: int) -> None:
        self._decrypted += size
        self._without_content = 0

    def _send_outgoing(self) -> None:
        data = self._outgoing.read()
        while data:
            data = data[self._below.send(data) :]
