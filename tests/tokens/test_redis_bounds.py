"""No caller waits longer than the timeout and a second, whatever Redis does."""

import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count

import pytest
from fleet import (
    TIMEOUT,
    TOKEN,
    WRONG,
    attempt,
    key_of,
    member,
    saying,
    sealed_values,
    token_of,
    warnings,
)
from misbehaving import TOKEN_REPLY, Received, Upstream, hang, replying
from processes import wait_until
from real_redis import REDIS_SERVER, Forwarder, RedisServer
from redis import Redis
from redis.exceptions import RedisError

from app import create_app as create_our_app
from bakrypt_proxy import AccessToken
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.tokens import redis_connection
from bakrypt_proxy.tokens.cached import Clocks, cache_token
from bakrypt_proxy.tokens.redis_connection import ROUND_TRIP, redis_options
from bakrypt_proxy.tokens.redis_records import Found, Lease, Records
from bakrypt_proxy.tokens.redis_store import RedisTokenStore
from bakrypt_proxy.tokens.shared import SharedToken
from bakrypt_proxy.upstream.masking import Masked

pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")


@pytest.fixture
def environ(upstream: Upstream, redis_server: RedisServer) -> dict[str, str]:
    """Settings of a fleet."""
    return {
        **upstream.environ,
        "BAKRYPT_REDIS_URL": redis_server.url,
        "BAKRYPT_TIMEOUT": str(TIMEOUT),
    }


def test_a_lease_put_back_again_and_again(
    upstream: Upstream, environ: dict[str, str], redis: "Redis"
) -> None:
    """Who waits for it has a token within a second of the timeout, and asked only once."""
    lease = sealed_values(upstream, environ, redis)["lease"]
    key = key_of(redis, "lease")
    redis.delete(key_of(redis, "token"))
    stop = threading.Event()

    def attack() -> None:
        with Redis.from_url(environ["BAKRYPT_REDIS_URL"]) as attacker:
            while not stop.wait(0.002):
                attacker.set(key, lease)

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        wait_until(lambda: bool(redis.exists(key)))
        started = time.monotonic()
        assert token_of(member(environ)) == TOKEN
        assert time.monotonic() - started < TIMEOUT + 1
    finally:
        stop.set()
        thread.join()
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("seconds", [None, TIMEOUT + 1.5])
def test_a_lease_put_back_for_longer(
    upstream: Upstream, environ: dict[str, str], redis: "Redis", seconds: float | None
) -> None:
    """Nobody can hold it, and nobody waits for it."""
    lease = sealed_values(upstream, environ, redis)["lease"]
    key = key_of(redis, "lease")
    redis.delete(key_of(redis, "token"))
    redis.set(key, lease, px=None if seconds is None else int(seconds * 1000))
    started = time.monotonic()
    assert token_of(member(environ)) == TOKEN
    assert time.monotonic() - started < TIMEOUT / 2


def test_redis_stalls_as_it_gives_the_lease(
    upstream: Upstream, environ: dict[str, str], redis_server: RedisServer, redis: "Redis"
) -> None:
    """It gives it after its owner has gone on without: the others do not wait for it to run out."""

    def stall(sink: socket.socket, data: bytes) -> None:
        if b"PX" in data and not stalled.is_set():
            stalled.set()
            redis_server.freeze()
            threading.Timer(1.2, redis_server.thaw).start()
        sink.sendall(data)

    stalled = threading.Event()
    with Forwarder(redis_server.port) as name:
        name.pass_up = stall
        first, second = (member(environ, BAKRYPT_REDIS_URL=name.url) for _ in range(2))
        assert token_of(first) == TOKEN
        wait_until(lambda: bool(redis.keys("*:lease")))
        started = time.monotonic()
        assert token_of(second) == TOKEN
        assert time.monotonic() - started < TIMEOUT / 2


def test_a_lease_put_back_while_bakrypt_takes_its_time(
    upstream: Upstream, environ: dict[str, str], redis: "Redis"
) -> None:
    """It costs a caller the time for a call: an error comes in time, and is not remembered."""
    lease = sealed_values(upstream, environ, redis)["lease"]
    key = key_of(redis, "lease")
    redis.delete(key_of(redis, "token"))

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        upstream.stopped.wait(TIMEOUT * 0.7)
        replying(200, TOKEN_REPLY)(upstream, connection, received)

    upstream.behave = behave
    redis.set(key, lease, px=int(TIMEOUT * 1000))  # no longer than it was to live
    account = member(environ)
    started = time.monotonic()
    assert attempt(account) == "did not answer in time"
    assert time.monotonic() - started < TIMEOUT + 1
    assert attempt(account) == TOKEN
    assert len(upstream.requests) == 2
    assert not redis.exists(key_of(redis, "error"))


