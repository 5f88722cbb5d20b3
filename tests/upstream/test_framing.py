"""What a response is: all that RFC 9112 allows, nothing that it calls an error, and no byte more.

Each call is followed by another user's on the same client, which must get its own token.
"""

import gzip
import json
import socket
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import pytest
from misbehaving import (
    TOKEN_REPLY,
    Received,
    Upstream,
    close_cleanly,
    head,
    reply_to_each,
    sending,
)

from bakrypt_proxy import BakryptClient, Settings, UpstreamFailedError, UpstreamRefusedError
from bakrypt_proxy.upstream.connection import Connection
from bakrypt_proxy.upstream.deadline_socket import DeadlineSocket
from bakrypt_proxy.upstream.masking import Masked
from bakrypt_proxy.upstream.response_reader import ProtocolError, Response

BODY = json.dumps(TOKEN_REPLY | {"access_token": "token-of-alice"}).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
CLOSING = b"HTTP/1.1 102 Processing\r\nConnection: close\r\n\r\n"
UNREADABLE = "bakrypt's reply broke off or could not be read"


def chunks(*sizes: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """The body in one chunk, whose size is written in each way that is given, and the end."""
    return b"".join(size + b"\r\n" + BODY + b"\r\n" for size in sizes) + end


SIZE = b"%x" % len(BODY)
WHOLE = OK + LENGTH + b"\r\n" + BODY

ACCEPTED: dict[str, tuple[bytes, bool]] = {
    "a length": (WHOLE, True),
    "no reason": (b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + BODY, True),
    "an empty reason": (b"HTTP/1.1 200 \r\n" + LENGTH + b"\r\n" + BODY, True),
    "an empty header": (OK + b"X-A:\r\n" + LENGTH + b"\r\n" + BODY, True),
    "headers twice": (OK + b"Vary: A\r\nVary: B\r\n" + LENGTH + b"\r\n" + BODY, True),
    "a header that is not ASCII": (OK + b"X-A: \xe9\xff\r\n" + LENGTH + b"\r\n" + BODY, True),
    "spaces around a length": (
        OK + b"Content-Length: \t %d \t\r\n\r\n" % len(BODY) + BODY,
        True,
    ),
    "chunks": (OK + CHUNKED + b"\r\n" + chunks(SIZE), True),
    "chunks, in capitals": (OK + b"TRANSFER-ENCODING: Chunked\r\n\r\n" + chunks(SIZE), True),
    "a chunk extension": (OK + CHUNKED + b"\r\n" + chunks(SIZE + b';a="b c"'), True),
    "zeros before a size": (OK + CHUNKED + b"\r\n" + chunks(b"000" + SIZE), True),
    "trailers": (
        OK + CHUNKED + b"\r\n" + chunks(SIZE, end=b"0\r\nA: b\r\nRetry-After: 9\r\n\r\n"),
        True,
    ),
    "100 before it": (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, True),
    "102 and 103 before it": (b"HTTP/1.1 102 Processing\r\n\r\n" + INTERIM + WHOLE, True),
    "a 102 that says close": (CLOSING + WHOLE, False),
    "a 103 that says close, between others": (INTERIM + CLOSING + INTERIM + WHOLE, False),
    "100 of HTTP/1.0": (b"HTTP/1.0 100 Continue\r\n\r\n" + WHOLE, False),
    "close in both": (CLOSING + OK + b"Connection: close\r\n" + LENGTH + b"\r\n" + BODY, False),
    "Connection: close": (OK + b"Connection: close\r\n" + LENGTH + b"\r\n" + BODY, False),
    "close among others": (OK + b"Connection: x, Close\r\n" + LENGTH + b"\r\n" + BODY, False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + BODY, False),
    "HTTP/1.0, kept": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\n" + BODY,
        True,
    ),
    "an upgrade that is offered": (
        OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\n" + LENGTH + b"\r\n" + BODY,
        True,
    ),
    "identity": (OK + b"Content-Encoding: identity\r\n" + LENGTH + b"\r\n" + BODY, True),
    "203": (b"HTTP/1.1 203 X\r\n" + LENGTH + b"\r\n" + BODY, True),
}


