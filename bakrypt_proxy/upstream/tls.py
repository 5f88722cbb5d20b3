"""TLS over a socket, or over another TLS, with one deadline for each read and write.

Python's own `SSLSocket` gives the socket to OpenSSL, which goes on reading as long as bytes come:
a flood of handshake messages never lets it look at a timeout. Here each read is our own, and the
socket below has one deadline for all reads and writes that one of ours needs.
"""

import ssl
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
        sock.settimeout(time_left(deadline))
        sock.allow(_LONGEST_HANDSHAKE)
        # An end that TLS does not confirm may be an attacker's (RFC 9112 section 9.8).
        super().__init__(cast("Any", sock), context, name, suppress_ragged_eofs=False)

    @property
    def received(self) -> int:
        """How many bytes came since `allow`, encrypted."""
        return self._below.received

    def allow(self, size: int) -> None:
        """Allow so many encrypted bytes to come from now on."""
        self._below.allow(size)

    def recv(self, size: int = SSL_BLOCKSIZE, flags: int = 0) -> bytes:
        """Read what is there, or wait for it."""
        return cast("bytes", super().recv(size, flags))

    def receive_now(self) -> bytes:
        """Read what is there, and return nothing if only tickets or part of a record are there."""
        while True:
            try:
                return self.sslobj.read(SSL_BLOCKSIZE)
            except ssl.SSLWantReadError:
                if not self.incoming.write(self._below.receive_now()):
                    return b""

    def is_quiet(self) -> bool:
        """Return whether nothing was received that is not read yet, be it part of a record."""
        return not self.incoming.pending and not self.sslobj.pending() and self._below.is_quiet()
