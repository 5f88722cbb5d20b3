"""What Redis does wrong and others write to it costs a call at most. The servers are real."""

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import trustme
from fleet import (
    TIMEOUT,
    TOKEN,
    WRONG,
    attempt,
    key_of,
    member,
    numbered,
    saying,
    sealed_values,
    token_of,
    value_of,
    warnings,
)
from misbehaving import TOKEN_REPLY, Received, Upstream, replying
from processes import free_port, wait_until
from real_redis import REDIS_SERVER, Forwarder, RedisServer, probed_keys, replicated
from redis import Redis
from redis._parsers import _RESP2Parser
from redis.exceptions import RedisError

from app import create_app as create_our_app
from bakrypt_proxy import BakryptError
from bakrypt_proxy.account import Account
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.tokens import redis_connection
from bakrypt_proxy.tokens.cached import Moment
from bakrypt_proxy.tokens.redis_connection import explain, redis_options
from bakrypt_proxy.tokens.redis_records import Found, Records
from bakrypt_proxy.tokens.redis_store import RedisTokenStore

ROOT = Path(__file__).parents[2]
YEAR = 365 * 86400
pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")


@pytest.fixture
def environ(upstream: Upstream, redis_server: RedisServer) -> dict[str, str]:
    """Settings of a fleet."""
    return {
        **upstream.environ,
        "BAKRYPT_REDIS_URL": redis_server.url,
        "BAKRYPT_TIMEOUT": str(TIMEOUT),
    }


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis may be slow. How long it may take is the subject of another file."""
    monkeypatch.setattr(redis_connection, "ROUND_TRIP", 3.0)


@pytest.mark.parametrize("ttl", [YEAR, None])
def test_a_sealed_value_under_another_key(
    upstream: Upstream,
    environ: dict[str, str],
    redis: "Redis",
    caplog: pytest.LogCaptureFixture,
    ttl: int | None,
) -> None:
    """Each of the three, in the place of each other and with any TTL, is as nothing."""
    values = sealed_values(upstream, environ, redis)
    name = key_of(redis, "token").decode().removesuffix("token")
    for source in values:
        for target in {"token", "error"} - {source}:
            redis.flushall()
            redis.set(f"{name}{target}", values[source], ex=ttl)
            assert token_of(member(environ)) == token_of(member(environ)) == TOKEN
            assert len(upstream.requests) == 1, (source, target)
            upstream.requests.clear()
    assert warnings(caplog) == []


def test_a_sealed_value_of_another_network(
    upstream: Upstream, environ: dict[str, str], redis: "Redis"
) -> None:
    """The same secret at another origin: its values do not open."""
    values = sealed_values(upstream, environ, redis)
    with Upstream() as other:
        there = environ | {"BAKRYPT_URL": other.url}
        other.behave = replying(200, TOKEN_REPLY | {"access_token": "of-the-other"})
        before = set(redis.keys("*"))
        token_of(member(there))
        (key,) = set(redis.keys("*")) - before
        redis.set(key, values["token"], ex=YEAR)
        assert token_of(member(there)) == "of-the-other"


def test_an_old_error_put_back(upstream: Upstream, environ: dict[str, str], redis: "Redis") -> None:
    """It ends when it was to end, whatever TTL it has now."""
    upstream.behave = replying(503, {}, "Retry-After: 1")
    with pytest.raises(BakryptError):
        token_of(member(environ))
    key = key_of(redis, "error")
    error = value_of(redis, "error")
    wait_until(lambda: not redis.exists(key), 5)
    numbered(upstream)
    redis.set(key, error, ex=YEAR)
    assert token_of(member(environ)) == "token-2"
    redis.flushall()
    redis.set(key, error)
    assert token_of(member(environ)) == "token-3"


def test_a_remembered_error_given_a_year(
    upstream: Upstream, environ: dict[str, str], redis: "Redis"
) -> None:
    """While it is valid it is believed, and remembered for no longer."""
    upstream.behave = replying(429, {}, "Retry-After: 7")
    with pytest.raises(BakryptError):
        token_of(member(environ))
    redis.persist(key_of(redis, "error"))
    with pytest.raises(BakryptError) as caught:
        token_of(member(environ))
    assert caught.value.cooldown is not None
    assert caught.value.cooldown <= 7
    assert caught.value.retry_after in {"6", "7"}
    assert len(upstream.requests) == 1


def test_an_old_token_put_back(upstream: Upstream, environ: dict[str, str], redis: "Redis") -> None:
    """Within its lifetime it has what is left; after it, it is ignored."""
    numbered(upstream, expires_in=3)
    token_of(member(environ))
    key = key_of(redis, "token")
    sealed = value_of(redis, "token")
    for ttl in (YEAR, None):
        redis.set(key, sealed, ex=ttl)
        assert member(environ).shared_token.get()["expires_in"] <= 3
    assert len(upstream.requests) == 1
    until = redis.time()[0] + 4
    wait_until(lambda: redis.time()[0] >= until, 10)
    redis.set(key, sealed, ex=YEAR)
    assert token_of(member(environ)) == "token-2"
    redis.set(key, sealed)
    assert token_of(member(environ)) == "token-3"


def test_the_token_before_put_back(
    upstream: Upstream, environ: dict[str, str], redis: "Redis"
) -> None:
    """A process whose token was reported does not go back to the one before it."""
    numbered(upstream)
    one = member(environ)
    token_of(one)
    first = value_of(redis, "token")
    two = member(environ)
    assert token_of(two, "token-1") == "token-2"
    redis.set(key_of(redis, "token"), first)
    two.shared_token._reports._renewed = Moment(0, 0)  # noqa: SLF001 - the five seconds are over
    assert token_of(two, "token-2") == "token-3"
    assert len(upstream.requests) == 3


LEASES: dict[str, Callable[["Redis", bytes, bytes], object]] = {
    "no TTL": lambda redis, key, real: redis.set(key, "x"),
    "a year": lambda redis, key, real: redis.set(key, "x", ex=YEAR),
    "short": lambda redis, key, real: redis.set(key, "x", ex=2),
    "empty": lambda redis, key, real: redis.set(key, ""),
    "a list": lambda redis, key, real: redis.rpush(key, "x"),
    "a stream": lambda redis, key, real: redis.xadd(key, {"x": "x"}),
    "huge": lambda redis, key, real: redis.setrange(key, 100_000_000, "x"),
    "an old one": lambda redis, key, real: redis.set(key, real),
}


@pytest.mark.parametrize("kind", LEASES)
def test_a_lease_that_cannot_be_one(
    upstream: Upstream,
    environ: dict[str, str],
    redis: "Redis",
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """Each process goes on by itself, at once, with one warning that names the key."""
    real = sealed_values(upstream, environ, redis)["lease"]
    redis.delete(key_of(redis, "token"), key_of(redis, "error"))
    redis.set("bakrypt_proxy:{shared}:x:token", "another account's")
    name = records_of(member(environ))._lease_key  # noqa: SLF001
    if kind == "an old one":
        wait_until(lambda: not valid(redis, real, environ), 5)
    LEASES[kind](redis, name.encode(), real)
    accounts = [member(environ) for _ in range(3)]
    for account in accounts:
        started = time.monotonic()
        assert token_of(account) == token_of(account) == TOKEN
        assert time.monotonic() - started < TIMEOUT
    assert len(upstream.requests) == 3
    assert len(warnings(caplog)) == 3
    assert name in warnings(caplog)[0]
    assert name in (accounts[0].redis_problem() or "")


def valid(redis: "Redis", lease: bytes, environ: dict[str, str]) -> bool:
    """Whether a lease is still one by its seal."""
    seconds, microseconds = redis.time()
    now = seconds + microseconds / 1_000_000
    seal = records_of(member(environ))._lease_seal  # noqa: SLF001
    return seal.open(lease, now=now) is not None


def records_of(account: Account) -> Records:
    """What an account has in Redis."""
    store = account.shared_token._renewer._store  # noqa: SLF001
    assert isinstance(store, RedisTokenStore)
    return store._records  # noqa: SLF001


@pytest.mark.parametrize("kind", sorted(LEASES.keys() - {"an old one"}))
def test_nonsense_where_the_probe_writes(
    upstream: Upstream, environ: dict[str, str], redis: "Redis", kind: str
) -> None:
    """What somebody else writes there does not change what the probe says."""
    account = member(environ)
    for key in probed_keys(redis, account.redis_problem):
        redis.delete(key)
        LEASES[kind](redis, key.encode(), b"")
    assert account.redis_problem() is None
    with user(redis, "~bakrypt_proxy*", "+@all", "-watch") as url:
        assert "permissions" in (member(environ, BAKRYPT_REDIS_URL=url).redis_problem() or "")


@pytest.mark.parametrize("outcome", ["token", "error"])
def test_an_outcome_that_comes_before_the_lease(
    upstream: Upstream,
    environ: dict[str, str],
    redis: "Redis",
    monkeypatch: pytest.MonkeyPatch,
    outcome: str,
) -> None:
    """What another process stored between the first look and the lease is looked at again."""
    if outcome == "error":
        upstream.behave = replying(503, {}, "Retry-After: 60")
    one, two = member(environ), member(environ)
    create = records_of(one).create_lease

    def create_late(found: Found) -> bytes:
        attempt(two)
        return create(found)

    monkeypatch.setattr(records_of(one), "create_lease", create_late)
    assert attempt(one) == (TOKEN if outcome == "token" else "failed (status 503)")
    assert len(upstream.requests) == 1
    assert not redis.exists(key_of(redis, "lease"))


def test_a_huge_lease_during_the_call(
    upstream: Upstream, environ: dict[str, str], redis_server: RedisServer, redis: "Redis"
) -> None:
    """It is not read as a whole, and the token is stored all the same."""
    sizes: list[int] = []

    def pass_on(client: socket.socket, data: bytes) -> None:
        sizes.append(len(data))
        client.sendall(data)

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        LEASES["huge"](redis, key_of(redis, "lease"), b"")
        replying(200, TOKEN_REPLY)(upstream, connection, received)

    upstream.behave = behave
    with Forwarder(redis_server.port) as name:
        name.pass_on = pass_on
        assert token_of(member(environ, BAKRYPT_REDIS_URL=name.url)) == TOKEN
    assert redis.exists(key_of(redis, "token"))
    assert 0 < sum(sizes) < 2_000_000


@pytest.mark.parametrize("kind", ["token", "error"])
@pytest.mark.parametrize("write", ["a list", "huge", "empty", "no TTL"])
def test_nonsense_in_place_of_a_value(
    upstream: Upstream, environ: dict[str, str], redis: "Redis", kind: str, write: str
) -> None:
    """It is as nothing: one call, whose token is stored over it and shared."""
    sealed_values(upstream, environ, redis)
    key = key_of(redis, kind)
    redis.delete(key_of(redis, "token"), key)
    LEASES[write](redis, key, b"")
    started = time.monotonic()
    assert token_of(member(environ)) == token_of(member(environ)) == TOKEN
    assert time.monotonic() - started < TIMEOUT
    assert len(upstream.requests) == 1


def test_a_failover(upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The replica is promoted, the name moves, kept connections stay open: sharing goes on there.

    So does the counting of password attempts, and `readyz` says what is.
    """
    numbered(upstream, expires_in=1)
    with replicated(tmp_path) as redis:
        environ = {
            **upstream.environ,
            "BAKRYPT_REDIS_URL": redis.name.url,
            "BAKRYPT_RATE_LIMIT": "5 per hour",
            "BAKRYPT_EXCHANGE_PUBLIC": "true",
            "BAKRYPT_TRUSTED_HOSTS": "localhost",
        }
        clients = [create_our_app(environ).test_client() for _ in range(2)]

        def tokens() -> set[str]:
            replies = [client.post("/auth/exchange/").get_json() for client in clients]
            return {reply["access_token"] for reply in replies}

        def attempts(client: int) -> int:
            return clients[client].post("/auth/token/", json=WRONG).status_code

        wait_until(lambda: len(tokens()) == 1)
        assert attempts(0) != 429
        assert [client.get("/readyz").status_code for client in clients] == [200, 200]
        redis.fail_over()
        wait_until(lambda: len(tokens()) == 1, 20)
        wait_until(lambda: bool(redis.replica.keys("*:token")), 20)
        wait_until(lambda: {c.get("/readyz").status_code for c in clients} == {200}, 20)
        wait_until(lambda: attempts(0) == 429, 20)
        wait_until(lambda: attempts(1) == 429, 20)
        assert redis.replica.keys("bakrypt_proxy:{shared}:LIMITER*")
    assert len(warnings(caplog)) <= 2


