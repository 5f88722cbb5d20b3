"""Our app limits password attempts by client address."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from processes import wait_until
from real_redis import REDIS_SERVER, Forwarder, RedisServer, probed_keys
from redis import Redis
from redis.crc import key_slot

from app import create_app
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.tokens import redis_connection

WRONG = {"username": "alice", "password": "wrong"}


def create(sandbox: Sandbox, **settings: object) -> Flask:
    """Our app against the sandbox, with three attempts an hour."""
    names = {f"BAKRYPT_{name.upper()}": value for name, value in settings.items()}
    config = {
        "BAKRYPT_NETWORK": "sandbox",
        "BAKRYPT_URL": sandbox.url,
        "BAKRYPT_RATE_LIMIT": "3 per hour",
    }
    return create_app(config | names)


@pytest.fixture
def client(sandbox: Sandbox) -> FlaskClient:
    """A caller of that app."""
    return create(sandbox).test_client()


def attempt(client: FlaskClient, times: int, **arguments: Any) -> list[int]:
    """Try a wrong password this many times and return the statuses."""
    return [client.post("/auth/token/", data=WRONG, **arguments).status_code for _ in range(times)]


def test_too_many_attempts(client: FlaskClient, sandbox: Sandbox) -> None:
    """The 429 has an error body and `Retry-After`, and bakrypt gets no request."""
    assert attempt(client, 3) == [400, 400, 400]
    response = client.post("/auth/token/", data=WRONG)
    assert response.status_code == 429
    assert response.get_json()["error"] == "too_many_requests"
    seconds = int(response.headers["Retry-After"])
    assert 0 < seconds <= 3600
    assert response.get_json()["error_description"] == (
        f"Too many attempts. Try again in {seconds} seconds."
    )
    assert response.headers["Cache-Control"] == "no-store"
    assert sandbox.calls == {"/auth/token/": 3}


def test_a_correct_password_counts_too(client: FlaskClient) -> None:
    """Otherwise an attacker could avoid the limit with their own account."""
    right = {"username": "alice", "password": "alice-password"}
    assert [client.post("/auth/token/", json=right).status_code for _ in range(4)] == [
        200,
        200,
        200,
        429,
    ]


def test_malformed_attempts_count_too(client: FlaskClient) -> None:
    """Every request that is not a refresh is an attempt, whatever its content type."""
    assert client.post("/auth/token/", data=b"x" * 70_000).status_code == 413
    assert (
        client.post("/auth/token/", data=b"{", content_type="application/json").status_code == 400
    )
    assert attempt(client, 2) == [400, 429]


def test_refreshes_and_exchanges_do_not_count(client: FlaskClient) -> None:
    """Nobody guesses a password by renewing a token."""
    refresh = {"grant_type": "refresh_token", "refresh_token": "x"}
    assert {client.post("/auth/token", json=refresh).status_code for _ in range(10)} == {400}
    assert {client.post("/auth/exchange").status_code for _ in range(10)} == {200}
    assert attempt(client, 1) == [400]


def test_both_spellings_share_one_count(client: FlaskClient) -> None:
    """The path without the slash has no count of its own."""
    attempt(client, 3)
    assert client.post("/auth/token", json=WRONG).status_code == 429


def test_a_forged_address_does_not_help(client: FlaskClient) -> None:
    """Without trusted proxies the app ignores `X-Forwarded-For`."""
    statuses = [attempt(client, 1, headers={"X-Forwarded-For": f"10.0.0.{n}"})[0] for n in range(4)]
    assert statuses == [400, 400, 400, 429]


def test_addresses_are_counted_separately(client: FlaskClient) -> None:
    """An attacker at one address locks nobody else out."""
    attempt(client, 4)
    assert attempt(client, 1, environ_base={"REMOTE_ADDR": "127.0.0.2"}) == [400]


class TestApi:
    """POSTs to the API have a limit of their own."""

    ASSETS = "/bakrypt/v1/assets/"
    FILES = "/bakrypt/v1/files/"

    @pytest.fixture
    def client(self, sandbox: Sandbox) -> FlaskClient:
        """A caller of an app with three POSTs an hour."""
        return create(sandbox, api_rate_limit="3 per hour").test_client()

    def make(self, client: FlaskClient, times: int, **arguments: Any) -> list[int]:
        """Create an asset this many times and return the statuses."""
        asset = [{"name": "Gold"}]
        return [client.post(self.ASSETS, json=asset, **arguments).status_code for _ in range(times)]

    def test_too_many_posts(self, client: FlaskClient, sandbox: Sandbox) -> None:
        """The 429 says when to try again, and bakrypt gets no request."""
        assert self.make(client, 3) == [201, 201, 201]
        response = client.post(self.ASSETS, json=[{"name": "Gold"}])
        assert (response.status_code, response.get_json()["error"]) == (429, "too_many_requests")
        assert 0 < int(response.headers["Retry-After"]) <= 3600
        assert sandbox.calls["/v1/assets/"] == 3

    def test_all_posts_share_one_count(self, client: FlaskClient) -> None:
        """In both spellings."""
        assert self.make(client, 2) == [201, 201]
        assert client.post(self.FILES.rstrip("/"), data=b"x").status_code == 400
        assert client.post(self.FILES, data=b"x").status_code == 429
        assert self.make(client, 1) == [429]

    def test_reading_does_not_count(self, client: FlaskClient) -> None:
        """A page polls, and loads the script."""
        assert {client.get("/bakrypt/receipts/").status_code for _ in range(10)} == {200}
        assert {client.get("/bakrypt/passthrough.js").status_code for _ in range(10)} == {200}
        assert self.make(client, 1) == [201]

    def test_passwords_have_their_own_count(self, client: FlaskClient) -> None:
        """Neither uses up the other's."""
        assert self.make(client, 4) == [201, 201, 201, 429]
        assert attempt(client, 1) == [400]

    def test_addresses_are_counted_separately(self, client: FlaskClient) -> None:
        """A visitor at one address stops nobody else."""
        self.make(client, 4)
        assert self.make(client, 1, environ_base={"REMOTE_ADDR": "127.0.0.2"}) == [201]


