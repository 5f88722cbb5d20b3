"""Clients that send a part of a request body and then stall, with nginx and without.

nginx runs as `docs/deploy.md` configures it.
"""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.request import Request

import pytest
from processes import ROOT, free_port, gunicorn, wait_until
from serving import Server, fetch, serve

from bakrypt_proxy.sandbox import Sandbox

NGINX = shutil.which("nginx")
SLOW_CLIENTS = 600
SLOW_REQUEST = (
    b"POST /auth/exchange/ HTTP/1.1\r\nHost: shop.example.com\r\n"
    b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
)
SMUGGLED = b"GET /SMUGGLED HTTP/1.1\r\nHost: localhost\r\n\r\n"
REFUSED = b"POST /bakrypt/v1/no/ HTTP/1.1\r\nHost: localhost\r\n"
NEXT = REFUSED + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED)
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# The part of a body before the stall, and what comes after it. A server that forgets a part of a
# chunk takes the chunk's rest for a request. One that forgets a part of a length reads as many
# bytes too far: the next request's head is gone, and its body is taken for a request.
STALLED = {
    "chunked": (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\nabc" % (3 + len(SMUGGLED)),
        SMUGGLED + b"\r\n0\r\n\r\n",
    ),
    "length": (
        b"Content-Length: %d\r\n\r\n%s" % (len(NEXT) + 1, b"x" * len(NEXT)),
        b"x" + NEXT + SMUGGLED,
    ),
}
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests read /proc"),
    pytest.mark.timeout(120),
]


@contextmanager
def our_app(directory: Path, sandbox: Sandbox, *options: str) -> Iterator[Server]:
    """Run `app.py`, open to everybody, on the production server."""
    environ = {
        **sandbox.environ,
        "BAKRYPT_EXCHANGE_PUBLIC": "true",
        "BAKRYPT_TRUSTED_PROXIES": "1",
        "PYTHONPATH": str(ROOT),
    }
    with serve(directory, *options, app="app:create_app", environ=environ) as server:
        yield server


@contextmanager
def nginx(directory: Path, app_port: int) -> Iterator[int]:
    """Run nginx with the configuration of `docs/deploy.md`, without TLS; return its port."""
    port = free_port()
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    snippets = re.findall(r"^```nginx\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (site,) = [snippet for snippet in snippets if "server {" in snippet]
    (limits,) = [snippet for snippet in snippets if "worker_connections" in snippet]
    site = site[site.rindex("server {") :]  # not the default one, which refuses other names
    site = re.sub(r"listen 443 ssl", f"listen 127.0.0.1:{port}", site)
    site = re.sub(r"ssl_certificate.*\n", "", site)
    site = re.sub(r"http://127.0.0.1:8000", f"http://127.0.0.1:{app_port}", site)
    (directory / "nginx.conf").write_text(
        f"daemon off; pid nginx.pid; error_log stderr;\n{limits}"
        f"http {{ access_log off; client_body_temp_path body; {site} }}"
    )
    command = [str(NGINX), "-p", str(directory), "-c", "nginx.conf"]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: is_open(port))
            yield port
        finally:
            process.terminate()
            process.wait(10)


def is_open(port: int) -> bool:
    """Return whether something listens on a port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def slow_clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Keep this many requests open; each has sent one byte of its body."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            client.sendall(SLOW_REQUEST)
            clients.append(client)
        yield clients


def is_stuck(server: Server) -> bool:
    """Return whether the health check gets no response within a second."""
    try:
        fetch(Request(server.url + "healthz"), timeout=1)
    except TimeoutError:
        return True
    return False


def exchange(port: int) -> str:
    """Return the response to an exchange."""
    url = f"http://127.0.0.1:{port}/auth/exchange/"
    return fetch(Request(url, method="POST", headers={"Host": "shop.example.com"}))


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_keeps_slow_bodies_from_the_server(tmp_path: Path, sandbox: Sandbox) -> None:
    """Health and exchange answer while 600 clients send a byte each, more than there are threads.

    A slow client that continues gets its response, too.
    """
    options = ("--workers", "2")
    with our_app(tmp_path, sandbox, *options) as server, nginx(tmp_path, server.port) as port:
        with slow_clients(port, SLOW_CLIENTS) as clients:
            for _ in range(10):
                assert "access_token" in exchange(port)
                assert "access_token" in exchange(server.port)
                assert "ok" in server.get("healthz")
            for client in (clients[0], clients[-1]):
                client.sendall(b"}        ")
                assert b"200 OK" in client.recv(1000)
        assert server.stop() < 3


def test_without_such_a_proxy_slow_bodies_hold_all_threads(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """That is what the page and `--help` warn of. The server answers again when they are gone."""
    options = ("--blocking-threads", "4", "--workers-kill-timeout", "2")
    with our_app(tmp_path, sandbox, *options) as server:
        with slow_clients(server.port, 4):
            wait_until(lambda: is_stuck(server), 20)
        assert "ok" in server.get("healthz")


def test_the_help_asks_for_a_proxy_that_buffers_requests() -> None:
    """It says what happens without one."""
    command = [sys.executable, "-m", "bakrypt_proxy.server", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    words = " ".join(shown.split())
    assert "Put it behind a proxy that buffers requests, such as nginx." in words
    assert "a few hundred slow clients stop all responses" in words


@pytest.mark.parametrize("body", STALLED.values(), ids=STALLED)
def test_the_rest_of_a_refused_body_is_no_request_on_gunicorn(
    tmp_path: Path, sandbox: Sandbox, body: tuple[bytes, bytes]
) -> None:
    """Its client stalls until we no longer read it, and then sends a request in it."""
    first, rest = body
    log = tmp_path / "log"
    arguments = ["--workers", "1", "--keep-alive", "20", "--access-logfile", str(log)]
    arguments += ["--pythonpath", "tests"]
    with gunicorn(sandbox.environ, *arguments, app="api_app:create_app()") as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, 10) as client:
            client.sendall(REFUSED + first)
            assert client.recv(10_000).startswith(b"HTTP/1.1 404 ")
            read_on(client, 2.6)  # we read the body for up to 2 seconds
            with suppress(ConnectionError):  # gunicorn has closed it
                client.sendall(rest)
                read_on(client, 0.5)
                client.sendall(LAST)
            read_on(client, 10)
    assert "/bakrypt/v1/no/" in log.read_text()
    assert "SMUGGLED" not in log.read_text()


def read_on(client: socket.socket, seconds: float) -> None:
    """Read until the connection ends or nothing comes for so many seconds."""
    client.settimeout(seconds)
    with suppress(ConnectionError, TimeoutError):
        while client.recv(10_000):
            pass