def compressed(coding: bytes, content: bytes) -> bytes:
    """A response in a content coding."""
    head = OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(content))
    return head + content


ACCEPTED |= {
    "gzip": (compressed(b"gzip", gzip.compress(BODY)), True),
    "x-gzip, in capitals": (compressed(b"X-GZIP", gzip.compress(BODY)), True),
    "deflate": (compressed(b"deflate", zlib.compress(BODY)), True),
}

REFUSED: dict[str, bytes] = {
    "length -1": OK + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length with letters": OK + LENGTH[:-2] + b"abc\r\n\r\n" + BODY,
    "a hexadecimal length": OK + b"Content-Length: 0x%x\r\n\r\n" % len(BODY) + BODY,
    "a length with a plus": OK + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "an underscore in a length": OK + b"Content-Length: 1_0\r\n\r\n" + BODY,
    "a fraction": OK + b"Content-Length: %d.0\r\n\r\n" % len(BODY) + BODY,
    "an empty length": OK + b"Content-Length:\r\n\r\n" + BODY,
    "a blank length": OK + b"Content-Length: \t\r\n\r\n" + BODY,
    "a length of 2^64": OK + b"Content-Length: 18446744073709551616\r\n\r\n" + BODY,
    "Arabic digits": OK + "Content-Length: ٣\r\n\r\n".encode() + BODY,
    "a list of lengths": OK + b"Content-Length: %d, 5\r\n\r\n" % len(BODY) + BODY,
    "two lengths": OK + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "two lengths, the larger last": OK + b"Content-Length: 5\r\n" + LENGTH + b"\r\n" + BODY,
    "a space before a colon": OK + LENGTH.replace(b":", b" :") + b"\r\n" + BODY,
    "a tab before a colon": OK + LENGTH.replace(b":", b"\t:") + b"\r\n" + BODY,
    "a line without a colon": OK + b"nonsense\r\n" + LENGTH + b"\r\n" + BODY,
    "a line without a name": OK + b": x\r\n" + LENGTH + b"\r\n" + BODY,
    "gzip as a transfer coding": OK + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "gzip, then chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks(SIZE),
    "chunked, then gzip": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + BODY,
    "identity as a transfer coding": OK + b"Transfer-Encoding: identity\r\n\r\n" + BODY,
    "chunked and identity": OK + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + BODY,
    "identity and chunked": OK
    + b"Transfer-Encoding: identity\r\n"
    + CHUNKED
    + b"\r\n"
    + chunks(SIZE),
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + chunks(SIZE),
    "chunked in two lines": OK + CHUNKED + CHUNKED + b"\r\n" + chunks(SIZE),
    "almost chunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY,
    "chunked with a parameter": OK + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + chunks(SIZE),
    "an empty transfer coding": OK + b"Transfer-Encoding:\r\n" + LENGTH + b"\r\n" + BODY,
    "a length and chunks": OK + LENGTH + CHUNKED + b"\r\n" + chunks(SIZE),
    "chunks and a length": OK + CHUNKED + LENGTH + b"\r\n" + chunks(SIZE),
    "HTTP/1.0 with chunks": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
    + CHUNKED
    + b"\r\n"
    + chunks(SIZE),
    "HTTP/0.9, no head": BODY,
    "HTTP/0.9, with a head": WHOLE.replace(b"HTTP/1.1", b"HTTP/0.9"),
    "HTTP/1.2": WHOLE.replace(b"HTTP/1.1", b"HTTP/1.2"),
    "HTTP/2": WHOLE.replace(b"HTTP/1.1", b"HTTP/2"),
    "HTTP/2.0": WHOLE.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "HTTP/11": WHOLE.replace(b"HTTP/1.1", b"HTTP/11"),
    "HTTP/2's settings": b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d\0\x04\0\x10\0\0\0\x06\0\0\x40\0",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "RTSP": WHOLE.replace(b"HTTP/1.1", b"RTSP/1.0"),
    "ICE": WHOLE.replace(b"HTTP/1.1", b"ICE/1.1"),
    "small letters": WHOLE.replace(b"HTTP/1.1", b"http/1.1"),
    "a request": b"POST / HTTP/1.1\r\n" + LENGTH + b"\r\n" + BODY,
    "an empty line first": b"\r\n" + WHOLE,
    "a space first": b" " + WHOLE,
    "two spaces": WHOLE.replace(b" 200", b"  200"),
    "a status of two digits": WHOLE.replace(b"200", b"20"),
    "a status of four digits": WHOLE.replace(b"200", b"2000"),
    "status 000": WHOLE.replace(b"200", b"000"),
    "status 099": WHOLE.replace(b"200", b"099"),
    "lines that end with LF": WHOLE.replace(b"\r\n", b"\n"),
    "a header that ends with LF": OK + b"A: b\n" + LENGTH + b"\r\n" + BODY,
    "a bare CR": OK + b"A: b\rc\r\n" + LENGTH + b"\r\n" + BODY,
    "NUL in a value": OK + b"A: b\0c\r\n" + LENGTH + b"\r\n" + BODY,
    "NUL in a name": OK + b"A\0: b\r\n" + LENGTH + b"\r\n" + BODY,
    "a control letter": OK + b"A: b\x01c\r\n" + LENGTH + b"\r\n" + BODY,
    "a folded header": OK + b"A: b\r\n c\r\n" + LENGTH + b"\r\n" + BODY,
    "a folded length": OK + b"Content-Length:\r\n %d\r\n\r\n" % len(BODY) + BODY,
    "a space before the first header": OK + b" A: b\r\n" + LENGTH + b"\r\n" + BODY,
    "a negative size": OK + CHUNKED + b"\r\n" + chunks(b"-" + SIZE),
    "a size with a plus": OK + CHUNKED + b"\r\n" + chunks(b"+" + SIZE),
    "a size with 0x": OK + CHUNKED + b"\r\n" + chunks(b"0x" + SIZE),
    "a size with a space": OK + CHUNKED + b"\r\n" + chunks(SIZE + b" "),
    "no size": OK + CHUNKED + b"\r\n" + chunks(b""),
    "a size of 2^64": OK + CHUNKED + b"\r\n" + chunks(b"10000000000000000"),
    "a size that ends with LF": OK + CHUNKED + b"\r\n" + chunks(SIZE).replace(b"\r\n", b"\n"),
    "LF in a chunk extension": OK + CHUNKED + b"\r\n" + chunks(SIZE + b";a\nb"),
    "no CRLF after a chunk": OK + CHUNKED + b"\r\n" + SIZE + b"\r\n" + BODY + b"XX0\r\n\r\n",
    "a length as a trailer": OK + CHUNKED + b"\r\n" + chunks(SIZE, end=b"0\r\n" + LENGTH + b"\r\n"),
    "101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + WHOLE,
    "101, with its headers": b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    + WHOLE,
    "an interim with a length": b"HTTP/1.1 103 X\r\nContent-Length: 5\r\n\r\nhello" + WHOLE,
    "a later interim with a length": b"HTTP/1.1 104 X\r\nContent-Length: 5\r\n\r\nhello" + WHOLE,
    "an interim with blanks": b"HTTP/1.1 199 X\r\nContent-Length: 5\r\n\r\n     " + WHOLE,
    "an interim with a chunk": b"HTTP/1.1 104 X\r\n"
    + CHUNKED
    + b"\r\n2\r\n  \r\n0\r\n\r\n"
    + WHOLE,
    "an interim with chunks": b"HTTP/1.1 103 X\r\nTransfer-Encoding: gzip\r\n\r\n" + WHOLE,
    "not gzip": compressed(b"gzip", BODY),
    "gzip that breaks off": compressed(b"gzip", gzip.compress(BODY)[:-1]),
    "gzip without its checksum": compressed(b"gzip", gzip.compress(BODY)[:-8]),
    "gzip with a wrong checksum": compressed(b"gzip", gzip.compress(BODY)[:-8] + bytes(8)),
    "gzip and more behind it": compressed(b"gzip", gzip.compress(BODY) + b"x"),
    "deflate that is gzip": compressed(b"deflate", gzip.compress(BODY)),
    "deflate that breaks off": compressed(b"deflate", zlib.compress(BODY)[:-1]),
    "gzip twice": compressed(b"gzip, gzip", gzip.compress(gzip.compress(BODY))),
    "an unknown content coding": compressed(b"br", BODY),
    "an empty content coding": compressed(b"", BODY),
    "a flood of headers": OK + b"X-A: b\r\n" * 60_000 + LENGTH + b"\r\n" + BODY,
    "a huge header": OK + b"X-A: " + b"b" * 500_000 + b"\r\n" + LENGTH + b"\r\n" + BODY,
    "a huge reason": b"HTTP/1.1 200 " + b"b" * 500_000 + b"\r\n" + LENGTH + b"\r\n" + BODY,
    "a huge trailer": OK + CHUNKED + b"\r\n" + chunks(SIZE, end=b"0\r\nA: " + b"b" * 500_000),
    "too many interim ones": INTERIM * 10_000 + WHOLE,
    "a huge chunk extension": OK + CHUNKED + b"\r\n" + chunks(SIZE + b";" + b"a" * 500_000),
}


