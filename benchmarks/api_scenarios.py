"""The scenarios of calls without a token in the page, and of many who wait for a first token."""

import socket
import threading
import time
from contextlib import ExitStack
from http.client import HTTPConnection

from contestants import TRANSACTION_ID, Server
from scenarios import (
    CLUSTER,
    OURS,
    P50,
    RATE,
    Bench,
    Goal,
    Round,
    Scenario,
    ratio_of,
)
from wrk import EXCHANGE, Request

_UPLOAD = 200  # MB
_LIMIT = 60  # MB/s that the upstream takes
_PART = bytes(2**18)

SECONDS = "seconds"
GROWTH = "growth of the workers, MiB"
LIMITED = "limited upstream"


def call(bench: Bench) -> list[Round]:
    """Measure a small call to bakrypt's API, with the token added by the server."""
    contestants = bench.contestants
    path = f"/v1/transactions/{TRANSACTION_ID}/"
    with ExitStack() as stack:
        start = stack.enter_context
        upstream = start(contestants.instant_upstream())
        ours = start(contestants.ours(upstream))
        own = Request(f"/bakrypt{path}", method="GET", cookies=_receipt(ours))
        starters = (contestants.express_cluster, contestants.express, contestants.proxy_pass)
        others = [(start(starter(upstream)), Request(path, method="GET")) for starter in starters]
        return bench.in_turn([(ours, own), *others], connections=32)


def _receipt(server: Server) -> str:
    """Create an asset and return the cookie that proves it."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/bakrypt/v1/assets/", body='[{"name": "Gold"}]', headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return (response.getheader("Set-Cookie") or "").partition(";")[0]


def first_token(bench: Bench) -> list[Round]:
    """Measure exchanges at an upstream that takes half a second."""
    contestants = bench.contestants
    with (
        contestants.slow_upstream() as upstream,
        contestants.ours(upstream) as ours,
        contestants.express_cluster(upstream) as cluster,
    ):
        return bench.in_turn([(ours, EXCHANGE), (cluster, EXCHANGE)], connections=200)


def upload(bench: Bench) -> list[Round]:
    """Measure a large upload to an upstream with a limited rate, and the memory meanwhile."""
    contestants = bench.contestants
    rounds: list[Round] = []
    with contestants.limited_upstream(_LIMIT) as upstream, contestants.ours(upstream) as ours:
        _send(ours, "/bakrypt/v1/files/", 1)
        for _ in range(bench.rounds):
            direct = _send(upstream, "/v1/files/", _UPLOAD)
            with _Growth(ours) as growth:
                through = _send(ours, "/bakrypt/v1/files/", _UPLOAD)
            own = {SECONDS: through, GROWTH: growth.most}
            rounds.append({OURS: own, LIMITED: {SECONDS: direct, GROWTH: 0}})
    return rounds


def _send(server: Server, path: str, megabytes: int) -> float:
    """Upload a file and return the seconds that it took."""
    length = megabytes * 10**6
    head = f"POST {path} HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: {length}\r\n\r\n"
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        while length:
            part = _PART[:length]
            connection.sendall(part)
            length -= len(part)
        status = connection.recv(65536).split(b" ")[1]
    if status != b"200":
        raise RuntimeError(f"{server.name} answered an upload with {status.decode()}")
    return time.perf_counter() - start


class _Growth:
    """Watches by how many MiB the memory of a server's workers grows, while it is entered."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = self._most = server.memory()[0]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "_Growth":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def most(self) -> float:
        """The largest growth that was seen."""
        return self._most - self._before

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            self._most = max(self._most, self._server.memory()[0])


API_SCENARIOS = {
    "call": Scenario(
        "A small call to the API, 32 connections, instant upstream",
        call,
        (
            Goal(
                "a call to the API, against Express with http-proxy-middleware, cluster of two",
                "API call / Express",
                ratio_of(RATE, OURS, CLUSTER),
                1.2,
            ),
        ),
    ),
    "upload": Scenario(
        f"Upload of {_UPLOAD} MB to an upstream of {_LIMIT} MB/s",
        upload,
        (
            Goal(
                f"upload of {_UPLOAD} MB, against the direct time",
                "upload time",
                ratio_of(SECONDS, OURS, LIMITED),
                1.1,
                at_least=False,
            ),
            Goal(
                "growth of the workers' memory during it, MiB",
                "upload memory, MiB",
                lambda figures: figures[OURS][GROWTH],
                8,
                at_least=False,
            ),
        ),
    ),
    "first": Scenario(
        "Exchange, 200 connections, an upstream of 500 ms",
        first_token,
        (
            Goal(
                "median time to a token at an upstream of 500 ms, against the Express cluster",
                "time to a token",
                ratio_of(P50, OURS, CLUSTER),
                0.05,
                at_least=False,
            ),
        ),
    ),
}
