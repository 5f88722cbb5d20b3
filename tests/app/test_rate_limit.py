"""Guessing passwords is slow: our app counts attempts by client address."""

import shutil
import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from real_redis import RedisServer

from app import create_app
from bakrypt_proxy.sandbox import Sandbox

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
    """Try a wrong password so many times, and return the statuses."""
    return [client.post("/auth/token/", data=WRONG, **arguments).status_code for _ in range(times)]


def test_too_many_attempts(client: FlaskClient, sandbox: Sandbox) -> None:
    """429 with the contract's body and the seconds to wait, and bakrypt is not bothered."""
    assert attempt(client, 3) == [400, 400, 400]
    reply = client.post("/auth/token/", data=WRONG)
    assert reply.status_code == 429
    assert reply.get_json()["error"] == "too_many_requests"
    assert 0 < int(reply.headers["Retry-After"]) <= 3600
    assert reply.headers["Cache-Control"] == "no-store"
    assert sandbox.calls == {"/auth/token/": 3}


def test_a_right_password_counts_too(client: FlaskClient) -> None:
    """Else a guesser with one account of his own would have no limit."""
    right = {"username": "alice", "password": "alice-password"}
    assert [client.post("/auth/token/", json=right).status_code for _ in range(4)] == [
        200,
        200,
        200,
        429,
    ]


def test_malformed_attempts_count_too(client: FlaskClient) -> None:
    """Whatever its type, what is no refresh is an attempt."""
    assert client.post("/auth/token/", data=b"x" * 70_000).status_code == 413
    assert (
        client.post("/auth/token/", data=b"{", content_type="application/json").status_code == 400
    )
    assert attempt(client, 2) == [400, 429]


def test_refreshes_and_exchanges_are_free(client: FlaskClient) -> None:
    """Who renews a token guesses nothing."""
    refresh = {"grant_type": "refresh_token", "refresh_token": "x"}
    assert {client.post("/auth/token", json=refresh).status_code for _ in range(10)} == {400}
    assert {client.post("/auth/exchange").status_code for _ in range(10)} == {200}
    assert attempt(client, 1) == [400]


def test_both_spellings_are_one(client: FlaskClient) -> None:
    """The slash opens no second account of attempts."""
    attempt(client, 3)
    assert client.post("/auth/token", json=WRONG).status_code == 429


def test_a_forged_address_gains_nothing(client: FlaskClient) -> None:
    """`X-Forwarded-For` is the caller's word, unless proxies of ours are known to stand in front."""
    statuses = [attempt(client, 1, headers={"X-Forwarded-For": f"10.0.0.{n}"})[0] for n in range(4)]
    assert statuses == [400, 400, 400, 429]


def test_addresses_are_counted_apart(client: FlaskClient) -> None:
    """One guesser locks nobody else out."""
    attempt(client, 4)
    assert attempt(client, 1, environ_base={"REMOTE_ADDR": "127.0.0.2"}) == [400]


def test_behind_a_proxy(sandbox: Sandbox) -> None:
    """The address that the one trusted proxy has seen counts, and not what the caller wrote before it."""
    client = create(sandbox, trusted_proxies=1).test_client()
    forged = [
        attempt(client, 1, headers={"X-Forwarded-For": f"10.0.0.{n}, 192.0.2.1"})[0]
        for n in range(4)
    ]
    assert forged == [400, 400, 400, 429]
    assert attempt(client, 1, headers={"X-Forwarded-For": "192.0.2.2"}) == [400]


def test_a_network_of_ipv6_is_one_client(client: FlaskClient) -> None:
    """Its owner has all of its addresses; an IPv4 address written in IPv6 is itself."""
    statuses = [
        attempt(client, 1, environ_base={"REMOTE_ADDR": f"2001:db8::{n}"})[0] for n in range(4)
    ]
    assert statuses == [400, 400, 400, 429]
    assert attempt(client, 1, environ_base={"REMOTE_ADDR": "2001:db8:0:1::1"}) == [400]
    mapped = [
        attempt(client, 1, environ_base={"REMOTE_ADDR": f"::ffff:192.0.2.{n}"})[0] for n in range(4)
    ]
    assert mapped == [400] * 4


def test_a_proxy_is_not_believed_what_it_does_not_say(sandbox: Sandbox) -> None:
    """It may hand the caller's own port and prefix on."""
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
    """By the scheme and host that the proxy has seen."""
    client = create(sandbox, trusted_proxies=1).test_client()
    seen = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.example.com",
        "Origin": "https://shop.example.com",
    }
    assert client.post("/auth/exchange/", headers=seen).status_code == 200
    assert create(sandbox).test_client().post("/auth/exchange/", headers=seen).status_code == 403


def test_cors_on_429(sandbox: Sandbox) -> None:
    """A page reads it, with the time to wait."""
    origin = {"Origin": "https://shop.example.com"}
    client = create(sandbox, allowed_origins=origin["Origin"]).test_client()
    attempt(client, 3)
    reply = client.post("/auth/token/", data=WRONG, headers=origin)
    assert reply.status_code == 429
    assert reply.headers["Access-Control-Allow-Origin"] == origin["Origin"]
    assert "Retry-After" in reply.headers["Access-Control-Expose-Headers"]


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_counted_in_redis(sandbox: Sandbox, redis_server: RedisServer) -> None:
    """All processes count together; without Redis each goes on by itself, and nobody fails."""
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
    """The limiter takes the address too, and goes on without a Redis behind it."""
    client = create(sandbox, redis_url="unix:///nowhere/redis.sock").test_client()
    assert attempt(client, 4) == [400, 400, 400, 429]