def make_client(upstream: Upstream, *, warm: bool) -> BakryptClient:
    """A client that has a kept connection, or none."""
    client = BakryptClient(Settings.from_mapping(upstream.environ | {"BAKRYPT_TIMEOUT": "5"}))
    if warm:
        upstream.behave = reply_to_each
        assert client.password("carol", "c")["access_token"] == "token-of-carol"
    return client


def assert_the_next_gets_its_own(upstream: Upstream, client: BakryptClient) -> None:
    """Another user's call."""
    upstream.behave = reply_to_each
    assert client.password("bob", "b") == TOKEN_REPLY | {"access_token": "token-of-bob"}


@pytest.mark.parametrize("value", ["close, keep-alive", "keep-alive, close"])
def test_http_1_0_that_says_both_is_closed(upstream: Upstream, value: str) -> None:
    """A `close` ends it (RFC 9112 section 9.3), whatever else is said."""
    client = make_client(upstream, warm=False)
    start = f"HTTP/1.0 200 OK\r\nConnection: {value}\r\n".encode()
    upstream.behave = sending(start + LENGTH + b"\r\n" + BODY)
    assert client.password("alice", "a")["access_token"] == "token-of-alice"
    assert_the_next_gets_its_own(upstream, client)
    assert [request.connection for request in upstream.requests] == [1, 2]