def test_behind_a_proxy(sandbox: Sandbox) -> None:
    """The address from the trusted proxy counts; what the caller wrote does not."""
    client = create(sandbox, trusted_proxies=1).test_client()
    forged = [
        attempt(client, 1, headers={"X-Forwarded-For": f"10.0.0.{n}, 192.0.2.1"})[0]
        for n in range(4)
    ]
    assert forged == [400, 400, 400, 429]
    assert attempt(client, 1, headers={"X-Forwarded-For": "192.0.2.2"}) == [400]


def test_an_ipv6_network_is_one_client(client: FlaskClient) -> None:
    """One caller owns a whole IPv6 network; a mapped IPv4 address counts as IPv4."""
    statuses = [
        attempt(client, 1, environ_base={"REMOTE_ADDR": f"2001:db8::{n}"})[0] for n in range(4)
    ]
    assert statuses == [400, 400, 400, 429]
    assert attempt(client, 1, environ_base={"REMOTE_ADDR": "2001:db8:0:1::1"}) == [400]
    mapped = [
        attempt(client, 1, environ_base={"REMOTE_ADDR": f"::ffff:192.0.2.{n}"})[0] for n in range(4)
    ]
    assert mapped == [400] * 4


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("203.0.113.7:51234", "203.0.113.7:51235", "203.0.113.8:51234"),
        ("203.0.113.7:51234", "203.0.113.7", "203.0.113.8"),
        ("[2001:db8::7]:443", "[2001:db8::8]:444", "[2001:db8:1::7]:443"),
        ("[2001:db8::7]", "2001:db8::9", "2001:db8:1::7"),
        ("unknown", "unknown", "203.0.113.7"),
        ("_hidden", "_hidden", "_other"),
        ("203.0.113.7:", "203.0.113.7", "203.0.113.8"),
        ("a:b:c", "a:b:c", "a:b:d"),
        ("[", "[", "]"),
    ],
)
def test_what_proxies_write_for_an_address(
    sandbox: Sandbox, one: str, same: str, other: str
) -> None:
    """Counted by the address without its port, or by the text as it is; never a 500."""
    client = create(sandbox, trusted_proxies=1).test_client()
    assert attempt(client, 2, headers={"X-Forwarded-For": one}) == [400, 400]
    assert attempt(client, 2, headers={"X-Forwarded-For": same}) == [400, 429]
    assert attempt(client, 1, headers={"X-Forwarded-For": other}) == [400]


@pytest.mark.parametrize("address", ["", None, "unix:", "/run/app.sock"])
def test_a_unix_socket_has_no_address(client: FlaskClient, address: str | None) -> None:
    """All of its callers are counted together, and none gets a 500."""
    environ = {"REMOTE_ADDR": address}
    assert attempt(client, 4, environ_overrides=environ) == [400, 400, 400, 429]


def test_port_and_prefix_of_a_proxy_are_ignored(sandbox: Sandbox) -> None:
    """A proxy may forward the caller's own `X-Forwarded-Port` and `-Prefix`."""
    client = create(sandbox, trusted_proxies=1).test_client()
    forged = {
        "X-Forwarded-Port": "6666",
        "X-Forwarded-Prefix": "//evil.example",
        "X-Forwarded-Host": "shop.example.com",
    }
    page = client.get("/", headers=forged).text
    assert "evil.example" not in page
    assert "6666" not in page


