"""Odd responses, read by us, by urllib3 and by h11: what two of them read, all read alike.

Each is followed by another user's call on the same connections, which gets its own token.
A small sample here; `make fuzz` runs 20,000 cases, half of them over TLS.
"""

import json
import os
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass

import h11
import pytest
import urllib3
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from misbehaving import Received, Upstream, close_cleanly, reply_to_each, token_for

from bakrypt_proxy import UpstreamFailedError
from bakrypt_proxy.upstream.masking import Masked
from bakrypt_proxy.upstream.transport import Request, Transport

EXAMPLES = int(os.environ.get("DIFFERENTIAL_EXAMPLES", "100"))
LIMIT = 64 * 1024
BODY = json.dumps({"access_token": "token-of-alice", "padding": "x" * 40}).encode()
MALLORY = b'HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{"access_token": "mallory"}'

Read = tuple[int, bytes] | None  # status and body, or None if a response is refused


@dataclass
class Case:
    """A response. `is_error` where RFC 9112 calls it one; `is_strict` where we are stricter."""

    raw: bytes
    status: int
    body: bytes
    surplus: bytes
    is_error: bool
    is_strict: bool
    closes: bool
    late: bool
    splits: list[int]

    def send(self, connection: socket.socket) -> None:
        """Send it in pieces, the surplus with the last of them unless it is late."""
        raw = self.raw if self.late else self.raw + self.surplus
        start = 0
        for end in [*sorted(split % len(raw) for split in self.splits), len(raw)]:
            connection.sendall(raw[start:end])
            start = end


def chunked(sizes: list[int], extension: bytes, trailer: bytes) -> bytes:
    """The body in chunks."""
    parts, at = [], 0
    for size in [*sizes, len(BODY)]:
        if part := BODY[at : at + size]:
            parts.append(b"%x%b\r\n%b\r\n" % (len(part), extension, part))
        at += size
    return b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CODING = b"Transfer-Encoding: chunked\r\n"
