"""TLS over a socket, or over another TLS, with one deadline for each read and write.

Python's own `SSLSocket` gives the socket to OpenSSL, which goes on reading as long as bytes come:
a flood of handshake messages never lets it look at a timeout. Here each read is our own, and the
socket below has one deadline for all reads and writes that one of ours needs.
"""

import ssl
from contextlib import suppress
from typing import Any, cast

from urllib3.util.ssltransport import SSL_BLOCKSIZE, SSLTransport

from .deadline_socket import BoundedSocket, time_left

_LONGEST_HANDSHAKE = 256 * 1024  # bytes; OpenSSL takes 100 KiB of certificates


class TlsSocket(SSLTransport):
    """A client's side of TLS.

    :param deadline: for the handshake, in seconds of the monotonic clock.
    :raises OSError: if the handshake fails, or takes longer.
    :raises ValueError: if no certificate could hold the name.
    """

    def __init__(
        self, sock: BoundedSocket, context: ssl.SSLContext, name: str, deadline: float
    ) -> None:
        self._below = sock
        self._decrypted = 0  # bytes, since `allow`
        self._is_ended = False  # by the alert that says so
        sock.settimeout(time_left(deadline))
        sock.allow(_LONGEST_HANDSHAKE)
        # An end that TLS does not confirm may be an attacker's (RFC 9112 section 9.8).
        try:
            super().__init__(cast("Any", sock), context, name, suppress_ragged_eofs=False)
        except ssl.SSLError:
            with suppress(OSError):
                sock.send(self.outgoing.read())  # the alert that says why (RFC 8446 section 6.2)
            raise

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

    def recv(self, size: int = SSL_BLOCKSIZE, flags: int = 0) -> bytes:
        """Read what is there, or wait for it."""
        data = cast("bytes", super().recv(size, flags))
        self._decrypted += len(data)
        self._is_ended = not data
        return data

    def receive_now(self) -> bytes:
        """Read what is there, and return nothing if only tickets or part of a record are there."""
        while True:
            try:
                data = self.sslobj.read(SSL_BLOCKSIZE)
            except ssl.SSLWantReadError:
                if not self.incoming.write(self._below.receive_now()):
                    return b""
            else:
                self._decrypted += len(data)
                return data

    def is_quiet(self) -> bool:
        """Return whether nothing was received that is not read yet, be it part of a record."""
        return not self.incoming.pending and not self.sslobj.pending() and self._below.is_quiet()
