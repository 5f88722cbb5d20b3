"""One token for a fleet: real processes, a real Redis, real sockets."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from conftest import create_app
from misbehaving import TOKEN_REPLY, Received, Upstream, replying
from processes import free_port, gunicorn, wait_until
from real_redis import REDIS_SERVER, RedisServer
from redis import Redis

from bakrypt_proxy import BakryptClient, BakryptError, Settings
from bakrypt_proxy.sandbox import CREDENTIALS, Sandbox
from bakrypt_proxy.tokens.redis_store import RedisTokenStore
from bakrypt_proxy.tokens.shared import SharedToken

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")


@pytest.fixture
def environ(sandbox: Sandbox, redis_server: RedisServer) -> dict[str, str]:
    """Settings of a fleet against the sandbox."""
    return {**sandbox.environ, "BAKRYPT_REDIS_URL": redis_server.url, "BAKRYPT_TIMEOUT": "5"}


def member(environ: dict[str, str]) -> SharedToken:
    """What a process of the fleet has, in this process."""
    settings = Settings.from_mapping(environ)
    client = BakryptClient(settings)
    assert settings.redis_url is not None
    assert settings.token is not None
    fleet = RedisTokenStore(
        settings.redis_url, secret=settings.token, upstream=settings.url, timeout=settings.timeout
    )
    return SharedToken(
        lambda seconds: client.exchange(timeout=seconds), timeout=settings.timeout, store=fleet
    )


class Worker:
    """A process of the fleet; `ask` gets its token."""

    def __init__(self, environ: dict[str, str], clock_shift: float = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "tokens" / "fleet_worker.py"), str(clock_shift)],
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def send(self, rejected: str = "") -> None:
        """Tell it to get the token."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{rejected}\n")
        self.process.stdin.flush()

    def ask(self, rejected: str = "") -> dict[str, Any]:
        """Tell it, and return its reply."""
        self.send(rejected)
        assert self.process.stdout is not None
        reply: dict[str, Any] = json.loads(self.process.stdout.readline())
        return reply


def exchange_at_once(url: str, number: int) -> Counter[tuple[int, str]]:
    """Exchange in many threads, each on a connection of its own, and count statuses and tokens."""

    def exchange(_: int) -> tuple[int, str]:
        reply = requests.post(f"{url}/auth/exchange/", timeout=20)
        return reply.status_code, reply.json().get("access_token", reply.text)

    with ThreadPoolExecutor(100) as pool:
        return Counter(pool.map(exchange, range(number)))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--preload"]], ids=["plain", "preload"])
