"""No upstream holds a call much longer than the timeout, or keeps a processor busy meanwhile."""

import gc
import gzip
import socket
import sys
import time
from collections.abc import Iterator

import pytest
from misbehaving import Behaviour, Upstream, endlessly, hang, reply_to_each

from bakrypt_proxy import BakryptClient, Settings, UpstreamFailedError
from bakrypt_proxy.upstream.connection import Connection
from bakrypt_proxy.upstream.deadline_socket import DeadlineSocket
from bakrypt_proxy.upstream.masking import Masked

TIMEOUT = 0.3
GRACE = 0.5
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
TRAILERS = CHUNKED + b"2\r\n{}\r\n0\r\n"
EMPTY_BLOCKS = b"\0\0\0\xff\xff" * 1000  # deflate blocks without content
GZIP = HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10]
GZIP_CHUNKED = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

FLOODS: dict[str, Behaviour] = {
    "100 Continue": endlessly(b"", CONTINUE * 1000),
    "103 Early Hints": endlessly(b"", b"HTTP/1.1 103 X\r\nLink: </a>\r\n\r\n" * 1000),
    "headers": endlessly(HEAD, b"X-A: b\r\n" * 1000),
    "one header": endlessly(HEAD + b"X-A: ", b"b" * 10_000),
    "a reason": endlessly(HEAD[:-2], b"b" * 10_000),
    "trailers": endlessly(TRAILERS, b"X-A: b\r\n" * 1000),
    "one trailer": endlessly(TRAILERS + b"X-A: ", b"b" * 10_000),
    "a chunk extension": endlessly(CHUNKED + b"2;", b"a" * 10_000),
    "chunks of a byte": endlessly(CHUNKED, b"1;a=b\r\n{\r\n" * 1000),
    "zeros before a chunk size": endlessly(CHUNKED, b"0" * 10_000),
    "a body": endlessly(HEAD + b"\r\n", b"{" * 10_000),
    "a body with a length": endlessly(HEAD + b"Content-Length: 999999999\r\n\r\n", b" " * 10_000),
    "gzip blocks": endlessly(GZIP, EMPTY_BLOCKS),
    "gzip blocks in chunks": endlessly(
        GZIP_CHUNKED + b"a\r\n" + gzip.compress(b"")[:10] + b"\r\n",
        b"%x\r\n%b\r\n" % (len(EMPTY_BLOCKS), EMPTY_BLOCKS),
    ),
    "empty lines": endlessly(b"", b"\r\n" * 1000),
}
DRIPS: dict[str, Behaviour] = {
    "nothing": hang,
    "100 Continue": endlessly(b"", CONTINUE, pause=0.02),
    "a status line": endlessly(b"HTTP/1.1 200 ", b"x", pause=0.02),
    "headers": endlessly(HEAD, b"X-A: b\r\n", pause=0.02),
    "a body": endlessly(HEAD + b"Content-Length: 1000\r\n\r\n", b"{", pause=0.02),
    "a body to the end": endlessly(HEAD + b"\r\n", b"{", pause=0.02),
    "chunks": endlessly(CHUNKED, b"1\r\n{\r\n", pause=0.02),
    "a chunk extension": endlessly(CHUNKED + b"2;", b"a", pause=0.02),
    "trailers": endlessly(TRAILERS, b"X-A: b\r\n", pause=0.02),
}


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """It would take its time for what all tests before have left, and count as ours."""
    gc.disable()
    yield
    gc.enable()


warm_and_cold = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])


def fail_in_time(upstream: Upstream, behave: Behaviour, *, warm: bool) -> str:
    """Make a call that fails, within its time and half a processor. Return how it failed."""
    settings = Settings.from_mapping(upstream.environ | {"BAKRYPT_TIMEOUT": str(TIMEOUT)})
    with BakryptClient(settings) as client:
        if warm:
            upstream.behave = reply_to_each
            client.password("bob", "b")
        upstream.behave = behave
        started, busy = time.monotonic(), time.thread_time()
        with pytest.raises(UpstreamFailedError) as caught:
            client.password("alice", "a")
        assert time.monotonic() - started < TIMEOUT + GRACE
        # Of this thread: the upstream's own is in the same process. Under a tracer, as that of
        # coverage, most of the time is the tracer's.
        assert sys.gettrace() or time.thread_time() - busy < TIMEOUT / 2
    return str(caught.value.description)


@warm_and_cold
@pytest.mark.parametrize("behave", FLOODS.values(), ids=FLOODS)
def test_a_flood_is_cut_off(any_upstream: Upstream, behave: Behaviour, warm: bool) -> None:
    """By its size, before the deadline."""
    description = fail_in_time(any_upstream, behave, warm=warm)
    assert description in {
        "bakrypt's reply broke off or could not be read",
        "bakrypt's reply was too large",
    }


@warm_and_cold
@pytest.mark.parametrize("behave", DRIPS.values(), ids=DRIPS)
def test_a_drip_ends_at_the_deadline(any_upstream: Upstream, behave: Behaviour, warm: bool) -> None:
    """No single read would ever time out."""
    description = fail_in_time(any_upstream, behave, warm=warm)
    assert description == "bakrypt did not answer in time"


def test_a_retry_has_what_is_left_of_the_time(upstream: Upstream) -> None:
    """Not the whole timeout once more."""
    settings = Settings.from_mapping(upstream.environ | {"BAKRYPT_TIMEOUT": str(TIMEOUT)})
    client = BakryptClient(settings)
    client.exchange()
    answered = []

    def end_late(upstream: Upstream, connection: object, received: object) -> None:
        answered.append(received)
        upstream.stopped.wait(TIMEOUT * 0.8 if len(answered) == 1 else 5)
        raise ConnectionError("closed")

    upstream.behave = end_late
    started = time.monotonic()
    with pytest.raises(UpstreamFailedError, match="did not answer in time"):
        client.exchange()
    assert time.monotonic() - started < TIMEOUT + GRACE
    assert len(answered) == 2


def test_a_tls_greeting_that_never_comes_ends_at_the_deadline(
    upstream: Upstream,
) -> None:
    """Somebody listens and says nothing: connecting and greeting share the time."""
    upstream.behave = hang
    url = upstream.url.replace("http:", "https:")
    client = BakryptClient(Settings(url=url, token="planted", timeout=TIMEOUT))
    started = time.monotonic()
    with pytest.raises(UpstreamFailedError, match="did not answer in time"):
        client.exchange()
    assert time.monotonic() - started < TIMEOUT + GRACE


def test_a_clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests freeze it: the system's own clock ends the waiting."""
    with Upstream(behave=hang) as upstream:
        client = BakryptClient(Settings(url=upstream.url, token="t", timeout=TIMEOUT))
        clock = time.monotonic
        started = clock()
        monkeypatch.setattr(time, "monotonic", lambda: started)
        with client, pytest.raises(UpstreamFailedError, match="did not answer in time"):
            client.exchange()
        assert clock() - started < TIMEOUT + GRACE


def test_a_look_for_what_came_early_ends_with_the_deadline() -> None:
    """TLS looks again behind each message of its own, and a server may send 80,000 of them."""
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(DeadlineSocket(ours))
        theirs.sendall(b"x")
        with pytest.raises(TimeoutError):
            connection.exchange(Masked(b"GET"), deadline=time.monotonic(), limit=0)
        connection.close()
