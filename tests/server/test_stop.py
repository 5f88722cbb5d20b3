"""How the server stops."""

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import Server, serve, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks the workers")

# A stop that waits for this kill timeout takes much longer than one that does not.
PATIENT = ("--workers-kill-timeout", "25")
AT_ONCE = 15  # seconds, on a busy machine; usually a tenth of a second

SLOW_START = """
import os
import time


def create_app():
    print("creating", flush=True)
    time.sleep(60)
"""
SLOW_RESPONSE = """
import sys
import time


def create_app():
    return respond


def respond(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print("in progress", file=sys.stderr, flush=True)
        time.sleep(1.5)
    if environ["PATH_INFO"] == "/body":
        print("in progress", file=sys.stderr, flush=True)
        environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"done"]
"""


@contextmanager
def connection(server: Server) -> Iterator[socket.socket]:
    """A TCP connection to the server."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        yield sock


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_still_starting_does_not_hold_a_stop(tmp_path: Path, workers: int) -> None:
    """Such a worker has nothing to finish. It used to ignore SIGTERM until it was killed."""
    options = ("--factory", "--workers", str(workers), *PATIENT)
    with start(tmp_path, *options, source=SLOW_START) as server:
        server.wait_for_log("creating", workers)
        assert server.stop() < AT_ONCE
        assert "refused to gracefully stop" not in server.log.read_text()


@pytest.mark.timeout(60)
def test_requests_in_progress_are_answered(tmp_path: Path) -> None:
    """The server waits for them and then stops at once."""
    with serve(tmp_path, "--workers", "2", *PATIENT, source=SLOW_RESPONSE) as server:
        with ThreadPoolExecutor() as threads:
            responses = [threads.submit(server.get, "slow") for _ in range(8)]
            server.wait_for_log("in progress", 8)
            assert server.stop() < AT_ONCE
            assert [response.result() for response in responses] == ["done"] * 8
        assert "refused to gracefully stop" not in server.log.read_text()


@pytest.mark.timeout(60)
def test_idle_connections_do_not_hold_a_stop(tmp_path: Path) -> None:
    """A browser or a proxy may keep its connection."""
    with serve(tmp_path, *PATIENT, source=SLOW_RESPONSE) as server, connection(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in sock.recv(1000)
        assert server.stop() < AT_ONCE


@pytest.mark.timeout(60)
def test_a_stalled_body_holds_a_stop_until_the_kill_timeout(tmp_path: Path) -> None:
    """Other requests in progress are answered all the same."""
    options = ("--workers-kill-timeout", "4")
    with serve(tmp_path, *options, source=SLOW_RESPONSE) as server, connection(server) as sock:
        sock.sendall(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
        with ThreadPoolExecutor() as threads:
            response = threads.submit(server.get, "slow")
            server.wait_for_log("in progress", 2)
            assert 3 < server.stop() < AT_ONCE
            assert response.result() == "done"


def test_the_default_is_shorter_than_that_of_docker(tmp_path: Path) -> None:
    """`docker stop` kills the whole container after 10 seconds."""
    with serve(tmp_path, source=SLOW_RESPONSE) as server, connection(server) as sock:
        sock.sendall(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
        server.wait_for_log("in progress")
        assert 7 < server.stop() < 10
        assert server.process.returncode == 0