def test_behind_a_proxy_our_own_origin_is_known(sandbox: Sandbox) -> None:
    """Our own origin has the scheme and host that the proxy reports."""
    client = create(sandbox, trusted_proxies=1, trusted_hosts="shop.example.com").test_client()
    seen = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.example.com",
        "Origin": "https://shop.example.com",
    }
    assert client.post("/auth/exchange/", headers=seen).status_code == 200
    assert create(sandbox).test_client().post("/auth/exchange/", headers=seen).status_code == 403


def test_cors_on_429(sandbox: Sandbox) -> None:
    """A page can read the error and the time to wait."""
    origin = {"Origin": "https://shop.example.com"}
    client = create(sandbox, allowed_origins=origin["Origin"]).test_client()
    attempt(client, 3)
    response = client.post("/auth/token/", data=WRONG, headers=origin)
    assert response.status_code == 429
    assert response.headers["Access-Control-Allow-Origin"] == origin["Origin"]
    assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")
def test_counted_in_redis(sandbox: Sandbox, redis_server: RedisServer) -> None:
    """Processes count together; if Redis fails, each counts by itself and no request fails."""
    clients = [create(sandbox, redis_url=redis_server.url).test_client() for _ in range(2)]
    assert [attempt(clients[n % 2], 1)[0] for n in range(4)] == [400, 400, 400, 429]
    redis_server.freeze()
    started = time.monotonic()
    assert attempt(clients[0], 1) == [400]
    assert time.monotonic() - started < 2
    redis_server.kill()
    assert attempt(clients[0], 2) == [400, 400]
    assert attempt(clients[0], 1) == [429]


def test_redis_by_a_unix_socket(sandbox: Sandbox) -> None:
    """The limiter accepts a socket path and works without a Redis behind it."""
    client = create(sandbox, redis_url="unix:///nowhere/redis.sock").test_client()
    assert attempt(client, 4) == [400, 400, 400, 429]


# What a replica of Redis 6.2 says if a script writes. That of Redis 7 begins with READONLY.
READ_ONLY_IN_6_2 = (
    b"-ERR Error running script (call to f_628bd136a573a06b346879695681af12ccef300f): "
    b"@user_script:3: @user_script: 3: "
    b"-READONLY You can't write against a read only replica.\r\n"
)


@pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")
class TestRedis:
    """Attempts are counted in Redis, or `readyz` says that they are not."""

    COUNTER = "bakrypt_proxy:{shared}:LIMITER/127.0.0.1/bakrypt.token/30/1/hour"

    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a busy machine Redis may be slow. `test_redis_bounds.py` is about how slow."""
        monkeypatch.setattr(redis_connection, "ROUND_TRIP", 2.0)

    def client(self, sandbox: Sandbox, url: str) -> FlaskClient:
        """A caller of an app on a Redis, with thirty attempts an hour."""
        return create(sandbox, redis_url=url, rate_limit="30 per hour").test_client()

    def is_counted(self, client: FlaskClient, redis: "Redis") -> bool:
        """Return whether one more attempt is counted in a Redis until its end."""
        before = int(redis.get(self.COUNTER) or 0)
        attempt(client, 1)
        return int(redis.get(self.COUNTER) or 0) == before + 1 and redis.ttl(self.COUNTER) > 0

    def is_ready(self, client: FlaskClient) -> bool:
        """Return what `readyz` says."""
        return client.get("/readyz").status_code == 200

    def limit_rights(self, redis: "Redis", url: str, *rules: str) -> str:
        """Return the address of a Redis for a user who has all rights but these."""
        rights = ["reset", "on", ">secret", "~bakrypt_proxy*", "+@all", *rules]
        redis.execute_command("ACL", "SETUSER", "bakrypt", *rights)  # type: ignore[no-untyped-call]
        return url.replace("redis://", "redis://bakrypt:secret@")

    @pytest.mark.parametrize(
        "rule", ["-expire", "-incrby", "-get", "-ttl", "-evalsha", "-script|load", "-ping"]
    )
    def test_a_right_is_missing(
        self, sandbox: Sandbox, redis: "Redis", redis_server: RedisServer, rule: str
    ) -> None:
        """`readyz` says so each time and quotes Redis, until the right is there."""
        assert self.is_counted(self.client(sandbox, redis_server.url), redis)  # it has the script
        client = self.client(sandbox, self.limit_rights(redis, redis_server.url, rule))
        for _ in range(3):
            reply = client.get("/readyz")
            assert reply.status_code == 503
            assert "password attempts are counted in memory" in reply.text
            assert "permission" in reply.text or "can't run this command" in reply.text
        self.limit_rights(redis, redis_server.url)
        assert self.is_ready(client)
        assert not [key for key in redis.keys("*probe*") if redis.ttl(key) < 0]

    def test_no_right_to_let_counters_end(
        self, sandbox: Sandbox, redis: "Redis", redis_server: RedisServer
    ) -> None:
        """No attempt is counted as it should be, and `readyz` says so."""
        client = self.client(sandbox, self.limit_rights(redis, redis_server.url, "-expire"))
        assert not self.is_counted(client, redis)
        assert not self.is_ready(client)

    def test_no_right_to_ping(
        self, sandbox: Sandbox, redis: "Redis", redis_server: RedisServer
    ) -> None:
        """After an outage the limiter asks for a PING, and counts in memory until it gets one."""
        with Forwarder(redis_server.port) as name:
            client = self.client(sandbox, self.limit_rights(redis, name.url, "-ping"))
            assert self.is_counted(client, redis)
            name.pass_on = name.stall
            attempt(client, 1)
            name.pass_on = socket.socket.sendall
            with suppress(AssertionError):
                wait_until(lambda: self.is_counted(client, redis), 8)
            assert self.is_counted(client, redis) == self.is_ready(client)

    @pytest.mark.parametrize("kind", ["a number", "a list"])
    def test_nonsense_where_the_probe_counts(
        self, sandbox: Sandbox, redis: "Redis", redis_server: RedisServer, kind: str
    ) -> None:
        """What somebody else writes there does not change what `readyz` says."""
        client = self.client(sandbox, redis_server.url)
        for key in probed_keys(redis, lambda: self.is_ready(client)):
            redis.delete(key)
            _ = redis.set(key, 5_000_000) if kind == "a number" else redis.rpush(key, "x")
        assert self.is_ready(client)

    @pytest.mark.parametrize("has_slot", [True, False])
    def test_a_node_of_a_cluster(self, sandbox: Sandbox, tmp_path: Path, has_slot: bool) -> None:
        """A node that has the slot of the token's keys has the slot of all our keys."""
        slot = key_slot(self.COUNTER.encode())
        others = [0, slot - 1, slot + 1, 16383]
        options = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"]
        with RedisServer(tmp_path, *options) as server, Redis.from_url(server.url) as redis:
            slots = [slot, slot] if has_slot else others
            redis.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
            wait_until(lambda: redis.cluster("INFO")["cluster_state"] == "ok")
            clients = [self.client(sandbox, server.url) for _ in range(2)]
            for client in clients:
                assert client.post("/auth/exchange/").status_code == 200
                attempt(client, 1)
                assert self.is_ready(client) == has_slot
            assert sandbox.calls["/auth/exchange/"] == (1 if has_slot else 2)
            if has_slot:
                assert redis.get(self.COUNTER) == b"2"

    @pytest.mark.parametrize("answer", ["READONLY of 7", "READONLY of 6.2", "MASTERDOWN"])
    def test_a_failover(self, sandbox: Sandbox, tmp_path: Path, answer: str) -> None:
        """The name moves while connections are kept: attempts are counted at the new primary."""
        (tmp_path / "old").mkdir()
        (tmp_path / "new").mkdir()
        serves_stale = "no" if answer == "MASTERDOWN" else "yes"
        with (
            RedisServer(tmp_path / "old", "--replica-serve-stale-data", serves_stale) as old,
            RedisServer(tmp_path / "new") as new,
            Redis.from_url(old.url) as old_redis,
            Redis.from_url(new.url) as new_redis,
            Forwarder(old.port) as name,
        ):
            if answer == "READONLY of 6.2":
                name.pass_on = say_read_only_as_6_2
            client = self.client(sandbox, name.url)
            assert self.is_counted(client, old_redis)
            # The replica has no link to its primary: nothing listens on port 1.
            old_redis.replicaof("127.0.0.1", "1")
            wait_until(lambda: old_redis.info()["role"] == "slave")
            name.target = new.port
            wait_until(lambda: self.is_counted(client, new_redis), 10)
            assert self.is_ready(client)


def say_read_only_as_6_2(client: socket.socket, data: bytes) -> None:
    """Send what a server says; READONLY as Redis 6.2 says it."""
    client.sendall(READ_ONLY_IN_6_2 if data.startswith(b"-READONLY") else data)


@pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")
def test_many_attempts_while_redis_goes_away(sandbox: Sandbox, redis_server: RedisServer) -> None:
    """All callers who are being counted when Redis hangs are counted in memory; none gets a 500."""
    app = create(sandbox, redis_url=redis_server.url, rate_limit="100 per hour")
    assert attempt(app.test_client(), 1) == [400]
    redis_server.freeze()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: attempt(app.test_client(), 1), range(8)))
    assert statuses == [[400]] * 8
