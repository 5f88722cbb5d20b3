"""Large files from Chromium to real servers: dead tokens, and files that are refused unread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import requests
from browsing import browser, needs_chromium
from misbehaving import TOKEN_REPLY, Received, Upstream, replying
from playwright.sync_api import Browser, Page
from processes import granian, gunicorn, wait_until

__all__ = ["browser"]  # a fixture is used by its name
SIZE = 50 * 2**20
FILE = {"uuid": "x", "ipfs": "ipfs://Qm"}
FILES = "https://testnet.bakrypt.io/v1/files/"
UPLOAD = """async ([url, size]) => {
    const response = await fetch(url, { method: "POST", body: new Blob([new Uint8Array(size)]) });
    return { status: response.status, ...(await response.json()) };
}"""
pytestmark = [*needs_chromium, pytest.mark.timeout(120)]

Serve = Callable[[dict[str, str]], AbstractContextManager[str]]


def serve_by_gunicorn(environ: dict[str, str]) -> AbstractContextManager[str]:
    """Gunicorn with two workers."""
    arguments = ("--workers", "2", "--pythonpath", "tests")
    return gunicorn(environ, *arguments, app="api_app:create_app()")


def serve_by_granian(environ: dict[str, str]) -> AbstractContextManager[str]:
    """Our production server with two workers."""
    return granian(environ, "--workers", "2", app="api_app:create_app")


class Bakrypt:
    """A bakrypt that can revoke all tokens, and notes the length of each file that it took."""

    def __init__(self, upstream: Upstream) -> None:
        self._lock = threading.Lock()
        self._good: set[str] = set()
        self.tokens = 0
        self.taken: list[int] = []
        self.refused: list[str] = []
        upstream.behave = self._behave

    def revoke(self) -> None:
        """Refuse all tokens that exist."""
        self._good.clear()

    def _behave(self, upstream: Upstream, connection: Any, received: Received) -> None:
        if "/auth/" in received.line:
            replying(200, TOKEN_REPLY | {"access_token": self._new_token()})(
                upstream, connection, received
            )
            return
        token = received.headers["authorization"].removeprefix("Bearer ")
        if token in self._good:
            self.taken.append(len(received.body))
            replying(201, FILE)(upstream, connection, received)
        else:
            self.refused.append(token)
            replying(401, {"detail": "no"})(upstream, connection, received)

    def _new_token(self) -> str:
        with self._lock:
            self.tokens += 1
            self._good.add(f"token-{self.tokens}")
            return f"token-{self.tokens}"


@pytest.fixture
def bakrypt(upstream: Upstream) -> Bakrypt:
    """A bakrypt that can revoke all tokens."""
    return Bakrypt(upstream)


@pytest.fixture(params=[serve_by_gunicorn, serve_by_granian])
def url(request: pytest.FixtureRequest, upstream: Upstream, bakrypt: Bakrypt) -> Iterator[str]:
    """The address of an app on a server with two workers."""
    environ = upstream.environ | {"BAKRYPT_TIMEOUT": "10"}
    with request.param(environ) as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """A page of this app with `passthrough.js`."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{url}/healthz")
        page.add_script_tag(url="/bakrypt/passthrough.js")
        yield page


def test_two_workers_with_dead_tokens(url: str, bakrypt: Bakrypt, page: Page) -> None:
    """The page sends the file again until it arrives, whole and once."""

    def both_have_a_token() -> bool:
        assert requests.post(f"{url}/bakrypt/v1/files/", data=b"x", timeout=20).ok
        return bakrypt.tokens == 2

    wait_until(both_have_a_token)
    bakrypt.revoke()
    bakrypt.taken.clear()
    found = page.evaluate(UPLOAD, [FILES, SIZE])
    assert found == {"status": 201, **FILE}
    assert bakrypt.taken == [SIZE]
    assert 1 <= len(bakrypt.refused) == len(set(bakrypt.refused)) <= 2


def test_a_file_above_the_limit(bakrypt: Bakrypt, page: Page) -> None:
    """Chromium reads the 413, although nobody reads the file."""
    for _ in range(3):
        found = page.evaluate(UPLOAD, [FILES, SIZE + 10 * 2**20])
        assert (found["status"], found["error"]) == (413, "invalid_request")
    assert not bakrypt.taken