@pytest.mark.parametrize("step", [-5, 5])
def test_the_time_of_redis_goes_its_own_way(
    upstream: Upstream,
    environ: dict[str, str],
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    step: int,
) -> None:
    """Each answer has another time, so that no lease is one. Nobody waits for a better one."""
    answers = count()

    def lie(sink: socket.socket, data: bytes) -> None:
        def other(match: re.Match[bytes]) -> bytes:
            return b"*2\r\n$10\r\n%d\r\n" % (int(match[1]) + step * next(answers))

        sink.sendall(re.sub(rb"\*2\r\n\$10\r\n(\d{10})\r\n", other, data))

    with Forwarder(redis_server.port) as name:
        name.pass_on = lie
        accounts = [member(environ, BAKRYPT_REDIS_URL=name.url) for _ in range(2)]
        started = time.monotonic()
        assert [token_of(account) for account in accounts] == [TOKEN] * 2
        assert time.monotonic() - started < TIMEOUT
        assert step > 0 or [account.redis_problem() is None for account in accounts] == [False] * 2
    assert step > 0 or len(warnings(caplog)) == 2  # one of each process


class Sleeper:
    """A machine of the fleet, with its calls to bakrypt. It may sleep during the next one."""

    def __init__(self, redis_url: str, timeout: float) -> None:
        self.calls = 0
        self.sleeps: Callable[[], float] | None = None  # and returns for how long
        self._slept = 0.0
        store = RedisTokenStore(
            redis_url, secret="planted", upstream="x", timeout=timeout, clock=self._clock
        )
        self.token = SharedToken(self._fetch, timeout=timeout, store=store, clock=self._clock)

    def _clock(self) -> float:
        return time.monotonic() - self._slept

    def _fetch(self, seconds: float) -> AccessToken:
        self.calls += 1
        name = f"token-{id(self)}-{self.calls}"
        if self.sleeps is not None:
            self._slept, self.sleeps = self.sleeps(), None
        return {"access_token": name, "expires_in": 2, "token_type": "", "scope": ""}


def test_a_machine_that_slept_while_it_had_the_lease(redis_server: RedisServer) -> None:
    """Another one has renewed the token meanwhile. It stays, and a third one finds it."""
    first, second, third = (Sleeper(redis_server.url, TIMEOUT) for _ in range(3))
    theirs = []

    def sleep() -> float:
        started = time.monotonic()
        time.sleep(2.1)
        theirs.append(second.token.get()["access_token"])
        return time.monotonic() - started

    first.sleeps = sleep
    assert first.token.get()["access_token"] == f"token-{id(first)}-2"
    assert theirs == [third.token.get()["access_token"]]
    assert [first.calls, second.calls, third.calls] == [2, 1, 0]


def test_a_timeout_shorter_than_a_use_of_redis(
    upstream: Upstream, environ: dict[str, str], redis_server: RedisServer
) -> None:
    """The lease is over when it is here. Bakrypt answers at once, and that is what counts."""

    def late(sink: socket.socket, data: bytes) -> None:
        time.sleep(0.6 * ROUND_TRIP)
        sink.sendall(data)

    with Forwarder(redis_server.port) as name:
        name.pass_on = late
        account = member(environ, BAKRYPT_REDIS_URL=name.url, BAKRYPT_TIMEOUT="0.05")
        assert attempt(account) == TOKEN