@pytest.mark.parametrize(
    "accident", ["failover", "paused writes", "no right to WATCH", "no right to DEL"]
)
def test_an_accident_while_the_outcome_is_stored(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accident: str
) -> None:
    """Redis fails just when the leader stores the token: the callers of other processes get one."""
    monkeypatch.setattr(redis_connection, "ROUND_TRIP", 0.3)
    with replicated(tmp_path) as redis, ThreadPoolExecutor(2) as pool:
        environ = {
            **upstream.environ,
            "BAKRYPT_REDIS_URL": redis.name.url,
            "BAKRYPT_TIMEOUT": "3",
        }

        if accident.startswith("no right"):
            right = accident.rpartition(" ")[2].lower()
            redis.primary.acl_setuser("default", enabled=True, nopass=True, commands=[f"-{right}"])

        def slow(upstream: Upstream, connection: socket.socket, received: Received) -> None:
            is_first = len(upstream.requests) == 1
            time.sleep(1)
            if is_first and accident == "failover":
                redis.fail_over()
            elif is_first and accident == "paused writes":
                redis.primary.client_pause(500, all=False)
            replying(200, TOKEN_REPLY)(upstream, connection, received)

        upstream.behave = slow
        leader, other = member(environ), member(environ)
        first = pool.submit(attempt, leader)
        wait_until(lambda: len(upstream.requests) == 1)
        time.sleep(0.2)
        assert attempt(other) == TOKEN
        assert first.result() == TOKEN


