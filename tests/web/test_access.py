"""Closed by default, pages of other sites refused, CORS from one exact list."""

from typing import Any
from unittest.mock import Mock

import pytest
from conftest import create_app
from flask import Flask, Response, abort, redirect, request
from flask_cors import CORS

from bakrypt_proxy import create_blueprint
from bakrypt_proxy.sandbox import Sandbox

OWN = "http://localhost"
LISTED = "https://shop.example.com"
LISTED_IPV6 = "http://[::1]:3000"
LISTED_APP = "capacitor://localhost"
BOTH_ROUTES = pytest.mark.parametrize(
    "path", ["/auth/exchange/", "/auth/exchange", "/auth/token/", "/auth/token"]
)
NEAR_MISSES = [
    "https://shopXexample.com",
    "https://shop.example.com.evil.example",
    "https://evil-shop.example.com",
    "https://shop.example.com:8443",
    "https://shop.example.com:443",
    "http://shop.example.com",
    "https://SHOP.example.com",
    "https://shop.example.com/",
    "https://example.com",
    "https://shop.example.co",
    "http://:3000",
    "http://1:3000",
    "https://localhost",
    "http://localhost:5000",
    "null",
    "",
    "*",
    f"{LISTED}, {LISTED}",
]


@pytest.fixture
def app(sandbox: Sandbox) -> Flask:
    """A host app that lists three origins."""
    origins = f"{LISTED}, {LISTED_IPV6},{LISTED_APP}"
    return create_app({**sandbox.environ, "BAKRYPT_ALLOWED_ORIGINS": origins})


def cors_headers(response: Any) -> dict[str, str]:
    """Return the CORS headers of a response."""
    return {
        name: value
        for name, value in response.headers
        if name.lower().startswith("access-control-")
    }


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": OWN},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "none", "Origin": OWN},
        {"Sec-Fetch-Site": "none", "Origin": LISTED},
        {"Sec-Fetch-Site": "same-origin", "Sec-Purpose": "prefetch"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"},
        {"Origin": OWN},
        {"Origin": LISTED},
        {"Origin": LISTED_IPV6},
        {"Origin": LISTED_APP},
        {"Sec-Fetch-Site": "cross-site", "Origin": LISTED},
        {"Sec-Fetch-Site": "same-site", "Origin": LISTED},
    ],
)
def test_who_may_call(app: Flask, headers: dict[str, str]) -> None:
    """A caller that is no browser, our own page and a listed page get a token."""
    assert app.test_client().post("/auth/exchange/", headers=headers).status_code == 200


@BOTH_ROUTES
@pytest.mark.parametrize(
    "headers",
    [
        *({"Origin": origin} for origin in NEAR_MISSES),
        *({"Origin": origin, "Sec-Fetch-Site": "cross-site"} for origin in NEAR_MISSES),
        {"Origin": OWN, "Sec-Fetch-Site": "cross-site"},
        {"Origin": OWN, "Sec-Fetch-Site": "same-site"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "nonsense"},
        # Of a background fetch in another site's service worker, and of its speculation rules.
        *({"Origin": origin, "Sec-Fetch-Site": "none"} for origin in NEAR_MISSES),
        {"Sec-Fetch-Site": "none", "Sec-Purpose": "prefetch"},
        {"Sec-Fetch-Site": "none", "Sec-Purpose": "prefetch;prerender"},
    ],
)
def test_who_may_not_call(app: Flask, sandbox: Sandbox, path: str, headers: dict[str, str]) -> None:
    """A page of another site gets 403 without CORS headers, and nothing else happens."""
    response = app.test_client().post(
        path, headers=headers, data={"username": "alice", "password": "alice-password"}
    )
    assert response.status_code == 403
    assert response.json is not None
    assert response.json["error"] == "access_denied"
    assert "BAKRYPT_ALLOWED_ORIGINS" in response.json["error_description"]
    assert cors_headers(response) == {}
    assert not sandbox.calls


def test_our_own_origin_includes_the_scheme(app: Flask) -> None:
    """An http page on the host of our https app has another origin."""
    client = app.test_client()
    assert (
        client.post(
            "/auth/exchange/", base_url="https://a.example", headers={"Origin": "https://a.example"}
        ).status_code
        == 200
    )
    assert (
        client.post(
            "/auth/exchange/", base_url="https://a.example", headers={"Origin": "http://a.example"}
        ).status_code
        == 403
    )