def test_four_workers_with_redis_make_one_call(
    sandbox: Sandbox, environ: dict[str, str], arguments: list[str]
) -> None:
    """All of a thousand callers get the same token."""
    sandbox.delay = 0.3
    with gunicorn(environ, *arguments) as url:
        replies = exchange_at_once(url, 1000)
    assert [status for status, _ in replies] == [200]
    assert sandbox.calls["/auth/exchange/"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--preload"]], ids=["plain", "preload"])
def test_four_workers_without_redis_make_at_most_four(
    sandbox: Sandbox, arguments: list[str]
) -> None:
    """One for each process, which share no socket to bakrypt."""
    with gunicorn(sandbox.environ, *arguments) as url:
        replies = exchange_at_once(url, 400)
    assert {status for status, _ in replies} == {200}
    assert 1 <= len(replies) == sandbox.calls["/auth/exchange/"] <= 4


@pytest.mark.slow
def test_a_process_that_asked_before_it_forked(sandbox: Sandbox, environ: dict[str, str]) -> None:
    """Its workers take the token along, and no socket: each reply goes to the caller who asked."""
    preload = ["--preload", "--pythonpath", "tests"]
    with gunicorn(environ, *preload, app="warm_app:app") as url:
        replies = exchange_at_once(url, 100)
    assert [status for status, _ in replies] == [200]
    assert sandbox.calls["/auth/exchange/"] == 1
    with gunicorn({**environ, "BAKRYPT_SHARE_TOKEN": "false"}, *preload, app="warm_app:app") as url:
        replies = exchange_at_once(url, 400)
    assert {status for status, _ in replies} == {200}
    assert len(replies) == 400
    assert sandbox.calls["/auth/exchange/"] == 1 + 401


@pytest.mark.slow
def test_a_fleet_shares_the_error_too(sandbox: Sandbox, environ: dict[str, str]) -> None:
    """One call, whichever process a caller comes to."""
    sandbox.delay, sandbox.fail = 0.3, 503
    with gunicorn(environ) as url:
        replies = exchange_at_once(url, 100)
    assert {status for status, _ in replies} == {500}
    # The back-off is half a second or more; all hundred come within that after the one call.
    assert sandbox.calls["/auth/exchange/"] <= 2


def test_a_process_that_joins_finds_the_token(sandbox: Sandbox, environ: dict[str, str]) -> None:
    """With what is left of its life, and without a call."""
    first, second = member(environ).get(), member(environ).get()
    assert first["access_token"] == second["access_token"]
    assert second["expires_in"] in {first["expires_in"], first["expires_in"] - 1}
    assert sandbox.calls == {"/auth/exchange/": 1}


class Overlaps:
    """Answers each exchange after a while, the first one never, and counts those at once."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []
        self.most = self.under_way = 0

    def __call__(self, upstream: Upstream, connection: socket.socket, received: Received) -> None:
        """Behave."""
        self.arrivals.append(time.monotonic())
        if len(self.arrivals) == 1:
            connection.recv(1)  # until the killed caller's end of it is gone
            return
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        time.sleep(0.05)
        self.under_way -= 1
        replying(200, TOKEN_REPLY)(upstream, connection, received)


@pytest.mark.slow
def test_a_worker_killed_with_the_lease(upstream: Upstream, redis_server: RedisServer) -> None:
    """The others have a token when the lease has run out, from one call."""
    timeout = 1.5
    environ = {
        **upstream.environ,
        "BAKRYPT_REDIS_URL": redis_server.url,
        "BAKRYPT_TIMEOUT": str(timeout),
    }
    upstream.behave = overlaps = Overlaps()
    with ExitStack() as stack:
        doomed, *others = [stack.enter_context(Worker(environ)) for _ in range(4)]
        doomed.send()
        wait_until(lambda: len(overlaps.arrivals) == 1)
        doomed.process.send_signal(signal.SIGKILL)
        with ThreadPoolExecutor() as pool:
            replies = list(pool.map(lambda worker: worker.ask(), others))
        waited = time.monotonic() - overlaps.arrivals[0]
    assert [reply.get("access_token") for reply in replies] == [TOKEN_REPLY["access_token"]] * 3
    assert waited < timeout + 1
    assert len(overlaps.arrivals) == 2
    assert overlaps.arrivals[1] - overlaps.arrivals[0] > timeout - 0.1
    assert overlaps.most == 1


def test_a_lease_that_ran_out_is_not_released_by_its_old_owner(
    upstream: Upstream, redis_server: RedisServer
) -> None:
    """It may be another's by now."""
    environ = {**upstream.environ, "BAKRYPT_REDIS_URL": redis_server.url, "BAKRYPT_TIMEOUT": "5"}
    with Redis.from_url(redis_server.url) as redis:

        def steal(upstream: Upstream, connection: socket.socket, received: Received) -> None:
            (lease,) = redis.keys("*:lease")
            redis.set(lease, "another's")
            replying(200, TOKEN_REPLY)(upstream, connection, received)

        upstream.behave = steal
        assert member(environ).get()["access_token"] == TOKEN_REPLY["access_token"]
        (lease,) = redis.keys("*:lease")
        assert redis.get(lease) == b"another's"


class Load:
    """Callers that never stop asking a member of the fleet, and note what they get."""

    def __init__(self, *members: SharedToken) -> None:
        self.members = members
        self.tokens: list[set[str]] = [set() for _ in members]
        self.errors: list[BakryptError] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(len(members))]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stop.wait(0.002):
            try:
                self.tokens[number].add(self.members[number].get()["access_token"])
            except BakryptError as error:
                self.errors.append(error)

    def renew(self, times: int) -> None:
        """Wait until each member has had so many more tokens."""
        before = [len(tokens) for tokens in self.tokens]
        wait_until(
            lambda: all(len(t) >= n + times for t, n in zip(self.tokens, before, strict=True)), 30
        )