@pytest.mark.parametrize("pause", [0, 0.1], ids=["at once", "later"])
@pytest.mark.parametrize("outcome", [TOKEN, "failed (status 503)"], ids=["token", "error"])
def test_a_connection_that_is_lost_while_the_outcome_is_stored(
    upstream: Upstream,
    environ: dict[str, str],
    redis_server: RedisServer,
    redis: "Redis",
    caplog: pytest.LogCaptureFixture,
    outcome: str,
    pause: float,
) -> None:
    """Once, by chance: it is stored over another one, and the others do not wait for the lease."""
    caplog.set_level("INFO")
    is_token = outcome == TOKEN
    upstream.behave = (
        replying(200, TOKEN_REPLY) if is_token else replying(503, {}, "Retry-After: 9")
    )
    cut = threading.Event()

    def lose(sink: socket.socket, data: bytes) -> None:
        if b"WATCH" not in data and b"GETRANGE" not in data and upstream.requests:
            is_first = not cut.is_set()
            cut.set()
            if is_first:
                time.sleep(pause)
                raise ConnectionResetError
        sink.sendall(data)

    with Forwarder(redis_server.port) as name:
        name.pass_up = lose
        leader, other = (member(environ, BAKRYPT_REDIS_URL=name.url) for _ in range(2))
        assert attempt(leader) == outcome
        assert cut.is_set()
        assert not redis.exists(key_of(redis, "lease"))
        assert attempt(other) == outcome
    assert len(upstream.requests) == 1
    assert not any("Redis" in message for message in caplog.messages)