@BOTH_ROUTES
def test_preflight_of_a_listed_page(app: Flask, path: str) -> None:
    """Both spellings answer without a redirect and allow the method and headers."""
    headers = {
        "Origin": LISTED,
        "Sec-Fetch-Site": "cross-site",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    response = app.test_client().options(path, headers=headers)
    assert response.status_code == 204
    assert cors_headers(response) == {
        "Access-Control-Allow-Origin": LISTED,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Headers": "authorization, content-type",
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Expose-Headers": "Retry-After, X-Request-ID",
        "Access-Control-Max-Age": "600",
    }
    assert "Origin" in response.vary


@BOTH_ROUTES
@pytest.mark.parametrize("origin", NEAR_MISSES)
def test_preflight_of_another_page(app: Flask, path: str, origin: str) -> None:
    """The response has no CORS headers, so the browser does not send the request."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    assert cors_headers(app.test_client().options(path, headers=headers)) == {}


@pytest.mark.parametrize(
    ("send", "status"),
    [
        ({"path": "/auth/token/", "method": "POST"}, 400),
        (
            {
                "path": "/auth/token/",
                "method": "POST",
                "data": {"username": "alice", "password": "x"},
            },
            400,
        ),
        ({"path": "/auth/token/", "method": "GET"}, 405),
        ({"path": "/auth/token/", "method": "POST", "data": b"x" * 70_000}, 413),
        ({"path": "/auth/exchange/", "method": "POST"}, 200),
    ],
)
def test_cors_headers_on_every_response(app: Flask, send: dict[str, Any], status: int) -> None:
    """Otherwise a page sees "network error" instead of the description."""
    response = app.test_client().open(**send, headers={"Origin": LISTED})
    assert response.status_code == status
    assert response.headers.getlist("Access-Control-Allow-Origin") == [LISTED]
    assert "Origin" in response.vary


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413, 429, 500, 503])
@pytest.mark.parametrize("path", ["/auth/exchange/", "/auth/token"])
def test_cors_headers_on_errors_of_the_host(app: Flask, path: str, status: int) -> None:
    """The error may come from the host's limiter, login or own code."""
    app.before_request(lambda: abort(status))
    response = app.test_client().post(path, headers={"Origin": LISTED})
    assert response.status_code == status
    assert response.headers.getlist("Access-Control-Allow-Origin") == [LISTED]


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]
)
@pytest.mark.parametrize("path", ["/auth/exchange/", "/auth/token"])
def test_a_form_on_another_site_gets_nothing(
    app: Flask, sandbox: Sandbox, path: str, content_type: str
) -> None:
    """A browser sends a form without a preflight, so the route itself must refuse it."""
    headers = {
        "Origin": "https://evil.example",
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
    }
    data = b"username=alice&password=alice-password"
    response = app.test_client().post(path, headers=headers, data=data, content_type=content_type)
    assert response.status_code == 403
    assert "access_token" not in response.text
    assert not sandbox.calls


@pytest.mark.parametrize(("mishap", "status"), [("fail", 500), ("throttle", 429)])
def test_cors_headers_on_upstream_errors(
    app: Flask, sandbox: Sandbox, mishap: str, status: int
) -> None:
    """An error that bakrypt causes has CORS headers too."""
    setattr(sandbox, mishap, 503)
    response = app.test_client().post("/auth/exchange/", headers={"Origin": LISTED})
    assert response.status_code == status
    assert response.headers["Access-Control-Allow-Origin"] == LISTED


def test_the_hosts_own_cors_does_not_open_these_routes(app: Flask) -> None:
    """A host that allows `*` for its own routes does not allow it for tokens."""
    CORS(app, origins="*")
    app.config["CORS_ALLOW_HEADERS"] = "x-nothing"
    client = app.test_client()
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    response = client.options("/auth/token/", headers={"Origin": LISTED, **preflight})
    assert response.headers["Access-Control-Allow-Headers"] == "content-type"
    assert (
        cors_headers(client.post("/auth/exchange/", headers={"Origin": "https://evil.example"}))
        == {}
    )
    assert cors_headers(client.post("/auth/exchange/")) == {}
    response = client.post("/auth/token/", headers={"Origin": LISTED})
    assert response.headers.getlist("Access-Control-Allow-Origin") == [LISTED]