@pytest.mark.slow
def test_redis_killed_and_restarted_under_load(
    sandbox: Sandbox,
    environ: dict[str, str],
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No reply fails, each process warns once, and sharing resumes by itself."""
    caplog.set_level(logging.INFO, "bakrypt_proxy")
    sandbox.expires_in = 1
    with Load(member(environ), member(environ)) as load:
        load.renew(1)
        for outages in (1, 2):
            redis_server.kill()
            load.renew(1)
            warnings = [
                record for record in caplog.records if "Redis cannot be used" in record.message
            ]
            assert len(warnings) == 2 * outages
            assert {record.levelname for record in warnings} == {"WARNING"}
            redis_server.start()
            load.renew(1)
            shared = load.tokens[0] & load.tokens[1]
            wait_until(
                lambda old=shared: len(load.tokens[0] & load.tokens[1]) > len(old),  # type: ignore[misc]
                30,
            )
    assert load.errors == []
    assert sum("Redis is back" in record.message for record in caplog.records) == 4


def test_a_redis_that_was_never_there(sandbox: Sandbox) -> None:
    """The process goes on by itself."""
    environ = {**sandbox.environ, "BAKRYPT_REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    token = member(environ)
    assert token.get() == token.get()
    assert sandbox.calls == {"/auth/exchange/": 1}


def test_redis_dies_during_the_call(upstream: Upstream, redis_server: RedisServer) -> None:
    """What bakrypt answered is not lost, and not asked for again."""
    environ = {**upstream.environ, "BAKRYPT_REDIS_URL": redis_server.url, "BAKRYPT_TIMEOUT": "5"}

    def kill_redis(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        redis_server.kill()
        replying(200, TOKEN_REPLY)(upstream, connection, received)

    upstream.behave = kill_redis
    assert member(environ).get()["access_token"] == TOKEN_REPLY["access_token"]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_redis_that_hangs(upstream: Upstream, redis_server: RedisServer, when: str) -> None:
    """It answers nothing: all callers have the token in time all the same, from one call."""
    timeout = 1.0
    environ = {
        **upstream.environ,
        "BAKRYPT_REDIS_URL": redis_server.url,
        "BAKRYPT_TIMEOUT": str(timeout),
    }

    def slow(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        redis_server.freeze()
        time.sleep(0.3)
        replying(200, TOKEN_REPLY)(upstream, connection, received)

    upstream.behave = slow
    token = member(environ)
    if when == "before":
        redis_server.freeze()
    started = time.monotonic()
    with ThreadPoolExecutor(5) as pool:
        replies = list(pool.map(lambda _: token.get(), range(5)))
    assert time.monotonic() - started < timeout + 1
    assert {reply["access_token"] for reply in replies} == {TOKEN_REPLY["access_token"]}
    assert len(upstream.requests) == 1


def test_a_new_process_late_in_a_tokens_life(sandbox: Sandbox, environ: dict[str, str]) -> None:
    """Bakrypt is down: the token is served as long as it lives."""
    sandbox.expires_in = 600
    held = member(environ).get()
    with Redis.from_url(environ["BAKRYPT_REDIS_URL"]) as redis:
        (key,) = redis.keys("*:token")
        redis.pexpire(key, 8000)
    sandbox.fail = 503
    late = member(environ)
    for _ in range(5):
        reply = late.get()
        assert reply["access_token"] == held["access_token"]
        assert 0 < reply["expires_in"] <= 8
    assert sandbox.calls["/auth/exchange/"] == 2


def test_a_fleet_whose_tokens_have_no_life(upstream: Upstream, environ: dict[str, str]) -> None:
    """They do not wait for each other."""
    upstream.behave = replying(
        200, {name: value for name, value in TOKEN_REPLY.items() if name != "expires_in"}
    )
    members = [member(environ | upstream.environ | {"BAKRYPT_TIMEOUT": "5"}) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda token: token.get(), members))
    assert all(reply["refresh_token"] for reply in replies)
    assert len(upstream.requests) == 6


@pytest.mark.parametrize("shift", [3600, -3600])
def test_machines_whose_clocks_differ(
    sandbox: Sandbox, environ: dict[str, str], shift: float
) -> None:
    """They agree on the token and on what is left of it."""
    sandbox.expires_in = 600
    with Worker(environ) as one, Worker(environ, shift) as other:
        first, second = one.ask(), other.ask()
    assert first["access_token"] == second["access_token"]
    assert first["expires_in"] - 5 <= second["expires_in"] <= first["expires_in"] <= 600
    assert sandbox.calls == {"/auth/exchange/": 1}


@pytest.mark.slow
def test_a_dead_token_reported_all_over_the_fleet(
    sandbox: Sandbox, environ: dict[str, str]
) -> None:
    """One call, and good tokens for all, whichever process they ask."""
    with ExitStack() as stack:
        # All start at once: the reports are to come within five seconds.
        *workers, late_one, sooner_one = [stack.enter_context(Worker(environ)) for _ in range(5)]
        (dead,) = {worker.ask()["access_token"] for worker in workers}
        sandbox.revoke(dead)
        sandbox.delay = 0.2
        with ThreadPoolExecutor() as pool:
            replies = list(pool.map(lambda worker: worker.ask(dead), workers))
        assert {sandbox.store.owner(reply["access_token"]) for reply in replies} == {"account"}
        assert sandbox.calls == {"/auth/exchange/": 2}
        # A process that comes new with the old report finds the new token.
        late = late_one.ask(dead)
        assert late["access_token"] == replies[0]["access_token"]
        # And a report of the new one is too soon, from another process too.
        assert workers[0].ask(late["access_token"])["access_token"] == late["access_token"]
        sooner = sooner_one.ask(late["access_token"])
        assert sooner["access_token"] == late["access_token"]
    assert sandbox.calls == {"/auth/exchange/": 2}


def test_redis_holds_nothing_that_can_be_read(
    upstream: Upstream, redis_server: RedisServer
) -> None:
    """A dump of it has neither the secret nor a token nor bakrypt's words."""
    environ = {**upstream.environ, "BAKRYPT_REDIS_URL": redis_server.url, "BAKRYPT_TIMEOUT": "5"}
    member(environ).get()
    upstream.behave = replying(401, {"detail": "Invalid token. planted-exchange-secret"})
    other = {**environ, "BAKRYPT_TOKEN": "planted-other-secret"}
    with pytest.raises(BakryptError):
        member(other).get()
    with Redis.from_url(redis_server.url) as redis:
        keys = redis.keys("*")
        assert len(keys) == 2
        redis.save()
        everything = b"".join(keys) + b"".join(redis.get(key) or b"" for key in keys)
    everything += (redis_server.directory / "dump.rdb").read_bytes()
    for secret in (TOKEN_REPLY["access_token"], TOKEN_REPLY["refresh_token"], "planted", "Invalid"):
        assert str(secret).encode() not in everything


def test_what_others_wrote_is_not_believed(sandbox: Sandbox, environ: dict[str, str]) -> None:
    """Who has Redis and not the secret cannot slip a token in."""
    member(environ).get()
    with Redis.from_url(environ["BAKRYPT_REDIS_URL"]) as redis:
        (key,) = redis.keys("*:token")
        redis.set(key, json.dumps({"token": {"access_token": "forged"}, "life": 36000}), px=60_000)
    assert sandbox.store.owner(member(environ).get()["access_token"]) == "account"


def test_two_accounts_in_one_redis(
    sandbox: Sandbox, upstream: Upstream, redis_server: RedisServer
) -> None:
    """Each has its own token."""
    other = {**upstream.environ, "BAKRYPT_REDIS_URL": redis_server.url}
    mine = {**sandbox.environ, "BAKRYPT_REDIS_URL": redis_server.url}
    assert (
        member(mine).get()["access_token"]
        != member(other).get()["access_token"]
        == TOKEN_REPLY["access_token"]
    )
    same_secret = {**other, "BAKRYPT_TOKEN": CREDENTIALS["BAKRYPT_TOKEN"]}
    assert member(same_secret).get()["access_token"] == TOKEN_REPLY["access_token"]


def test_an_error_ends_when_the_leader_says_so(sandbox: Sandbox, environ: dict[str, str]) -> None:
    """Another process shows it for what is left of the back-off, and asks then."""
    sandbox.throttle = 1
    first, second = member(environ), member(environ)
    for token in (first, second):
        with pytest.raises(BakryptError) as caught:
            token.get()
        assert caught.value.status == 429
    assert sandbox.calls == {"/auth/exchange/": 1}
    sandbox.throttle = None

    def works() -> bool:
        with suppress(BakryptError):
            return bool(second.get())
        return False

    wait_until(works, 3)
    assert sandbox.calls == {"/auth/exchange/": 2}


def test_check_says_whether_redis_answers(
    sandbox: Sandbox, environ: dict[str, str], redis_server: RedisServer
) -> None:
    """A line of its own, and the exit code."""
    app = create_app(environ)
    result = app.test_cli_runner().invoke(args=["bakrypt", "check"])
    assert re.search(r"^redis +ok +it works$", result.stdout, re.MULTILINE)
    assert result.exit_code == 0
    redis_server.kill()
    result = app.test_cli_runner().invoke(args=["bakrypt", "check"])
    assert re.search(r"^redis +FAILED +not usable: .*refused", result.stdout, re.MULTILINE)
    assert result.exit_code == 1


def test_the_redis_address_is_a_secret() -> None:
    """It may hold a password."""
    settings = Settings.from_mapping({"BAKRYPT_REDIS_URL": "redis://:planted@127.0.0.1:1/0"})
    assert "planted" not in repr(settings)