def test_redis_dies_as_it_gives_the_lease(
    upstream: Upstream,
    environ: dict[str, str],
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is one outage, with one warning, and ends when Redis is there again."""
    monkeypatch.setattr(redis_connection, "ROUND_TRIP", 0.3)
    caplog.set_level("INFO")
    numbered(upstream, expires_in=1)
    killed = threading.Event()

    def die(sink: socket.socket, data: bytes) -> None:
        if b"EXEC" in data and b"PX" in data and not killed.is_set():
            killed.set()
            redis_server.kill()
            raise ConnectionResetError
        sink.sendall(data)

    with Forwarder(redis_server.port) as name:
        name.pass_up = die
        unlucky = member(environ, BAKRYPT_REDIS_URL=name.url)
        assert attempt(unlucky) == "token-1"
        assert killed.is_set()
        assert len(warnings(caplog)) == 1
        redis_server.start()

        def is_back() -> bool:
            attempt(member(environ))  # another process does the writing
            attempt(unlucky)
            return "Redis is back, the token is shared again" in caplog.messages

        wait_until(is_back)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "READONLY You can't write against a read only replica.",
        "ERR Error running script (call to f_6): @user_script:3: -READONLY You can't write",
        "MASTERDOWN Link with MASTER is down",
        "LOADING Redis is loading the dataset in memory",
        "CLUSTERDOWN Hash slot not served",
        "MOVED 1234 127.0.0.1:1",
        "ASK 1234 127.0.0.1:1",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "BUSY Redis is busy running a script.",
        "NOPERM this user has no permissions",
        "NOSCRIPT No matching script.",
        "UNBLOCKED force unblock from blocking operation, instance state changed",
    ],
)
def test_kept_connections_after_an_error(redis_server: RedisServer, answer: str) -> None:
    """None is used again, because the name may lead to another server by now."""

    def refuse(client: socket.socket, data: bytes) -> None:
        client.sendall(f"-{answer}\r\n".encode())

    with (
        Forwarder(redis_server.port) as name,
        Redis.from_url(name.url, **redis_connection.redis_options(name.url)) as redis,
    ):
        kept = used_together(redis)
        assert used_together(redis) == kept
        name.pass_on = refuse
        with pytest.raises(RedisError):
            redis.get("x")
        name.pass_on = socket.socket.sendall
        assert not used_together(redis) & kept


def used_together(redis: "Redis") -> set[int]:
    """Use two connections at the same time, and return what Redis calls them."""
    with redis.client() as one, redis.client() as two:  # type: ignore[no-untyped-call]
        return {one.client_id(), two.client_id()}


def test_a_replica_for_good(
    upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its tokens can be read, nothing be written: that is no return, and there is one warning."""
    numbered(upstream, expires_in=2)
    with replicated(tmp_path) as redis:
        url = f"redis://127.0.0.1:{redis.port}/0"
        at_replica = member({**upstream.environ, "BAKRYPT_REDIS_URL": url})
        at_primary = member({**upstream.environ, "BAKRYPT_REDIS_URL": redis.name.url})
        with caplog.at_level("INFO"):
            assert token_of(at_replica) == "token-1"
            for _ in range(8):
                time.sleep(0.7)
                assert token_of(at_primary).startswith("token-")
                assert token_of(at_replica).startswith("token-")
    assert len(warnings(caplog)) == 1
    assert "Redis is back" not in caplog.text


def test_a_node_of_a_cluster(upstream: Upstream, tmp_path: Path) -> None:
    """One that has all slots works, for the token and for the limiter."""
    with RedisServer(tmp_path, "--cluster-enabled", "yes") as server:
        with Redis.from_url(server.url) as redis:
            redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: redis.cluster("INFO")["cluster_state"] == "ok")
        environ = {**upstream.environ, "BAKRYPT_REDIS_URL": server.url}
        assert token_of(member(environ)) == token_of(member(environ)) == TOKEN
        assert len(upstream.requests) == 1
        assert member(environ).problems() == []
        client = create_our_app(environ).test_client()
        assert client.post("/auth/token/", json=WRONG).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_a_node_without_our_slot(
    upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each process goes on by itself; the warning and the probe quote Redis."""
    with RedisServer(tmp_path, "--cluster-enabled", "yes") as server:
        environ = {**upstream.environ, "BAKRYPT_REDIS_URL": server.url}
        account = member(environ)
        assert token_of(account) == token_of(account) == TOKEN
        (warning,) = warnings(caplog)
        assert "ClusterDownError: Hash slot not served" in warning
        assert "ClusterDownError: Hash slot not served" in (account.redis_problem() or "")


def test_redis_is_full(
    upstream: Upstream, environ: dict[str, str], redis: "Redis", caplog: pytest.LogCaptureFixture
) -> None:
    """Each process goes on by itself; the warning and the probe quote Redis."""
    numbered(upstream)
    redis.config_set("maxmemory", 1)
    assert token_of(member(environ)) == "token-1"
    (warning,) = warnings(caplog)
    assert "maxmemory" in warning
    assert "maxmemory" in (member(environ).redis_problem() or "")
    redis.config_set("maxmemory", 0)
    assert token_of(member(environ)) == token_of(member(environ)) == "token-2"


@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"-OOM out of memory", "out of memory"), (b"$-1", "neither gives the lease nor has one")],
)
def test_a_lease_that_is_refused_though_it_is_free(
    upstream: Upstream,
    redis_server: RedisServer,
    environ: dict[str, str],
    redis: "Redis",
    caplog: pytest.LogCaptureFixture,
    answer: bytes,
    message: str,
) -> None:
    """Nobody asks for it over and over until no time is left for a bakrypt that takes its own.

    Redis itself refuses a whole transaction. What speaks its protocol may refuse a part of one.
    """

    def respond(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        upstream.stopped.wait(TIMEOUT * 0.8)
        replying(200, TOKEN_REPLY)(upstream, connection, received)

    def refuse(client: socket.socket, data: bytes) -> None:
        data = data.replace(b"*8\r\n:0\r\n+OK\r\n", b"*8\r\n:0\r\n" + answer + b"\r\n")
        client.sendall(re.sub(rb"\r\n:\d+\r\n", b"\r\n:-2\r\n", data))  # PTTL: no lease

    upstream.behave = respond
    with Forwarder(redis_server.port) as name:
        account = member(environ, BAKRYPT_REDIS_URL=name.url)
        name.pass_on = refuse
        commands = redis.info("stats")["total_commands_processed"]
        assert token_of(account) == TOKEN
        assert redis.info("stats")["total_commands_processed"] - commands < 100
        assert message in (account.redis_problem() or "")
    (warning,) = warnings(caplog)
    assert message in warning


@pytest.mark.parametrize("password", ["planted-password", "planted%2Fpassword"])
def test_a_message_that_repeats_the_password(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    """It shows neither in the log nor in `readyz`."""
    plain = password.replace("%2F", "/").encode()
    told = b"-ERR unknown command 'AUTH', with args beginning with: '" + plain + b"'\r\n"
    with saying(told * 20) as url:
        address = url.replace("planted-password", password)
        client = create_our_app({**upstream.environ, "BAKRYPT_REDIS_URL": address}).test_client()
        reply = client.get("/readyz")
        assert reply.status_code == 503
        assert "unknown command" in reply.text
        account = member({**upstream.environ, "BAKRYPT_REDIS_URL": address})
        token_of(account)
    assert "unknown command" in caplog.text
    assert "planted" not in reply.text + caplog.text


@pytest.mark.parametrize(
    "password",
    [
        "0123456789abcdef" * 16,
        "two\nlines of it",
        "back\\slash'quote",
        "\u00e9t\u00e9-secret",
        "\u043f\u0430\u0440\u043e\u043b\u044c\n" * 16,
        "-._~!$&()*+,;=" * 12,
        "kurz",
    ],
)
def test_a_quote_of_the_password(tmp_path: Path, password: str) -> None:
    """Cut, with other blanks, with backslashes: no part of it is told. What was wrong is."""
    quoted = quote(password, safe="")
    with RedisServer(tmp_path, "--rename-command", "AUTH", "AUTHX") as server:
        address = server.url.replace("//", f"//:{quoted}@")
        with Redis.from_url(address, protocol=2) as redis, pytest.raises(RedisError) as caught:
            redis.ping()
    assert explain(caught.value, address) == "ResponseError: unknown command 'AUTH'"
    protocol = ValueError(f"Protocol Error: {b'what is ' + password.encode()!r}")
    assert explain(protocol, address) == "ValueError: Protocol Error:"
    whole = ValueError(f"-ERR {password} at once")
    assert explain(whole, address) == "ValueError: -ERR *** at once"


def test_a_password_where_the_message_is_cut() -> None:
    """Its first half does not remain."""
    told = explain(ValueError(" " * 1990 + "planted-password"), "redis://:planted-password@redis")
    assert "plant" not in told


def test_a_password_that_is_a_word_of_redis() -> None:
    """What was wrong is still told."""
    told = explain(ValueError("Error 111 connecting to redis:6379"), "redis://:redis@redis:6379")
    assert told == "ValueError: Error 111 connecting to ***:6379"


@contextmanager
def user(redis: "Redis", *rules: str) -> Iterator[str]:
    """An ACL user of a Redis, as an address."""
    rights = ["reset", "on", ">secret", *rules]
    redis.execute_command("ACL", "SETUSER", "bakrypt", *rights)  # type: ignore[no-untyped-call]
    yield f"redis://bakrypt:secret@127.0.0.1:{redis.connection_pool.connection_kwargs['port']}/0"


def documented_commands() -> list[list[str]]:
    """The commands in docs/deploy.md that give a user of Redis its rights."""
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    (block,) = re.findall(r"^```\n(ACL SETUSER .*?)^```", page, re.MULTILINE | re.DOTALL)
    return [line.split() for line in block.splitlines()]


@pytest.mark.parametrize(
    "commands",
    [
        [["ACL", "SETUSER", "bakrypt", "on", ">password", "~bakrypt_proxy*", "+@all"]],
        documented_commands(),
    ],
    ids=["all", "documented"],
)
def test_the_documented_rights_are_enough(
    sandbox: Sandbox,
    redis_server: RedisServer,
    redis: "Redis",
    caplog: pytest.LogCaptureFixture,
    commands: list[list[str]],
) -> None:
    """All our keys begin alike: the token is shared, attempts are counted together, all is well."""
    for command in commands:
        redis.execute_command(*command)  # type: ignore[no-untyped-call]
    url = redis_server.url.replace("redis://", "redis://bakrypt:password@")
    environ = {**sandbox.environ, "BAKRYPT_REDIS_URL": url, "BAKRYPT_EXCHANGE_PUBLIC": "true"}
    apps = [create_our_app(environ | {"BAKRYPT_RATE_LIMIT": "3 per hour"}) for _ in range(2)]
    clients = [app.test_client() for app in apps]
    tokens = {c.post("/auth/exchange/").get_json()["access_token"] for c in clients}
    assert len(tokens) == 1
    statuses = [clients[n % 2].post("/auth/token/", json=WRONG).status_code for n in range(4)]
    assert statuses == [400, 400, 400, 429]
    assert [client.get("/readyz").status_code for client in clients] == [200, 200]
    result = apps[0].test_cli_runner().invoke(args=["bakrypt", "check"])
    assert re.search(r"^redis +ok", result.stdout, re.MULTILINE)
    assert warnings(caplog) == []
    assert redis.keys("*") == redis.keys("bakrypt_proxy:{shared}:*")


def test_no_right_to_run_scripts(
    sandbox: Sandbox, redis: "Redis", caplog: pytest.LogCaptureFixture
) -> None:
    """The token is shared without a warning; that attempts are not counted there is said."""
    with user(redis, "~bakrypt_proxy*", "+@all", "-@scripting") as url:
        environ = {**sandbox.environ, "BAKRYPT_REDIS_URL": url}
        assert token_of(member(environ)) == token_of(member(environ))
        assert member(environ).problems() == []
        assert warnings(caplog) == []
        app = create_our_app(environ)
        reply = app.test_client().get("/readyz")
        result = app.test_cli_runner().invoke(args=["bakrypt", "check"])
    assert reply.status_code == 503
    for text in (reply.get_json()["error_description"], result.stdout):
        assert "password attempts are counted in memory" in text
        assert "NOPERM" in text or "no permissions" in text
    assert result.exit_code == 1


@pytest.mark.parametrize(
    "rules",
    [
        ["~other*", "+@all"],
        ["~bakrypt_proxy*", "+@all", "-set"],
        ["~bakrypt_proxy*", "+@all", "-getrange"],
        ["~bakrypt_proxy*", "+@all", "-pttl"],
        ["~bakrypt_proxy*", "+@all", "-exec"],
        ["~bakrypt_proxy*", "+@all", "-time"],
        ["~bakrypt_proxy*", "+@all", "-watch"],
        ["~bakrypt_proxy*", "+@all", "-del"],
        ["%R~bakrypt_proxy*", "+@all"],
    ],
    ids=str,
)
def test_a_right_is_missing(
    upstream: Upstream, redis: "Redis", caplog: pytest.LogCaptureFixture, rules: list[str]
) -> None:
    """Each process goes on by itself; the warning and the probe quote Redis."""
    with user(redis, *rules) as url:
        account = member({**upstream.environ, "BAKRYPT_REDIS_URL": url})
        assert token_of(account) == token_of(account) == TOKEN
        (warning,) = warnings(caplog)
        assert "permissions" in warning
        assert "permissions" in (account.redis_problem() or "")


@pytest.fixture
def ca() -> trustme.CA:
    """A certificate authority that nobody knows."""
    return trustme.CA()


@pytest.fixture
def tls_url(ca: trustme.CA, tmp_path: Path) -> Iterator[str]:
    """The address of a Redis whose certificate is of that authority."""
    certificate = ca.issue_cert("127.0.0.1")
    names = {"key": tmp_path / "key.pem", "cert": tmp_path / "cert.pem", "ca": tmp_path / "ca.pem"}
    certificate.private_key_pem.write_to_path(str(names["key"]))
    certificate.cert_chain_pems[0].write_to_path(str(names["cert"]))
    ca.cert_pem.write_to_path(str(names["ca"]))
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(names["cert"])]
    options += ["--tls-key-file", str(names["key"]), "--tls-ca-cert-file", str(names["ca"])]
    with RedisServer(tmp_path, *options, "--tls-auth-clients", "no"):
        yield f"rediss://127.0.0.1:{port}/0"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_tls_with_a_ca_of_ones_own(
    sandbox: Sandbox,
    ca: trustme.CA,
    tls_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
) -> None:
    """The whole good way, by the variable that calls to bakrypt obey: token, limiter and probe."""
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    environ = {**sandbox.environ, "BAKRYPT_REDIS_URL": tls_url}
    assert token_of(member(environ)) == token_of(member(environ))
    assert sandbox.calls["/auth/exchange/"] == 1
    clients = [
        create_our_app(environ | {"BAKRYPT_RATE_LIMIT": "1 per hour"}).test_client()
        for _ in range(2)
    ]
    statuses = [client.post("/auth/token/", json=WRONG).status_code for client in clients]
    assert statuses == [400, 429]
    assert clients[0].get("/readyz").status_code == 200
    assert warnings(caplog) == []


def test_tls_tickets_that_come_late(
    sandbox: Sandbox,
    tls_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those of TLS 1.3 come after the handshake, when the pool looks whether there is anything."""

    def pass_on_late(client: socket.socket, data: bytes) -> None:
        time.sleep(0.01)
        client.sendall(data)

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with Forwarder(urlsplit(tls_url).port or 0) as forwarder:
        forwarder.pass_on = pass_on_late
        url = forwarder.url.replace("redis:", "rediss:")
        environ = {**sandbox.environ, "BAKRYPT_REDIS_URL": url}
        assert token_of(member(environ)) == token_of(member(environ))
        assert member(environ).problems() == warnings(caplog) == []


def test_hiredis_is_not_used(redis_server: RedisServer) -> None:
    """It is installed here."""
    assert find_spec("hiredis")
    with Redis.from_url(redis_server.url, **redis_options(redis_server.url)) as redis:
        connection = redis.connection_pool.get_connection()
        assert type(connection._parser) is _RESP2Parser  # noqa: SLF001
        redis.connection_pool.release(connection)


def test_tls_with_a_folder_of_cas(
    sandbox: Sandbox, tls_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable may name a folder, as for requests."""
    pem = tmp_path / "ca.pem"
    command = ["openssl", "x509", "-noout", "-hash", "-in", str(pem)]
    digest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    folder = tmp_path / "cas"
    folder.mkdir()
    (folder / f"{digest}.0").write_bytes(pem.read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder))
    assert member({**sandbox.environ, "BAKRYPT_REDIS_URL": tls_url}).problems() == []


@pytest.mark.parametrize("bundle", ["none", "another's", "missing"])
def test_tls_with_the_wrong_ca(
    sandbox: Sandbox,
    tls_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bundle: str,
) -> None:
    """Nothing is sent to a server that is not known, and the reason is said."""
    if bundle != "none":
        path = tmp_path / "another.pem"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
        if bundle == "another's":
            trustme.CA().cert_pem.write_to_path(str(path))
    account = member({**sandbox.environ, "BAKRYPT_REDIS_URL": tls_url})
    assert token_of(account) == token_of(account)
    (warning,) = warnings(caplog)
    reason = "another.pem cannot be used" if bundle == "missing" else "certificate verify failed"
    assert reason in warning
    assert reason in (account.redis_problem() or "")


def test_a_name_whose_first_address_never_answers(
    upstream: Upstream, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of two proxies that died, or IPv6 that leads nowhere: the second one is tried."""
    monkeypatch.setattr(redis_connection, "ROUND_TRIP", 1.0)
    real = socket.getaddrinfo

    def both(host: str, *rest: Any, **options: Any) -> list[Any]:
        hosts = ["127.0.0.2", "127.0.0.1"] if host == "redis.test" else [host]
        return [address for host in hosts for address in real(host, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with socket.socket() as silent, socket.socket() as first, socket.socket() as second:
        silent.bind(("127.0.0.2", redis_server.port))
        silent.listen(0)
        for filler in (first, second):  # no more connections are taken then
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        address = redis_server.url.replace("127.0.0.1", "redis.test")
        account = member({**upstream.environ, "BAKRYPT_REDIS_URL": address})
        assert account.redis_problem() is None


def test_the_probe_of_a_process_that_stood_still(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is well."""
    account, create, pauses = member(environ), Records.create_lease, iter([0.8])

    def late(records: Records, found: Found) -> bytes:
        lease = create(records, found)
        time.sleep(next(pauses, 0))
        return lease

    monkeypatch.setattr(Records, "create_lease", late)
    assert account.redis_problem() is None
    assert next(pauses, None) is None


def test_where_redis_is_not_used(upstream: Upstream) -> None:
    """Without a token to share, an account has nothing in Redis, and nothing is asked of it."""
    environ = {
        "BAKRYPT_URL": upstream.url,
        "BAKRYPT_CLIENT_ID": "id",
        "BAKRYPT_CLIENT_SECRET": "secret",
        "BAKRYPT_REDIS_URL": f"redis://127.0.0.1:{free_port()}",
    }
    assert member(environ).problems() == []