def test_closed_by_default(sandbox: Sandbox) -> None:
    """A minimal app gives the token to nobody, and the error names both ways to open it."""
    app = Flask("host")
    app.config.from_mapping(sandbox.environ)
    app.register_blueprint(create_blueprint())
    response = app.test_client().post("/auth/exchange/")
    assert response.status_code == 403
    assert response.json is not None
    assert response.json["error"] == "access_denied"
    assert "authorize=" in response.json["error_description"]
    assert "BAKRYPT_EXCHANGE_PUBLIC=true" in response.json["error_description"]
    assert not sandbox.calls


def test_public(sandbox: Sandbox) -> None:
    """`BAKRYPT_EXCHANGE_PUBLIC=true` opens exchange to everybody."""
    app = create_app({**sandbox.environ, "BAKRYPT_EXCHANGE_PUBLIC": "true"}, authorize=None)
    assert app.test_client().post("/auth/exchange/").status_code == 200


@pytest.mark.parametrize(
    ("answer", "status"),
    [(True, 200), (False, 403), (None, 403)],
)
@pytest.mark.parametrize("public", ["true", "false"])
def test_authorize(sandbox: Sandbox, public: str, answer: object, status: int) -> None:
    """`authorize` decides each request, even if the setting says public."""
    app = create_app(
        {**sandbox.environ, "BAKRYPT_EXCHANGE_PUBLIC": public}, authorize=lambda: answer
    )
    assert app.test_client().post("/auth/exchange/").status_code == status


@pytest.mark.parametrize(
    "answer",
    [
        redirect("/login"),
        ("no", 403),
        Response("no", 403),
        "no",
        "yes",
        "",
        0,
        1,
        [],
        (_ for _ in ()),
        Mock(),
    ],
)
def test_only_true_false_and_none_are_answers(
    sandbox: Sandbox, answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A redirect, a generator or a mock is true in Python, and lets nobody in."""
    app = create_app(sandbox.environ, authorize=lambda: answer)
    response = app.test_client().post("/auth/exchange/")
    assert (response.status_code, response.get_json()["error"]) == (500, "server_error")
    assert "authorize must return true, false or None" in caplog.text
    assert not sandbox.calls


async def never_awaited() -> bool:
    """An `authorize` for an async framework."""
    return False


@pytest.mark.parametrize("authorize", [True, "yes", never_awaited])
def test_authorize_must_be_a_function(sandbox: Sandbox, authorize: Any) -> None:
    """A wrong `authorize` is an error at registration, not at the first request."""
    with pytest.raises(TypeError, match="authorize must be a function"):
        create_app(sandbox.environ, authorize=authorize)


def test_a_refused_page_is_named_in_the_log(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the origin, because the page itself only sees a network error."""
    client = app.test_client()
    for send in (client.options, client.post):
        caplog.clear()
        assert (
            send("/auth/token/", headers={"Origin": "https://shop.example.org"}).status_code == 403
        )
        assert "Origin 'https://shop.example.org'" in caplog.text
        assert "BAKRYPT_ALLOWED_ORIGINS" in caplog.text


def test_authorize_sees_the_request(sandbox: Sandbox) -> None:
    """`authorize` can use the request and the session."""
    app = create_app(sandbox.environ, authorize=lambda: request.headers.get("X-Key") == "right")
    client = app.test_client()
    assert client.post("/auth/exchange/", headers={"X-Key": "right"}).status_code == 200
    assert client.post("/auth/exchange/").status_code == 403


def test_token_needs_no_authorization(sandbox: Sandbox) -> None:
    """`authorize` is not asked about users who sign in with their password."""
    app = create_app(sandbox.environ, authorize=lambda: False)
    grant = {"username": "alice", "password": "alice-password"}
    assert app.test_client().post("/auth/token/", data=grant).status_code == 200


def test_the_mark_of_flask_cors_is_still_its_own() -> None:
    """The app's own flask-cors leaves a response alone that has this mark."""
    from flask_cors.core import FLASK_CORS_EVALUATED  # noqa: PLC0415

    from bakrypt_proxy.web.cors import EVALUATED  # noqa: PLC0415

    assert EVALUATED == FLASK_CORS_EVALUATED
