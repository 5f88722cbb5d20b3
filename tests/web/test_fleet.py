"""Receipts on a fleet of real servers whose processes share only the settings."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest
import requests
from processes import granian, gunicorn

from bakrypt_proxy.sandbox import Sandbox

KEY = "a-key-of-at-least-32-characters-000"
NEW_KEY = "a-key-of-at-least-32-characters-111"
ROUNDS = 4  # of calls over new connections, so that each of two workers is likely to get one


class Visitor:
    """A browser that keeps cookies."""

    def __init__(self) -> None:
        self._cookies = requests.Session().cookies

    def make(self, url: str) -> str:
        """Create an asset and return its transaction."""
        response = requests.post(
            f"{url}/bakrypt/v1/assets/", json=[{"name": "A"}], cookies=self._cookies, timeout=20
        )
        assert response.status_code == 201, response.text
        self._cookies.update(response.cookies)
        transaction: str = response.json()[0]["transaction"]
        return transaction

    def statuses(self, urls: list[str], transaction: str) -> set[int]:
        """The statuses of several calls to each server, each over a new connection."""
        return {
            requests.get(
                f"{url}/bakrypt/v1/transactions/{transaction}/", cookies=self._cookies, timeout=20
            ).status_code
            for url in urls * ROUNDS
        }


@contextmanager
def fleet(sandbox: Sandbox, keys: str) -> Iterator[list[str]]:
    """Two servers of two workers each; their addresses."""
    environ = {**sandbox.environ, "BAKRYPT_COOKIE_KEY": keys}
    own = ("--workers", "2", "--pythonpath", "tests")
    with ExitStack() as stack:
        first = gunicorn(environ, *own, app="api_app:create_app()")
        second = granian(environ, "--workers", "2", app="api_app:create_app")
        yield [stack.enter_context(server) for server in (first, second)]


class Start(NamedTuple):
    """One start of all servers: the keys, and which of the visitor's transactions they know."""

    keys: str
    known: list[int]
    unknown: list[int]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "starts",
    [
        [Start("", [], []), Start("", [0], [])],
        [Start(KEY, [], []), Start(f"{NEW_KEY},{KEY}", [0], []), Start(NEW_KEY, [1], [0])],
    ],
    ids=["no key", "a rotated key"],
)
def test_receipts_after_a_restart_of_all(sandbox: Sandbox, starts: list[Start]) -> None:
    """The maker reaches a transaction on any worker of any server, and nobody else does."""
    alice, bob = Visitor(), Visitor()
    made: list[str] = []
    for number, start in enumerate(starts):
        with fleet(sandbox, start.keys) as urls:
            made.append(alice.make(urls[number % 2]))
            bob.make(urls[0])
            for index in [*start.known, number]:
                assert alice.statuses(urls, made[index]) == {200}
            for index in start.unknown:
                assert alice.statuses(urls, made[index]) == {404}
            assert bob.statuses(urls, made[-1]) == {404}
