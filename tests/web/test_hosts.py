"""DNS rebinding: where exchange is open to everybody, our own origin needs a known host name."""

from typing import Any

import pytest
from conftest import create_app
from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from app import create_app as create_our_app
from bakrypt_proxy.sandbox import Sandbox

OPEN = {"BAKRYPT_EXCHANGE_PUBLIC": "true", "BAKRYPT_ALLOWED_ORIGINS": "https://listed.example"}
EVIL = "http://evil.example"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


def create_open_app(sandbox: Sandbox, **settings: str) -> Flask:
    """A host app whose exchange is open to everybody."""
    return create_app({**sandbox.environ, **OPEN, **settings}, authorize=None)


def exchange(app: Flask, host: str, **headers: str) -> Any:
    """The response to an exchange that was sent to a host."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.test_client().post("/auth/exchange/", headers={"Host": host, **names})


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": EVIL, **SAME_ORIGIN},
        SAME_ORIGIN,
        {"Sec-Fetch-Site": "none"},
        {"Origin": EVIL, "Sec-Fetch-Site": "none"},
    ],
)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "evil.example.",
        "2130706433",
        "EVIL.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "shop.example.com.evil.example",
        "listed.example",
    ],
)
def test_a_rebound_page_gets_nothing(sandbox: Sandbox, host: str, headers: dict[str, str]) -> None:
    """The error names the setting, and bakrypt is not asked."""
    app = create_open_app(sandbox, BAKRYPT_TRUSTED_HOSTS="shop.example.com")
    origin = {"Origin": f"http://{host}"} if "Origin" in headers else {}
    response = app.test_client().post(
        "/auth/exchange/", headers={"Host": host, **headers, **origin}
    )
    assert response.status_code == 403
    assert response.get_json()["error"] == "access_denied"
    assert "BAKRYPT_TRUSTED_HOSTS" in response.get_json()["error_description"]
    assert "evil" not in response.text
    assert not sandbox.calls


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:5000",
        "LOCALHOST",
        "127.0.0.1",
        "127.0.0.1:8000",
        "192.168.1.7",
        "[::1]",
        "[::1]:5000",
        "[2001:db8::7]",
        "shop.example.com",
        "Shop.Example.com:8443",
    ],
)
def test_known_hosts(sandbox: Sandbox, host: str) -> None:
    """`localhost`, an address instead of a name, and the listed names."""
    app = create_open_app(sandbox, BAKRYPT_TRUSTED_HOSTS="shop.example.com, www.example.com")
    assert (
        exchange(app, host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin").status_code
        == 200
    )
    assert exchange(app, host, Origin=f"http://{host}").status_code == 200


def test_a_proxy_that_does_not_pass_the_host_on(sandbox: Sandbox) -> None:
    """The server's own name is an address then. The page's Origin says what it is."""
    app = create_open_app(sandbox)
    response = exchange(app, "127.0.0.1:8000", Origin=EVIL, Sec_Fetch_Site="same-origin")
    assert response.status_code == 403
    assert "BAKRYPT_TRUSTED_HOSTS" in response.json["error_description"]
    assert sandbox.calls["/auth/exchange/"] == 0


def test_nothing_is_asked_of_those_who_are_no_page_of_ours(sandbox: Sandbox) -> None:
    """A program sends neither header; a listed page has another origin than the host."""
    app = create_open_app(sandbox)
    assert exchange(app, "any.example").status_code == 200
    assert exchange(app, "any.example", Origin="https://listed.example").status_code == 200


def test_an_app_with_authorize_needs_no_setting(sandbox: Sandbox) -> None:
    """Its own cookie or token is not sent to another name."""
    app = create_app({**sandbox.environ, **OPEN}, authorize=lambda: True)
    assert exchange(app, "shop.example.com", Sec_Fetch_Site="same-origin").status_code == 200


def test_the_token_route_needs_no_setting(sandbox: Sandbox) -> None:
    """It gives nothing without a password."""
    app = create_open_app(sandbox)
    response = app.test_client().post(
        "/auth/token/",
        headers={"Host": "shop.example.com", **SAME_ORIGIN},
        json={"username": "alice", "password": "alice-password"},
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    "forwarded", [{"X-Forwarded-Proto": "https"}, {"X-Forwarded-Host": "localhost"}]
)
def test_what_the_page_says_of_the_proxy_is_no_proof(
    sandbox: Sandbox, forwarded: dict[str, str]
) -> None:
    """Where a proxy sets only X-Forwarded-For, the page chooses the other two.

    So the host name from before `ProxyFix` has to be known as well.
    """
    app = create_open_app(sandbox)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]
    headers = {"Host": "evil.example", "Origin": "https://evil.example", **SAME_ORIGIN, **forwarded}
    assert app.test_client().post("/auth/exchange/", headers=headers).status_code == 403


def test_flasks_own_setting_is_left_to_the_host(sandbox: Sandbox) -> None:
    """`TRUSTED_HOSTS` answers 400 for every route, also to a health probe by address."""
    app = create_open_app(sandbox, BAKRYPT_TRUSTED_HOSTS="shop.example.com")
    assert app.config["TRUSTED_HOSTS"] is None
    assert exchange(app, "10.0.0.9").status_code == 200


def test_our_app_in_the_sandbox_works_without_a_setting() -> None:
    """`flask run` and `make run` are reached as localhost or by address."""
    app = create_our_app({"BAKRYPT_NETWORK": "sandbox"})
    with app.extensions["bakrypt_sandbox"]:
        for host in ("localhost:5000", "127.0.0.1:5000"):
            assert exchange(app, host, Sec_Fetch_Site="same-origin").status_code == 200
        assert exchange(app, "evil.example", Sec_Fetch_Site="same-origin").status_code == 403


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "@", ""])
def test_a_host_that_is_none(sandbox: Sandbox, host: str) -> None:
    """A broken header is refused, and never a fault of ours."""
    app = create_open_app(sandbox)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # type: ignore[method-assign]
    headers = {"Host": host, "X-Forwarded-Host": "localhost", **SAME_ORIGIN}
    assert app.test_client().post("/auth/exchange/", headers=headers).status_code in {400, 403}
    assert not sandbox.calls
