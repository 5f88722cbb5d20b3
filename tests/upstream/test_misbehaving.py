"""Every way in which bakrypt can fail to answer ends in time, in a reply of the contract."""

import socket
import threading
import time

import pytest
from conftest import create_app
from flask import Flask
from misbehaving import (
    TOKEN_REPLY,
    Behaviour,
    Upstream,
    close_at_once,
    close_half_way,
    drip_body,
    drip_head,
    hang,
    head,
    replying,
)

TIMEOUT = 1.0
GRANT = {"username": "alice", "password": "a password"}
ENDLESS_REDIRECT = replying(301, b"x" * 10_000_000, "Location: /auth/token")

FAILURES: dict[str, tuple[Behaviour, str]] = {
    "hangs": (hang, "bakrypt did not answer in time"),
    "drips a byte a while": (drip_body, "bakrypt did not answer in time"),
    "drips its headers": (drip_head, "bakrypt did not answer in time"),
    "closes half-way": (close_half_way, "bakrypt's reply broke off or could not be read"),
    "closes at once": (close_at_once, "bakrypt's reply broke off or could not be read"),
    "speaks no HTTP": (
        lambda upstream, connection, _: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        "bakrypt's reply broke off or could not be read",
    ),
    "a chunk of negative size": (
        lambda upstream, connection, _: connection.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"
        ),
        "bakrypt's reply broke off or could not be read",
    ),
    "HTML with 200": (replying(200, b"<html>Welcome</html>"), "bakrypt's reply was not JSON"),
    "nothing with 200": (replying(200, b""), "bakrypt's reply was not JSON"),
    "NaN": (
        replying(200, b'{"access_token": "a", "expires_in": NaN}'),
        "bakrypt's reply was not JSON",
    ),
    "a number out of range": (
        replying(200, b'{"access_token": "a", "x": 1e999}'),
        "bakrypt's reply was not JSON",
    ),
    "nested too deep": (replying(200, b"[" * 60_000), "bakrypt's reply was not JSON"),
    "wrong charset": (
        replying(200, '{"access_token": "é"}'.encode("latin-1")),
        "bakrypt's reply was not JSON",
    ),
    "broken gzip": (
        replying(200, b"not gzip", "Content-Encoding: gzip"),
        "bakrypt's reply broke off or could not be read",
    ),
    "a list": (replying(200, [TOKEN_REPLY]), "bakrypt's reply was not a JSON object"),
    "no access_token": (
        replying(200, {"expires_in": 36000}),
        "bakrypt's reply held no usable access_token",
    ),
    "access_token is a number": (
        replying(200, {"access_token": 1}),
        "bakrypt's reply held no usable access_token",
    ),
    "access_token is empty": (
        replying(200, {"access_token": ""}),
        "bakrypt's reply held no usable access_token",
    ),
    # RFC 6749 appendix A.12; in the header of a call to the API it would be another header.
    "access_token with a line break": (
        replying(200, TOKEN_REPLY | {"access_token": "a\r\nX-Header: b"}),
        "bakrypt's reply held no usable access_token",
    ),
    "access_token with a control character": (
        replying(200, TOKEN_REPLY | {"access_token": "a\0"}),
        "bakrypt's reply held no usable access_token",
    ),
    "access_token in another alphabet": (
        replying(200, TOKEN_REPLY | {"access_token": "密码"}),
        "bakrypt's reply held no usable access_token",
    ),
    "access_token with half a character": (
        replying(200, TOKEN_REPLY | {"access_token": "\ud800"}),
        "bakrypt's reply held no usable access_token",
    ),
    "301": (
        replying(301, b"", "Location: /auth/token"),
        "bakrypt answered with a redirect, which is not followed",
    ),
    "301 with 10 MB": (ENDLESS_REDIRECT, "bakrypt answered with a redirect, which is not followed"),
    "500": (replying(500, b"<h1>Server Error (500)</h1>"), "bakrypt failed (status 500)"),
    "503 with JSON": (replying(503, {"detail": "down"}), "bakrypt failed (status 503)"),
    "10 MB": (
        replying(200, b'{"access_token": "a"}'.ljust(10_000_000)),
        "bakrypt's reply was too large",
    ),
    "404 with HTML": (replying(404, b"<h1>Not Found</h1>"), "bakrypt's reply was not JSON"),
}


@pytest.fixture
def app(upstream: Upstream) -> Flask:
    """A host app against the upstream."""
    return create_app(upstream.environ)


@pytest.mark.parametrize("warm", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("route", ["/auth/exchange/", "/auth/token/"])
@pytest.mark.parametrize(("behave", "description"), FAILURES.values(), ids=FAILURES)
def test_a_failing_upstream_is_a_500_in_time(
    upstream: Upstream, app: Flask, route: str, behave: Behaviour, description: str, warm: bool
) -> None:
    """On a new connection or on a kept one, the caller hears what happened, and soon."""
    if warm:
        upstream.behave = replying(200, TOKEN_REPLY)
        assert app.test_client().post("/auth/token/", data=GRANT).status_code == 200
    upstream.behave = behave
    started = time.monotonic()
    reply = app.test_client().post(route, data=GRANT if "token" in route else None)
    assert time.monotonic() - started < TIMEOUT + 1
    assert reply.status_code == 500
    assert reply.json == {"error": "server_error", "error_description": description}
    assert reply.content_type == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"


def test_an_upstream_that_refuses_connections_is_a_500(app: Flask, upstream: Upstream) -> None:
    """Nobody listens."""
    with Upstream() as gone:
        url = gone.url
    app = create_app(upstream.environ | {"BAKRYPT_URL": url})
    reply = app.test_client().post("/auth/exchange/")
    assert reply.status_code == 500
    assert reply.json == {
        "error": "server_error",
        "error_description": "bakrypt could not be reached",
    }


def test_an_upstream_without_tls_is_a_500(upstream: Upstream) -> None:
    """Somebody listens who does not speak TLS, and answers a greeting in it as nginx does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=_answer_without_tls, args=(listener,))
        thread.start()
        reply = (
            create_app(upstream.environ | {"BAKRYPT_URL": url})
            .test_client()
            .post("/auth/exchange/")
        )
        thread.join()
    assert reply.status_code == 500
    assert reply.json == {
        "error": "server_error",
        "error_description": "no secure connection to bakrypt",
    }


def _answer_without_tls(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(head(400, 0))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(upstream: Upstream, app: Flask, status: int) -> None:
    """A 307 would carry client secret and password to another host."""
    with Upstream() as other:
        upstream.behave = replying(status, b"", f"Location: {other.url}/auth/token/")
        reply = app.test_client().post("/auth/token/", data=GRANT)
        assert reply.status_code == 500
        assert other.requests == []
    assert len(upstream.requests) == 1
