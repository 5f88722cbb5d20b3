"""Uploads on real servers: callers who leave, callers who stall, and early answers."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

import pytest
import requests
from api_app import create_app
from browsing import browser, needs_chromium
from conftest import serve
from misbehaving import TOKEN_REPLY, Received, Upstream, replying
from playwright.sync_api import Browser
from processes import granian, gunicorn, wait_until

__all__ = ["browser"]  # a fixture is used by its name

DECLARED = 20 * 2**20
SENT = 5 * 2**20
FILE = {"uuid": "x", "ipfs": "ipfs://Qm"}

Serve = Callable[[dict[str, str]], AbstractContextManager[str]]


def serve_by_werkzeug(environ: dict[str, str]) -> AbstractContextManager[str]:
    """Flask's development server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        return serve(create_app())


def serve_by_gunicorn(environ: dict[str, str]) -> AbstractContextManager[str]:
    """Gunicorn with one worker."""
    arguments = ("--workers", "1", "--threads", "32", "--pythonpath", "tests")
    return gunicorn(environ, *arguments, app="api_app:create_app()")


def serve_by_granian(environ: dict[str, str]) -> AbstractContextManager[str]:
    """Our production server."""
    return granian(environ, app="api_app:create_app")


SERVERS: dict[str, Serve] = {
    "werkzeug": serve_by_werkzeug,
    "gunicorn": serve_by_gunicorn,
    "granian": serve_by_granian,
}


class Bakrypt:
    """A bakrypt that notes how much of each file it got, and what length was promised."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        upstream.behave = self._behave

    def _behave(self, upstream: Upstream, connection: Any, received: Received) -> None:
        body = TOKEN_REPLY if "/auth/" in received.line else FILE
        replying(200, body)(upstream, connection, received)

    @property
    def files(self) -> list[tuple[int, int]]:
        """The bytes of each file that came, and that were promised."""
        return [
            (len(call.body), int(call.headers["content-length"]))
            for call in self.upstream.requests
            if "/files/" in call.line
        ]


@pytest.fixture
def bakrypt(upstream: Upstream) -> Bakrypt:
    """A bakrypt that counts."""
    return Bakrypt(upstream)


@pytest.fixture(params=list(SERVERS.values()), ids=list(SERVERS))
def url(request: pytest.FixtureRequest, bakrypt: Bakrypt) -> Iterator[str]:
    """The address of an app on a real server."""
    with request.param(bakrypt.upstream.environ) as url:
        yield url


def socket_to(url: str) -> socket.socket:
    """Connect to a server."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 20)


def begin_upload(url: str, length: int | str) -> socket.socket:
    """Send the head of an upload."""
    connection = socket_to(url)
    head = (
        f"POST /bakrypt/v1/files/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


@pytest.mark.parametrize("length", ["+5", "5_0", "0x5", "1e3"])
def test_a_length_that_is_no_number(url: str, bakrypt: Bakrypt, length: str) -> None:
    """Bakrypt gets no empty file."""
    with begin_upload(url, length) as connection:
        connection.sendall(b"hello")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert not bakrypt.files


def test_a_whole_file(url: str, bakrypt: Bakrypt) -> None:
    """The control: all of it arrives."""
    response = requests.post(f"{url}/bakrypt/v1/files/", data=b"x" * SENT, timeout=20)
    assert (response.status_code, response.json()) == (200, FILE)
    assert bakrypt.files == [(SENT, SENT)]


@pytest.mark.parametrize("sent", [0, 1000, SENT])
def test_a_caller_who_leaves(url: str, bakrypt: Bakrypt, sent: int) -> None:
    """A part of a file never looks like a whole one, and the server goes on."""
    with begin_upload(url, DECLARED) as connection:
        connection.sendall(b"x" * sent)
    requests.post(f"{url}/bakrypt/v1/files/", data=b"whole", timeout=20)
    wait_until(lambda: (5, 5) in bakrypt.files)
    assert all(came < promised for came, promised in bakrypt.files if promised == DECLARED)


def test_a_small_file_that_breaks_off(url: str, bakrypt: Bakrypt) -> None:
    """It is kept to be sent again, and so it is not even begun."""
    with begin_upload(url, 1000) as connection:
        connection.sendall(b"x" * 999)
    requests.post(f"{url}/bakrypt/v1/files/", data=b"whole", timeout=20)
    assert bakrypt.files == [(5, 5)]


def test_a_file_above_the_limit_is_answered_without_being_read(url: str, bakrypt: Bakrypt) -> None:
    """The caller has sent only the head."""
    with begin_upload(url, 10**9) as connection:
        answer = read_answer(connection)
    assert answer.startswith("HTTP/1.1 413 ")
    assert "invalid_request" in answer
    assert not bakrypt.files


@pytest.mark.parametrize("megabytes", [pytest.param(60, marks=needs_chromium)])
def test_chromium_reads_that_answer(url: str, browser: Browser, megabytes: int) -> None:
    """A page learns what was wrong, and not only that the network failed."""
    page = browser.new_page()
    page.goto(f"{url}/bakrypt/openapi.json")
    answer = page.evaluate(
        """async (size) => {
            const body = new Blob([new Uint8Array(size)]);
            const response = await fetch("/bakrypt/v1/files/", { method: "POST", body });
            return [response.status, (await response.json()).error];
        }""",
        megabytes * 10**6,
    )
    page.close()
    assert answer == [413, "invalid_request"]


def read_answer(connection: socket.socket) -> str:
    """A response with an `ErrorResponse`, to its end."""
    answer = b""
    while not answer.endswith(b"}"):
        part = connection.recv(65536)
        assert part, answer
        answer += part
    return answer.decode()


def test_an_early_answer(url: str, upstream: Upstream, bakrypt: Bakrypt) -> None:
    """Bakrypt's 413 is handed on before the caller has sent all."""
    answered = threading.Event()

    def refuse_early() -> None:
        listener.settimeout(20)
        while not answered.is_set():
            connection, _ = listener.accept()
            with connection:
                head = connection.recv(65536)
                if b"/auth/" in head:
                    body = json.dumps(TOKEN_REPLY)
                    connection.sendall(_ok("200 OK", body))
                else:
                    connection.sendall(_ok("413 Too Large", json.dumps({"detail": "No."})))
                    # Not read: a caller who sends more may meet a closed connection.
                    answered.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse_early)
        thread.start()
        environ = upstream.environ | {
            "BAKRYPT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}"
        }
        with serve_by_granian(environ) as own, begin_upload(own, DECLARED) as connection:
            with suppress(ConnectionError):  # the server need not read all of it
                connection.sendall(b"x" * SENT)
            assert read_answer(connection).startswith("HTTP/1.1 413 ")
        answered.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join()


