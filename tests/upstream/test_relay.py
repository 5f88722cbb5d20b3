"""Calls to the API with a token that is given: uploads in parts, early answers, silences."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from misbehaving import Received, Upstream, head, replying

from bakrypt_proxy import Settings, UpstreamFailedError, UpstreamRefusedError
from bakrypt_proxy.upstream.masking import Masked
from bakrypt_proxy.upstream.relay import ApiRequest, Relay
from bakrypt_proxy.upstream.transport import Transport

TOKEN = Masked("a-token")
PART = b"x" * 65536


def relay(upstream: Upstream, **settings: Any) -> Relay:
    """A relay to an upstream."""
    transport = Transport(upstream.url)
    return Relay(transport, Settings(url=upstream.url, token="t", timeout=2, **settings))


def upload(parts: Iterator[bytes] | list[bytes], length: int) -> ApiRequest:
    """A file in parts."""
    return ApiRequest("files", "POST", "/v1/files/", {}, parts, length, said=None)


def test_a_file_in_parts(any_upstream: Upstream) -> None:
    """Each arrives whole, over a connection of its own."""
    any_upstream.behave = replying(201, {"uuid": "x"})
    own = relay(any_upstream)
    for _ in range(3):
        found = own.send(upload([PART] * 20, 20 * len(PART)), TOKEN)
        assert (found.status, found.content) == (201, {"uuid": "x"})
    assert [len(call.body) for call in any_upstream.requests] == [20 * len(PART)] * 3
    assert [call.connection for call in any_upstream.requests] == [1, 2, 3]


def test_a_body_is_nobodys_request(any_upstream: Upstream) -> None:
    """A server that ignores bodies reads a visitor's as the next request on the connection."""

    def ignore_bodies(upstream: Upstream, connection: Any, received: Received) -> None:
        upstream.stopped.wait(0.1)  # until the body is sent, or the next request
        replying(200, {"line": received.line})(upstream, connection, received)

    any_upstream.reads_bodies = False
    any_upstream.behave = ignore_bodies
    own, body = relay(any_upstream), b"GET /smuggled HTTP/1.1\r\n\r\n"
    own.send(upload([body], len(body)), TOKEN)
    asked = own.send(ApiRequest("transactions", "GET", "/v1/transactions/x/", {}), TOKEN)
    assert asked.content == {"line": "GET /v1/transactions/x/ HTTP/1.1"}


def test_a_call_without_a_body_keeps_its_connection(any_upstream: Upstream) -> None:
    """Nothing of it can be read as another request."""
    any_upstream.behave = replying(200, {"uuid": "x"})
    own = relay(any_upstream)
    for _ in range(2):
        own.send(ApiRequest("mint", "POST", "/v1/transactions/x/mint/", {}), TOKEN)
    assert [call.connection for call in any_upstream.requests] == [1, 1]