@pytest.mark.parametrize("status", [100, 102, 103, 104])
def test_an_interim_one_that_says_that_it_has_no_body(upstream: Upstream, status: int) -> None:
    """It says so in vain, and is skipped."""
    client = make_client(upstream, warm=False)
    start = b"HTTP/1.1 %d X\r\n" % status
    upstream.behave = sending(start + b"Content-Length: 0\r\n\r\n" + WHOLE)
    assert client.password("alice", "a")["access_token"] == "token-of-alice"
    assert_the_next_gets_its_own(upstream, client)


warm_and_cold = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])


@warm_and_cold
@pytest.mark.parametrize(("response", "kept"), ACCEPTED.values(), ids=ACCEPTED)
def test_every_form_of_a_response_is_read(
    any_upstream: Upstream, response: bytes, kept: bool, warm: bool
) -> None:
    """Over TCP and TLS. The connection is used again if both sides may."""
    client = make_client(any_upstream, warm=warm)
    any_upstream.behave = sending(response)
    assert client.password("alice", "a")["access_token"] == "token-of-alice"
    assert_the_next_gets_its_own(any_upstream, client)
    first, second = [received.connection for received in any_upstream.requests[-2:]]
    assert (first == second) is kept


@warm_and_cold
def test_a_body_may_end_with_its_connection(any_upstream: Upstream, warm: bool) -> None:
    """Without a length (RFC 9112 section 6.3, case 8), over TLS with its closing alert."""
    client = make_client(any_upstream, warm=warm)
    any_upstream.behave = sending(OK + b"\r\n" + BODY, close=True)
    assert client.password("alice", "a")["access_token"] == "token-of-alice"
    assert_the_next_gets_its_own(any_upstream, client)