# Header lines, and whether they make an error of the response.
WRONG_LENGTHS = [
    b"-1",
    b"+105",
    b"0x69",
    b"105abc",
    b"1 05",
    b"105, 5",
    b"",
    b"99999999999999999999999",
    b"1_0",
    b"105.0",
    b"abc",
]
FRAMINGS = st.one_of(
    st.sampled_from([("length", LENGTH, BODY, False)] * 6),
    st.sampled_from([("to the end", b"", BODY, False)]),
    st.builds(
        lambda sizes, extension, trailer: (
            "chunks",
            CODING,
            chunked(sizes, extension, trailer),
            False,
        ),
        st.lists(st.integers(1, 60), max_size=5),
        st.sampled_from([b"", b"", b";a=b", b';a="b;c"', b";a"]),
        st.sampled_from([b"", b"", b"A: b\r\n", b"Retry-After: 3\r\nB: c\r\n"]),
    ),
    st.sampled_from(WRONG_LENGTHS).map(
        lambda value: ("wrong length", b"Content-Length: %b\r\n" % value, BODY, True)
    ),
    st.sampled_from(
        [
            ("two lengths", LENGTH + b"Content-Length: 5\r\n", BODY, True),
            ("two lengths", b"Content-Length: 5\r\n" + LENGTH, BODY, True),
            ("length and chunks", LENGTH + CODING, chunked([], b"", b""), True),
            ("length and chunks", CODING + LENGTH, chunked([], b"", b""), True),
            ("coding", b"Transfer-Encoding: gzip\r\n", BODY, True),
            ("coding", b"Transfer-Encoding: identity\r\n", BODY, True),
            ("coding", CODING + b"Transfer-Encoding: identity\r\n", chunked([], b"", b""), True),
            ("coding", b"Transfer-Encoding: chunked, gzip\r\n", BODY, True),
            ("wrong chunk", CODING, b"-5\r\nhello\r\n0\r\n\r\n", True),
            ("wrong chunk", CODING, b"0x5\r\nhello\r\n0\r\n\r\n", True),
            ("wrong chunk", CODING, b"5\r\nhelloXX0\r\n\r\n", True),
            ("wrong chunk", CODING, b"\r\nhello\r\n0\r\n\r\n", True),
            ("wrong chunk", CODING, b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n", True),
        ]
    ),
)
GOOD_LINES = st.sampled_from(
    [
        b"Server: nginx\r\n",
        b"X-Empty:\r\n",
        b"X-Bytes: \xe9\xff\r\n",
        b"Set-Cookie: a=b\r\n",
        b"Vary: A\r\n",
        b"X-Tab:\ta\t\r\n",
        b"Connection: keep-alive\r\n",
        b"Connection: close\r\n",
        b"X-Long: " + b"a" * 500 + b"\r\n",
        b"!#$%&'*+-.^_`|~: a\r\n",
        b"Content-Length-X: 5\r\n",
        b"Upgrade: h2c\r\n",
        b"Trailer: A\r\n",
    ]
)
BAD_LINES = st.sampled_from(
    [
        b"nonsense\r\n",
        b"A : b\r\n",
        b": b\r\n",
        b"A\0: b\r\n",
        b"A: b\0\r\n",
        b"A\t: b\r\n",
        b"(A): b\r\n",
    ]
)
# RFC 9112 sections 2.2 and 5.2 let a recipient read these; a gateway may refuse them.
STRICT_LINES = st.sampled_from([b"A: b\r\n c\r\n", b"A: b\n", b"A: b\rc\r\n"])
INTERIM = st.sampled_from(
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\nA: b\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    ]
)
SURPLUS = st.sampled_from(
    [b"", b"", b"x", b"\r\n", b"\0", MALLORY, MALLORY[:20], b"HTTP/1.1 100 X\r\n\r\n"]
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Put a response together, mostly right, with at most a few oddities."""
    version = draw(st.sampled_from([b"1.1"] * 8 + [b"1.0"]))
    status = draw(st.sampled_from([200] * 6 + [201, 204, 304, 400, 404, 429, 500, 503, 599]))
    reason = draw(st.sampled_from([b" OK", b" ", b"", b" \xe9t\xe9", b" Very Well"]))
    framing, lines, content, is_error = draw(FRAMINGS)
    good, bad, strict = (
        draw(st.lists(pool, max_size=size))
        for pool, size in ((GOOD_LINES, 4), (BAD_LINES | st.nothing(), 0), (STRICT_LINES, 0))
    )
    oddity = draw(st.sampled_from(["none"] * 8 + ["bad", "strict"]))
    bad = [draw(BAD_LINES)] if oddity == "bad" else bad
    strict = [draw(STRICT_LINES)] if oddity == "strict" else strict
    headers = draw(st.permutations([*good, lines, *bad, *strict]))
    is_error |= bool(bad) or (framing == "chunks" and version == b"1.0")
    body = BODY
    if status in {204, 304}:
        body, content = b"", b""
        is_error |= framing == "wrong chunk" and version == b"1.0"
        if framing == "wrong chunk":
            is_error = bool(bad) or version == b"1.0"
    interim = draw(st.lists(INTERIM, max_size=2))
    first = b"HTTP/%b %d%b\r\n" % (version, status, reason)
    final = first + b"".join(headers) + b"\r\n" + content
    raw = b"".join(interim) + final
    ends = framing == "to the end" and status not in {204, 304}
    cut = draw(st.sampled_from([0] * 6 + [1])) * draw(st.integers(1, len(final)))
    if cut and ends:
        cut = max(cut, len(content) + 1)  # what is left of such a body is a whole one
    raw = raw[: len(raw) - cut]
    is_error |= bool(cut)
    surplus = b"" if ends or is_error else draw(SURPLUS)
    return Case(
        raw or b"H",
        status,
        body,
        surplus,
        is_error,
        bool(strict),
        closes=ends or is_error or bool(strict) or draw(st.booleans()),
        late=draw(st.booleans()) and not (ends or is_error or bool(strict)),
        splits=draw(st.lists(st.integers(0, 10_000), max_size=4)),
    )


def read_by_h11(case: Case) -> Read:
    """Feed h11 with the bytes."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LIMIT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(case.raw + case.surplus)
    if case.closes:
        connection.receive_data(b"")
    status, body = 0, b""
    try:
        while True:
            item = connection.next_event()
            if isinstance(item, h11.Response):
                status = item.status_code
            elif isinstance(item, h11.Data):
                body += bytes(item.data)
            elif isinstance(item, h11.EndOfMessage):
                return status, body
            elif not isinstance(item, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


UNCHECKED = urllib3.util.create_urllib3_context(cert_reqs=ssl.CERT_NONE)


def read_by_urllib3(url: str) -> Read:
    """Ask by urllib3, over a connection of its own."""
    with urllib3.PoolManager(ssl_context=UNCHECKED, cert_reqs="CERT_NONE") as pool:
        try:
            response = pool.request(
                "POST",
                url,
                body="username=dave",
                retries=False,
                redirect=False,
                timeout=5,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, ValueError, OverflowError, MemoryError):
            return None
        return response.status, response.data


def ask(transport: Transport, name: str) -> Read:
    """Ask as we do."""
    request = Request("/", Masked({}), Masked(f"username={name}"))
    try:
        response = transport.send(request, timeout=5, limit=LIMIT)
    except UpstreamFailedError:
        return None
    return response.status, response.body.reveal()


def bob() -> Read:
    """What the next caller must get."""
    return 200, json.dumps(token_for(Received("", {}, b"username=bob", 0))).encode()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases())
def test_all_read_alike_or_we_refuse(any_upstream: Upstream, case: Case) -> None:
    """What HTTP calls an error is refused, the rest is read, and no byte reaches another call."""
    answered, sent = threading.Event(), threading.Event()

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        case.send(connection)
        if case.late and received.form["username"] == ["alice"]:
            answered.wait(5)
            with suppress(OSError):  # closed by us, as after a 204
                connection.sendall(case.surplus)
            sent.set()
        if case.closes:
            close_cleanly(connection)

    any_upstream.requests.clear()
    transport = Transport(any_upstream.url)
    any_upstream.behave = behave
    ours = ask(transport, "alice")
    answered.set()
    assert not case.late or sent.wait(5)
    theirs = [read_by_h11(case), read_by_urllib3(any_upstream.url)]
    any_upstream.behave = reply_to_each
    assert ask(transport, "bob") == bob()
    transport.close()
    event(f"read by us {bool(ours)}, by h11 {bool(theirs[0])}, by urllib3 {bool(theirs[1])}")
    if case.is_error:
        assert ours is None
    elif case.is_strict:
        assert ours in {None, (case.status, case.body)}
    else:
        assert ours == (case.status, case.body)
        assert theirs[0] == ours
        # http.client, under urllib3, takes 102 and 103 for final, and looks for chunks after a 204.
        if not {b"102", b"103", b"204", b"304"} & set(case.raw.split()):
            assert theirs[1] == ours
