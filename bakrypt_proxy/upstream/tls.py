"""TLS over a socket, or over another TLS, with one deadline for each read and write.

Python's own `SSLSocket` gives the socket to OpenSSL, which goes on reading as long as bytes come:
a flood of handshake messages never lets it look at a timeout. Here each read is our own, and the
socket below has one deadline for all reads and writes that one of ours needs.
"""

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from .deadline_socket import BoundedSocket, FloodError

Result = TypeVar("Result")

_LONGEST_HANDSHAKE = 256 * 1024  # bytes; OpenSSL takes 100 KiB of certificates
_READ_SIZE = 16 * 1024  # bytes
# Until the next `allow`: tickets, new keys, and what is read ahead. TLS answers some messages of 4
# or 27 bytes itself, which takes longer than to read a kilobyte of content.
_MOST_OVERHEAD = 64 * 1024  # bytes
_FRAME = 32  # bytes of each record that do not count (RFC 8446 section 5.2: 22 without padding)


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
        self._decrypted = self._overhead = 0  # bytes, since `allow`
        self._most_overhead = _LONGEST_HANDSHAKE
        self._is_ended = False  # by the alert that says so
        self.set_deadline: Callable[[float], None] = sock.set_deadline
        self.close: Callable[[], None] = sock.close
        sock.set_deadline(deadline)
        sock.allow(_LONGEST_HANDSHAKE)
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
        self._decrypted = self._overhead = 0
        self._most_overhead = _MOST_OVERHEAD

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
                if not self._take(self._below.receive_now()):
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
        is_done = not (self._incoming.pending or self._outgoing.pending or self._tls.pending())
        return is_done and self._below.is_quiet()

    def _run(self, step: Callable[[], Result]) -> Result:
        """Run a step of TLS. Read what it waits for."""
        while True:
            with suppress(ssl.SSLWantReadError):
                return step()
            with suppress(ConnectionError):  # what came before is there nevertheless
                self._send_outgoing()
            if not self._take(self._below.recv(_READ_SIZE)):
                self._incoming.write_eof()

    def _take(self, data: bytes) -> int:
        """Give to TLS what came, and return how many bytes that is."""
        self._overhead += len(data)
        if self._overhead > self._most_overhead:
            raise FloodError("too much came that is no content, or in too small parts")
        return self._incoming.write(data)

    def _count_content(self, size: int) -> None:
        """Count the content of a record."""
        self._decrypted += size
        self._overhead -= size + _FRAME

    def _send_outgoing(self) -> None:
        data = self._outgoing.read()
        while data:
            data = data[self._below.send(data) :]