def test_an_end_without_tls_closing_alert_is_none(tls_upstream: Upstream) -> None:
    """Somebody in between could have cut the body there (RFC 9112 section 9.8)."""
    client = make_client(tls_upstream, warm=False)

    def cut(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(OK + b"\r\n" + BODY)
        connection.shutdown(socket.SHUT_RDWR)

    tls_upstream.behave = cut
    with pytest.raises(UpstreamFailedError, match=UNREADABLE):
        client.password("alice", "a")
    assert_the_next_gets_its_own(tls_upstream, client)


BROKEN_OFF = {
    "in the status line": OK[:-4],
    "in a header": OK + b"Content-Len",
    "before the end of the head": OK + LENGTH,
    "after an interim one": INTERIM,
    "in a body with a length": WHOLE[:-1],
    "before a body with a length": OK + LENGTH + b"\r\n",
    "in a chunk": OK + CHUNKED + b"\r\n" + chunks(SIZE)[:20],
    "before the last chunk": OK + CHUNKED + b"\r\n" + chunks(SIZE, end=b""),
    "in the last chunk": OK + CHUNKED + b"\r\n" + chunks(SIZE)[:-2],
    "in a trailer": OK + CHUNKED + b"\r\n" + chunks(SIZE, end=b"0\r\nA: b"),
}


@warm_and_cold
@pytest.mark.parametrize("response", BROKEN_OFF.values(), ids=BROKEN_OFF)
def test_a_response_that_breaks_off_is_none(
    any_upstream: Upstream, response: bytes, warm: bool
) -> None:
    """Wherever it does. It is not asked for again: bakrypt has answered."""
    client = make_client(any_upstream, warm=warm)
    any_upstream.behave = sending(response, close=True)
    before = len(any_upstream.requests)
    with pytest.raises(UpstreamFailedError, match=UNREADABLE):
        client.password("alice", "a")
    assert len(any_upstream.requests) == before + 1
    assert_the_next_gets_its_own(any_upstream, client)


@warm_and_cold
@pytest.mark.parametrize("response", REFUSED.values(), ids=REFUSED)
def test_what_http_calls_an_error_is_refused(
    upstream: Upstream, response: bytes, warm: bool
) -> None:
    """RFC 9112 section 6.3: unrecoverable. The caller hears of it at once."""
    client = make_client(upstream, warm=warm)
    upstream.behave = sending(response, close=True)
    with pytest.raises(UpstreamFailedError, match=UNREADABLE):
        client.password("alice", "a")
    assert_the_next_gets_its_own(upstream, client)


MALLORYS = WHOLE.replace(b"alice", b"mallo")
ANNOUNCED = {
    "a length": (b"Content-Length: %d\r\n\r\n" % len(MALLORYS), MALLORYS),
    "chunks": (CHUNKED + b"\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(MALLORYS), MALLORYS)),
    "chunks without a frame": (CHUNKED + b"\r\n", MALLORYS),
    "nothing": (b"\r\n", MALLORYS),
    "nothing, and the end of chunks": (b"\r\n", b"0\r\n\r\n"),
}


@pytest.mark.parametrize("late", [0, 0.003], ids=["at once", "late"])
@pytest.mark.parametrize(("announced", "body"), ANNOUNCED.values(), ids=ANNOUNCED)
@pytest.mark.parametrize(("status", "error"), [(204, "was not JSON"), (304, "a redirect")])
def test_a_status_without_a_body_has_none(
    any_upstream: Upstream, status: int, error: str, announced: bytes, body: bytes, late: float
) -> None:
    """What follows is not its body, and nobody's response, whether or not the head announces it."""
    client = make_client(any_upstream, warm=True)
    any_upstream.behave = sending(b"HTTP/1.1 %d X\r\n" % status + announced, late, body)
    with pytest.raises(UpstreamFailedError, match=error):
        client.password("alice", "a")
    for _ in range(3):
        assert_the_next_gets_its_own(any_upstream, client)
    first, second = [received.connection for received in any_upstream.requests[1:3]]
    assert first != second


def test_a_status_whose_body_is_empty_has_one(upstream: Upstream) -> None:
    """205 has a length like others (RFC 9110 section 15.3.6), and keeps its connection."""
    client = make_client(upstream, warm=True)
    upstream.behave = sending(b"HTTP/1.1 205 X\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(UpstreamFailedError, match="was not JSON"):
        client.password("alice", "a")
    assert_the_next_gets_its_own(upstream, client)
    assert [received.connection for received in upstream.requests] == [1, 1, 1]


@pytest.mark.parametrize(("announced", "body"), [*ANNOUNCED.values()][:3], ids=[*ANNOUNCED][:3])
@pytest.mark.parametrize("status", [100, 102, 103, 104])
def test_the_body_of_an_interim_response_is_nobodys(
    any_upstream: Upstream, status: int, announced: bytes, body: bytes
) -> None:
    """It would be the answer to the call, and the answer that of the next one."""
    client = make_client(any_upstream, warm=True)
    any_upstream.behave = sending(
        b"HTTP/1.1 %d X\r\n" % status + announced, 0.003, body, 0.003, WHOLE
    )
    with pytest.raises(UpstreamFailedError, match=UNREADABLE):
        client.password("alice", "a")
    for _ in range(3):
        assert_the_next_gets_its_own(any_upstream, client)


SURPLUS = {
    "a second response": MALLORYS,
    "half a response": WHOLE[:30],
    "a letter": b"x",
    "an empty line": b"\r\n",
    "two empty lines": b"\r\n\r\n",
    "LF": b"\n",
    "NUL": b"\0",
    "an interim one": INTERIM,
}
FORMS = {
    "a length": WHOLE,
    "chunks": OK + CHUNKED + b"\r\n" + chunks(SIZE),
    "204": b"HTTP/1.1 204 X\r\n\r\n",
    "8,192 bytes": OK
    + b"Content-Length: %d\r\nX-Padding: " % len(BODY)
    + b"x" * (8192 - len(OK) - len(LENGTH) - len(BODY) - 15)
    + b"\r\n\r\n"
    + BODY,
}


def test_the_form_of_8192_bytes_has_as_many() -> None:
    """It is as large as Python's own buffer, which was the fault once."""
    assert len(FORMS["8,192 bytes"]) == 8192


@warm_and_cold
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_comes_behind_a_response_is_nobodys(
    any_upstream: Upstream, form: bytes, surplus: bytes, late: bool, warm: bool
) -> None:
    """In the same bytes or while the connection is idle: it is closed, and not one byte is read."""
    client = make_client(any_upstream, warm=warm)
    answered, sent = threading.Event(), threading.Event()

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(form if late else form + surplus)
        if late:
            answered.wait(5)
            with suppress(OSError):  # closed by us, as after a 204
                connection.sendall(surplus)
        sent.set()

    any_upstream.behave = behave
    if b" 204 " in form:
        with pytest.raises(UpstreamFailedError, match="was not JSON"):
            client.password("alice", "a")
    else:
        assert client.password("alice", "a")["access_token"] == "token-of-alice"
    answered.set()
    assert sent.wait(5)
    assert_the_next_gets_its_own(any_upstream, client)
    first, second = [received.connection for received in any_upstream.requests[-2:]]
    assert first != second


@warm_and_cold
def test_two_lengths_with_the_rest_late(any_upstream: Upstream, warm: bool) -> None:
    """The rest of one user's reply was the beginning of the next one's, and so on for ever."""
    client = make_client(any_upstream, warm=warm)
    two = OK + LENGTH + b"Content-Length: %d\r\n\r\n" % (len(BODY) + len(WHOLE)) + BODY
    any_upstream.behave = sending(two, 0.003, WHOLE)
    with pytest.raises(UpstreamFailedError, match=UNREADABLE):
        client.password("alice", "a")
    for _ in range(3):
        assert_the_next_gets_its_own(any_upstream, client)


@pytest.mark.parametrize(
    "name", ["a length", "chunks", "trailers", "102 and 103 before it", "gzip"]
)
def test_a_response_may_come_in_any_two_pieces(upstream: Upstream, name: str) -> None:
    """Split at each byte, on one kept connection."""
    client = make_client(upstream, warm=True)
    response, _ = ACCEPTED[name]
    for split in range(1, len(response)):
        upstream.behave = sending(response[:split], 0.0, response[split:])
        assert client.password("alice", "a")["access_token"] == "token-of-alice"
    assert {received.connection for received in upstream.requests} == {1}


def test_a_response_may_come_byte_by_byte(any_upstream: Upstream) -> None:
    """Each in a read of its own."""
    client = make_client(any_upstream, warm=True)
    response, _ = ACCEPTED["trailers"]
    any_upstream.behave = sending(*[response[at : at + 1] for at in range(len(response))])
    assert client.password("alice", "a")["access_token"] == "token-of-alice"
    assert_the_next_gets_its_own(any_upstream, client)
    assert {received.connection for received in any_upstream.requests} == {1}


def test_a_trailer_replaces_no_header(upstream: Upstream) -> None:
    """It came after the fact, from the author of the body (RFC 9110 section 6.5.1)."""
    client = make_client(upstream, warm=False)
    refusal = b'{"detail": "slow down"}'
    upstream.behave = sending(
        b"HTTP/1.1 429 X\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\nRetry-After: 70000\r\n\r\n" % (len(refusal), refusal)
    )
    with pytest.raises(UpstreamRefusedError) as caught:
        client.password("alice", "a")
    assert caught.value.retry_after == "7"


@warm_and_cold
def test_an_early_response_is_read(warm: bool) -> None:
    """Upstream refuses a long request before it has all of it, and closes."""
    refusal = b'{"error": "invalid_request", "error_description": "too long"}'
    response = b"HTTP/1.1 413 X\r\nContent-Length: %d\r\n\r\n%b" % (len(refusal), refusal)

    def refuse_early(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(response)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    def serve(listener: socket.socket) -> None:
        for number in range(2):
            connection, _ = listener.accept()
            with connection:
                if number == 0 and warm:
                    connection.recv(65536)
                    connection.sendall(WHOLE)
                refuse_early(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        settings = Settings(
            url=url, client_id="planted-id", client_secret="planted-secret", timeout=5
        )
        client = BakryptClient(settings)
        if warm:
            client.password("alice", "a")
        for _ in range(2):
            with pytest.raises(UpstreamRefusedError) as caught:
                client.password("alice", "a" * 60_000)
            assert caught.value.status == 413
        client.close()
        thread.join()


def test_an_early_response_is_read_though_sending_failed() -> None:
    """Upstream refuses a long request, reads no more of it and resets the connection."""
    refusal = b'{"error": "invalid_request"}'

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 X\r\nContent-Length: %d\r\n\r\n" % len(refusal) + refusal)
        connection.close()  # with bytes unread: a reset

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        settings = Settings(
            url=url, client_id="planted-id", client_secret="planted-secret", timeout=5
        )
        with pytest.raises(UpstreamRefusedError) as caught:
            # More than the buffers of both sockets take.
            BakryptClient(settings).password("alice", "a" * 12_000_000)
        thread.join()
    assert caught.value.status == 413


def test_an_upstream_that_closed_its_half_is_not_asked_again(upstream: Upstream) -> None:
    """It has said that it will not answer, though it would still read."""
    client = make_client(upstream, warm=False)
    closed = threading.Event()

    def half_close(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(WHOLE)
        connection.shutdown(socket.SHUT_WR)
        closed.set()

    upstream.behave = half_close
    client.password("alice", "a")
    assert closed.wait(5)
    assert_the_next_gets_its_own(upstream, client)
    assert [received.connection for received in upstream.requests] == [1, 2]


def test_a_tls_closing_alert_ends_an_idle_connection(tls_upstream: Upstream) -> None:
    """As nginx sends it after its keep-alive timeout."""
    client = make_client(tls_upstream, warm=False)
    closed = threading.Event()

    def close(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(WHOLE)
        try:
            close_cleanly(connection)
        finally:
            closed.set()

    tls_upstream.behave = close
    client.password("alice", "a")
    assert closed.wait(5)
    assert_the_next_gets_its_own(tls_upstream, client)
    assert [received.connection for received in tls_upstream.requests] == [1, 2]


class SoftTimeLimitError(Exception):
    """As celery raises in a signal's handler."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, SoftTimeLimitError])
@pytest.mark.parametrize(
    "function", ["on_header", "on_headers_complete", "on_body", "on_message_complete"]
)
def test_a_signal_inside_the_parser_is_no_failure_of_bakrypt(
    any_upstream: Upstream, function: str, kind: type[BaseException]
) -> None:
    """It ends the caller, as anywhere else, and the connection with its half-read response."""
    client = make_client(any_upstream, warm=True)
    any_upstream.behave = sending(WHOLE)

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == function:
            sys.settrace(None)
            raise kind

    tracing = sys.gettrace()
    sys.settrace(interrupt)
    try:
        with pytest.raises(kind) as caught:
            client.password("alice", "a")
    finally:
        sys.settrace(tracing)
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(caught.tb)]
    assert "token-of-alice" not in repr(frames)
    assert_the_next_gets_its_own(any_upstream, client)


REQUEST = Masked(b"a request")
FIRST: dict[str, Callable[[Connection], Response]] = {
    "a call": lambda connection: connection.exchange(
        REQUEST, deadline=time.monotonic() + 5, limit=1000
    ),
    "an upload": lambda connection: connection.stream(
        REQUEST, [b"a body"], silence=5, first_byte=5, limit=1000
    ),
    "a tunnel": lambda connection: connection.exchange(
        REQUEST, deadline=time.monotonic() + 5, limit=0, head_only=True
    ),
}


@pytest.mark.parametrize("ask", FIRST.values(), ids=FIRST)
def test_what_came_before_the_request_is_no_response(ask: Callable[[Connection], Response]) -> None:
    """On a new connection, each caller would get the former one's from then on.

    Nothing is sent there (RFC 9112 section 9.2).
    """
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(WHOLE)
        connection = Connection(DeadlineSocket(ours))
        with pytest.raises(ProtocolError, match="a response before the request"):
            ask(connection)
        assert not connection.is_reusable
        connection.close()
        assert theirs.recv(1000) == b""


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_broken_response_while_the_caller_handles_an_error(
    upstream: Upstream, reply: bytes
) -> None:
    """The caller's error is not raised in place of ours."""
    upstream.behave = sending(reply)
    with BakryptClient(Settings.from_mapping(upstream.environ)) as client:
        try:
            raise KeyError("of the caller")  # noqa: TRY301 - a caller's code
        except KeyError:
            with pytest.raises(UpstreamFailedError, match="could not be read"):
                client.exchange()


def test_more_than_a_response_while_the_caller_handles_an_error(upstream: Upstream) -> None:
    """The call has its token, and the next one a connection of its own."""
    body = json.dumps(TOKEN_REPLY).encode()
    upstream.behave = sending(2 * (head(200, len(body)) + body))
    with BakryptClient(Settings.from_mapping(upstream.environ)) as client:
        try:
            raise KeyError("of the caller")  # noqa: TRY301 - a caller's code
        except KeyError:
            for _ in range(2):
                assert client.exchange()["access_token"] == TOKEN_REPLY["access_token"]
    assert [received.connection for received in upstream.requests] == [1, 2]