def test_a_connection_that_was_idle_is_not_used_for_what_is_sent_once(
    any_upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest server may be closing it. What is asked again anyway may use it."""
    any_upstream.behave = replying(200, {"uuid": "x"})
    own, real = relay(any_upstream), time.monotonic
    get = ApiRequest("transactions", "GET", "/v1/transactions/x/", {})
    mint = ApiRequest("mint", "POST", "/v1/transactions/x/mint/", {})
    for seconds, request in ((0, get), (0.9, mint), (2.1, mint), (10, get), (20, mint), (20, get)):
        monkeypatch.setattr(time, "monotonic", lambda: real() + seconds)  # noqa: B023
        own.send(request, TOKEN)
    assert [call.connection for call in any_upstream.requests] == [1, 1, 2, 2, 3, 3]
    monkeypatch.setattr(time, "monotonic", lambda: real() + 30)
    own.send(upload([PART], len(PART)), TOKEN)  # over a connection that is closed
    own.send(get, TOKEN)  # over the one that was not fresh enough for the file
    own.send(upload([PART], len(PART)), TOKEN)  # over the same: it is fresh, and is closed
    own.send(get, TOKEN)  # none is left: each mint's took the place of the one before
    assert [call.connection for call in any_upstream.requests[6:]] == [4, 3, 3, 5]


def test_a_slow_caller(any_upstream: Upstream) -> None:
    """Between parts nothing is there to read, which is no fault."""

    def slowly() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(0.1)
            yield PART

    any_upstream.behave = replying(200, {"uuid": "x"})
    assert relay(any_upstream).send(upload(slowly(), 4 * len(PART)), TOKEN).status == 200


def test_a_caller_who_leaves(any_upstream: Upstream) -> None:
    """The connection ends, and with it the file."""

    def leaving() -> Iterator[bytes]:
        yield PART
        raise RuntimeError("left")

    with pytest.raises(RuntimeError, match="left"):
        relay(any_upstream).send(upload(leaving(), 4 * len(PART)), TOKEN)
    assert all(len(call.body) < 4 * len(PART) for call in any_upstream.requests)


def test_a_slow_reader(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout bounds each silence, and not the whole of a large part, as `assets` has it."""
    connect, size = socket.create_connection, 16 * len(PART)

    def connect_with_small_buffer(*arguments: Any) -> socket.socket:
        sock = connect(*arguments)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(PART))
        return sock

    def read_slowly(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, len(PART))
        left = size - len(PART)  # some is in a buffer of the test's server
        while left > 0 and (data := connection.recv(len(PART) // 2)):
            left -= len(data)
            upstream.stopped.wait(0.05)
        replying(201, {"uuid": "x"})(upstream, connection, received)

    monkeypatch.setattr(socket, "create_connection", connect_with_small_buffer)
    upstream.reads_bodies, upstream.behave = False, read_slowly
    settings = Settings(url=upstream.url, token="t", timeout=0.5)
    request = ApiRequest("assets", "POST", "/v1/assets/", {}, [PART * 16], size)
    started = time.monotonic()
    assert Relay(Transport(upstream.url), settings).send(request, TOKEN).status == 201
    assert time.monotonic() - started > settings.timeout


def test_a_silent_upstream(any_upstream: Upstream) -> None:
    """The first byte after an upload has a time of its own."""

    def say_nothing(upstream: Upstream, _: Any, __: Received) -> None:
        upstream.stopped.wait(5)

    any_upstream.behave = say_nothing
    started = time.monotonic()
    with pytest.raises(UpstreamFailedError):
        relay(any_upstream, upload_timeout=0.5).send(upload([PART], len(PART)), TOKEN)
    assert time.monotonic() - started < 2


def test_an_answer_while_bakrypt_reads_no_more(any_upstream: Upstream) -> None:
    """It is handed on, although the next part cannot be sent."""
    body = b'{"detail": "No."}'

    def refuse_unread(upstream: Upstream, connection: Any, _: Received) -> None:
        upstream.stopped.wait(0.5)  # until the sender has filled all buffers
        connection.sendall(head(413, len(body)) + body)
        upstream.stopped.wait(10)

    any_upstream.reads_bodies = False
    any_upstream.behave = refuse_unread
    with pytest.raises(UpstreamRefusedError) as caught:
        relay(any_upstream).send(upload([PART] * 1000, 1000 * len(PART)), TOKEN)
    assert caught.value.status == 413


def test_a_refusal_is_bakrypts(any_upstream: Upstream) -> None:
    """With its status."""
    any_upstream.behave = replying(413, {"detail": "No."})
    with pytest.raises(UpstreamRefusedError) as caught:
        relay(any_upstream).send(upload([PART], len(PART)), TOKEN)
    assert caught.value.status == 413


def test_a_response_in_many_small_records(tls_upstream: Upstream) -> None:
    """It is read whole up to 1 MiB, however the server cuts it."""
    body = b'["%b"]' % (b"a" * 1_000_000)

    def cut(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(head(200, len(body)))
        for at in range(0, len(body), 80):
            connection.sendall(body[at : at + 80])

    tls_upstream.behave = cut
    request = ApiRequest("transactions", "GET", "/v1/transactions/x/", {})
    assert relay(tls_upstream).send(request, TOKEN).status == 200


@pytest.mark.parametrize("token", ['to"ken', "to\\ken", "to/ken", "to\\u0041ken"])
def test_a_token_that_json_escapes(any_upstream: Upstream, token: str) -> None:
    """It never comes down, however bakrypt's JSON spells it."""
    own = relay(any_upstream)
    plain = json.dumps({"a": token})
    for written in (plain, plain.replace("/", "\\/"), plain.replace("o", "\\u006f")):
        any_upstream.behave = replying(200, written.encode())
        with pytest.raises(UpstreamFailedError, match="repeated a secret"):
            own.send(ApiRequest("transactions", "GET", "/v1/transactions/x/", {}), Masked(token))


def test_the_search_for_the_token_is_as_quick_as_reading(any_upstream: Upstream) -> None:
    """A caller may have chosen what bakrypt repeats: a MiB of quotes costs no more than letters."""
    own = relay(any_upstream)
    call = ApiRequest("transactions", "GET", "/v1/transactions/x/", {})
    times = {}
    for text in ("x" * 1_000_000, '"' * 500_000, "\\" * 500_000, "\x7f" * 170_000, "/" * 1_000_000):
        any_upstream.behave = replying(200, {"a": text})
        started = time.thread_time()
        assert own.send(call, TOKEN).content == {"a": text}
        times[text[0]] = time.thread_time() - started
    assert max(times.values()) < 20 * times["x"] + 0.05, times
