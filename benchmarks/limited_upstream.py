"""An upstream that takes uploads at a limited rate: `limited_upstream.py PORT MB_PER_SECOND`.

The environment variable `RESPONSE` contains the token that an exchange brings.
"""

import asyncio
import os
import re
import sys
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PART = 2**18  # bytes
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_FILE = b'{"uuid": "0b7c0e5f-8f5c-4a2e-9d50-0b2f6a1c7d11", "ipfs": "ipfs://Qm"}'


class Upstream:
    """Answers each request when its whole body is here.

    :param token: the body of the response to an exchange. An upload gets another one: a server that
        sees its token come back hands nothing on.
    :param rate: bytes a second that each connection takes.
    """

    def __init__(self, token: bytes, rate: float) -> None:
        self._token = token
        self._rate = rate

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until the other side closes it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                await self._take(reader, int(length[1]) if length else 0)
                body = self._token if b" /auth/" in head else _FILE
                writer.write(_HEAD % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, length: int) -> None:
        start, taken = time.monotonic(), 0
        while taken < length:
            taken += len(await reader.readexactly(min(_PART, length - taken)))
            early = taken / self._rate - (time.monotonic() - start)
            if early > 0:
                await asyncio.sleep(early)


async def serve(port: int, rate: float) -> None:
    """Serve until the process ends."""
    upstream = Upstream(os.environb[b"RESPONSE"], rate)
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", port, limit=_PART)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) * 1e6))
