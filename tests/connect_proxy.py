"""A proxy that makes tunnels (CONNECT), over real sockets, and misbehaves on request."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
Answer = Callable[["ConnectProxy", socket.socket], None]


@dataclass
class ConnectProxy:
    """Leads every tunnel to `port` of this machine, whatever host is asked for.

    `answer` is what it says to CONNECT, or a function that says it; `tls` is for an https proxy;
    `slowly` sends what comes from upstream a byte at a time, with a pause in seconds.
    """

    port: int
    answer: bytes | Answer = ESTABLISHED
    tls: ssl.SSLContext | None = None
    slowly: float = 0
    heads: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.stopped = threading.Event()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopped.set()
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in [self._listener, *self._open]:
            sock.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        self._open.append(sock)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                part = sock.recv(1)
                if not part:
                    return
                head += part
            self.heads.append(head.decode("latin-1"))
            self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        if callable(self.answer):
            self.answer(self, sock)
            return
        sock.sendall(self.answer)
        if b" 200 " not in self.answer:
            sock.shutdown(socket.SHUT_RDWR)
            return
        upstream = socket.create_connection(("127.0.0.1", self.port))
        self._open.append(upstream)
        self._start(self._pump, sock, upstream, 0)
        self._pump(upstream, sock, self.slowly)

    def _pump(self, source: socket.socket, target: socket.socket, pause: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                for part in [data[at : at + 1] for at in range(len(data))] if pause else [data]:
                    self.stopped.wait(pause)
                    target.sendall(part)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
