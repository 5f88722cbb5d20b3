"""An upstream that responds to each request after a delay: `slow_upstream.py PORT SECONDS`.

The environment variable `RESPONSE` contains the body. nginx cannot delay a response without a
module. This server only looks for the end of each request, so that a thousand requests a second
leave it nearly idle.
"""

import asyncio
import os
import re
import sys

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class DelayedResponse(asyncio.Protocol):
    """One keep-alive connection whose requests do not overlap."""

    def __init__(self, response: bytes, seconds: float) -> None:
        self._response = response
        self._seconds = seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write the responses to."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server makes no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Schedule the response when the whole request has arrived."""
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if blank and len(body) >= (int(length[1]) if length else 0):
            self._received = b""
            loop = asyncio.get_running_loop()
            loop.call_later(self._seconds, self._transport.write, self._response)


async def serve(port: int, seconds: float) -> None:
    """Serve until the process ends."""
    body = os.environb[b"RESPONSE"]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: DelayedResponse(head + body, seconds), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
