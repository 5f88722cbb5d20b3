"""TLS over a socket, or over another TLS, with one deadline for each read and write.

Python's own `SSLSocket` gives the socket to OpenSSL, which goes on reading as long as bytes come:
a flood of handshake messages never lets it look at a timeout. Here each read is our own.
"""

import ssl
import time
from typing import Any, cast

from urllib3.util.ssltransport import SSLTransport


class TlsSocket(SSLTransport):
    """A client's side of TLS.

    :param deadline: for the handshake, in seconds of the monotonic clock.
    :raises OSError: if the handshake fails, or takes longer.
    :raises ValueError: if no certificate could hold the name.
    """

    def __init__(self, sock: Any, context: ssl.SSLContext, name: str, deadline: float) -> None:
        self._below = sock
        bounded = _BoundedSocket(sock, deadline)
        # An end that TLS does not confirm may be an attacker's (RFC 9112 section 9.8).
        super().__init__(cast("Any", bounded), context, name, suppress_ragged_eofs=False)

    def holds_bytes(self) -> bool:
        """Return whether something was received and not read yet, be it part of a record."""
        below = isinstance(self._below, TlsSocket) and self._below.holds_bytes()
        return below or self.incoming.pending > 0 or self.sslobj.pending() > 0


class _BoundedSocket:
    """A socket whose timeout covers all reads and writes until it is set again.

    TLS may read many times for one read of its user's.
    """

    def __init__(self, sock: Any, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.close, self.fileno = sock.close, sock.fileno

    def settimeout(self, timeout: float) -> None:
        """Set the timeout, in seconds."""
        self._deadline = time.monotonic() + timeout

    def recv(self, size: int) -> bytes:
        """Read as a socket does."""
        self._sock.settimeout(time_left(self._deadline))
        return cast("bytes", self._sock.recv(size))

    def send(self, data: bytes) -> int:
        """Write as a socket does."""
        self._sock.settimeout(time_left(self._deadline))
        return cast("int", self._sock.send(data))

    def sendall(self, data: bytes) -> None:
        """Write all."""
        while data:
            data = data[self.send(data) :]


def time_left(deadline: float) -> float:
    """Return the seconds until a deadline, or raise `TimeoutError` if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left