def test_more_than_an_answer_when_a_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py connects once more, in the same use."""
    monkeypatch.setattr(redis_connection, "ROUND_TRIP", 1.0)

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while connection.recv(65536):
                time.sleep(0.8)
                connection.sendall(b"+OK\r\n+")

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],)).start()

        threading.Thread(target=accept, daemon=True).start()
        url = f"redis://:planted@127.0.0.1:{listener.getsockname()[1]}"
        started = time.monotonic()
        with Redis.from_url(url, **redis_options(url)) as redis, pytest.raises(RedisError):
            redis.ping()
        assert time.monotonic() - started < 1.4
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("manner", ["drip", "stall"])
@pytest.mark.parametrize("bakrypt", ["fast", "hangs"])
def test_redis_drips(
    upstream: Upstream,
    environ: dict[str, str],
    redis_server: RedisServer,
    manner: str,
    bakrypt: str,
) -> None:
    """A byte now and then is no answer: it is bounded as one that says nothing, for all callers."""
    if bakrypt == "hangs":
        upstream.behave = hang
    with Forwarder(redis_server.port) as name:
        account = member(environ, BAKRYPT_REDIS_URL=name.url)
        name.pass_on = getattr(name, manner)
        started = time.monotonic()
        with ThreadPoolExecutor(5) as pool:
            replies = list(pool.map(lambda _: attempt(account), range(5)))
        assert time.monotonic() - started < TIMEOUT + 1
        assert set(replies) == {TOKEN if bakrypt == "fast" else "did not answer in time"}
        assert len(upstream.requests) == 1
        started = time.monotonic()
        assert "Timeout" in (account.redis_problem() or "")
        assert time.monotonic() - started < 1


def test_redis_begins_to_drip_during_the_call(
    upstream: Upstream, environ: dict[str, str], redis_server: RedisServer
) -> None:
    """What bakrypt gave is served in time though it cannot be stored."""
    with Forwarder(redis_server.port) as name:

        def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
            name.pass_on = name.drip
            time.sleep(TIMEOUT / 2)
            replying(200, TOKEN_REPLY)(upstream, connection, received)

        upstream.behave = behave
        started = time.monotonic()
        assert token_of(member(environ, BAKRYPT_REDIS_URL=name.url)) == TOKEN
        assert time.monotonic() - started < TIMEOUT + 1


def test_a_flood_of_tls_messages(upstream: Upstream, environ: dict[str, str]) -> None:
    """A false Redis needs no certificate for it, and OpenSSL reads on and on."""
    flood_ends = time.monotonic() + TIMEOUT + 3
    hello_requests = b"\x16\x03\x03\x40\x00" + bytes(0x4000)  # a record of 4,096 messages

    def flood(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(4096)
                    while time.monotonic() < flood_ends:
                        connection.sendall(hello_requests * 64)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=flood, args=(listener,))
        thread.start()
        url = f"rediss://127.0.0.1:{listener.getsockname()[1]}"
        started = time.monotonic()
        assert token_of(member(environ, BAKRYPT_REDIS_URL=url)) == TOKEN
        assert time.monotonic() - started < TIMEOUT + 1
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_password_attempts_while_redis_drips(sandbox: Sandbox, redis_server: RedisServer) -> None:
    """They are counted in memory, and nobody waits long."""
    with Forwarder(redis_server.port) as name:
        environ = {**sandbox.environ, "BAKRYPT_REDIS_URL": name.url}
        client = create_our_app(environ | {"BAKRYPT_RATE_LIMIT": "3 per hour"}).test_client()
        assert client.post("/auth/token/", json=WRONG).status_code == 400
        name.pass_on = name.drip
        started = time.monotonic()
        statuses = [client.post("/auth/token/", json=WRONG).status_code for _ in range(4)]
        assert statuses == [400, 400, 400, 429]
        assert time.monotonic() - started < 3


ANSWERS = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no number": b":abc\r\n" * 20,
    "a negative length": b"*-5\r\n$-7\r\n" * 20,
    "an endless length": b"$99999999999999999999\r\n",
    "an endless list": b"*1000000000\r\n" + b"+OK\r\n" * 1000,
    "a list that no memory holds": b"*4000000000\r\n",
    "deep": b"*1\r\n" * 100_000,
    "OK to everything": b"+OK\r\n" * 50,
    "an odd time": b"+OK\r\n" * 9 + b"*6\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n:0\r\n:-2\r\n:7\r\n",
    "nothing": b"",
    "binary": bytes(range(256)) * 100,
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_redis(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    """Whatever it says, the process goes on by itself, in time, with one warning."""
    with saying(ANSWERS[answer]) as url:
        account = member({**upstream.environ, "BAKRYPT_REDIS_URL": url})
        started = time.monotonic()
        assert token_of(account) == token_of(account) == TOKEN
        assert time.monotonic() - started < TIMEOUT + 1
        assert len(warnings(caplog)) == 1
        assert account.redis_problem()
        assert len(account.redis_problem() or "") < 500


def test_a_message_for_the_terminal(upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    """It is one short line of printable characters."""
    with saying(b"-ERR a\x1b[31m\x00" + b"\xff" * 1_000_000 + b"\nb\r\n") as url:
        account = member({**upstream.environ, "BAKRYPT_REDIS_URL": url})
        assert token_of(account) == TOKEN
        problem = account.redis_problem() or ""
    (warning,) = warnings(caplog)
    assert warning.isprintable()
    assert problem.isprintable()
    assert 0 < len(problem) <= 200


@pytest.mark.parametrize(("slow", "sleep"), [(0.2, 0), (0, 10)])
def test_a_lease_that_runs_out_while_redis_stores_the_token(slow: float, sleep: float) -> None:
    """It is not stored in a second use: a caller's last second has no room for two slow ones.

    Where the machine slept meanwhile, it replaces no token: another one may have a newer.
    """
    first, second = threading.Event(), threading.Event()
    stored: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while request := connection.recv(65536):
                if b"MULTI" not in request:
                    connection.sendall(b"+OK\r\n" if b"WATCH" in request else b"$1\r\nx\r\n")
                    continue
                (second if first.is_set() else first).set()
                stored.append(request)
                time.sleep(slow)
                queued = request.count(b"$3\r\nSET") + request.count(b"$3\r\nDEL")
                ended = b"*2\r\n+OK\r\n:0\r\n" if second.is_set() else b"*-1\r\n"
                connection.sendall(b"+OK\r\n" + b"+QUEUED\r\n" * queued + ended)

    clocks = Clocks(time.monotonic, lambda: time.time() + sleep * first.is_set())
    token = cache_token(
        {"access_token": "a", "expires_in": 60, "token_type": "", "scope": ""}, clocks.now()
    )
    found = Found(None, False, None, False, False, True, False, clocks.now(), time.time())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with Redis.from_url(url, **redis_options(url)) as redis:
            records = Records(Masked("secret"), TIMEOUT, clocks, "name", "purpose")
            records.finish(redis, Lease(b"x", found), token)
    assert [b"\r\nNX\r\n" in request for request in stored] == ([False, True] if sleep else [False])