def _ok(status: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def test_a_cookie_beyond_ascii_on_our_server(bakrypt: Bakrypt) -> None:
    """Granian drops the whole Cookie header, and the visitor is told."""
    with serve_by_granian(bakrypt.upstream.environ) as url, socket_to(url) as connection:
        head = (
            "GET /bakrypt/receipts/ HTTP/1.1\r\nHost: localhost\r\nCookie: name=Jos\u00e9\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = read_answer(connection)
    assert answer.startswith("HTTP/1.1 400 ")
    assert "cookies" in answer


@pytest.mark.parametrize("sent", [b"", b"x"])
def test_a_stalled_refusal_on_gunicorn(bakrypt: Bakrypt, sent: bytes) -> None:
    """Its only thread is free again after two seconds: gunicorn gives us its socket."""
    arguments = ("--workers", "1", "--threads", "1", "--pythonpath", "tests")
    with (
        gunicorn(bakrypt.upstream.environ, *arguments, app="api_app:create_app()") as url,
        begin_upload(url, 10**9) as connection,
    ):
        connection.sendall(sent)
        assert read_answer(connection).startswith("HTTP/1.1 413 ")
        assert requests.get(f"{url}/healthz", timeout=6).status_code == 200


def test_a_chunked_body_above_the_limit_is_read_on(url: str, bakrypt: Bakrypt) -> None:
    """A proxy that is still sending it reads the answer."""
    with socket_to(url) as connection:
        head = (
            "POST /bakrypt/v1/assets/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        )
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
        for _ in range(80):
            connection.sendall(chunk)  # fails if the server has reset the connection
        connection.sendall(b"0\r\n\r\n")
        assert read_answer(connection).startswith(("HTTP/1.1 413 ", "HTTP/1.1 400 "))


def test_stalled_refusals_take_no_thread_of_others(bakrypt: Bakrypt) -> None:
    """Some are read on for a while, so that a proxy reads the answer; forty more are not."""
    with serve_by_granian(bakrypt.upstream.environ) as url, ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(begin_upload(url, 10**9))
            assert read_answer(connection).startswith("HTTP/1.1 413 ")
        assert requests.post(f"{url}/auth/exchange/", timeout=5).status_code == 200


@pytest.mark.slow
def test_stalled_uploads_on_our_server(bakrypt: Bakrypt) -> None:
    """Forty of them take the places of uploads, and nothing else."""
    with serve_by_granian(bakrypt.upstream.environ) as url, ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(begin_upload(url, DECLARED))
            connection.sendall(b"x")
        time.sleep(1)  # so that all are being read
        assert requests.get(f"{url}/healthz", timeout=5).status_code == 200
        assert requests.post(f"{url}/auth/exchange/", timeout=5).status_code == 200
        response = requests.post(f"{url}/bakrypt/v1/files/", data=b"x", timeout=5)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert response.json()["error"] == "temporarily_unavailable"
