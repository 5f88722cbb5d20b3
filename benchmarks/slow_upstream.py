"""An upstream that answers each request after so many seconds: `slow_upstream.py PORT SECONDS`, the reply in `REPLY`.

nginx has no delay in its core. This one does no more than to find where a request ends, so that a thousand requests a
second leave it nearly idle.
"""

import asyncio
import os
import re
import sys

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Late(asyncio.Protocol):
    """One connection, kept alive; its requests do not overlap."""

    def __init__(self, reply: bytes, seconds: float) -> None:
        self._reply = reply
        self._seconds = seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to answer to."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server makes no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer later, once the request is here as a whole."""
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if blank and len(body) >= (int(length[1]) if length else 0):
            self._received = b""
            asyncio.get_running_loop().call_later(self._seconds, self._transport.write, self._reply)


async def serve(port: int, seconds: float) -> None:
    """Answer until the process ends."""
    body = os.environb[b"REPLY"]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Late(head + body, seconds), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
