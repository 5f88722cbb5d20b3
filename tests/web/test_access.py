"""Who may call: closed by default, pages of other sites refused, CORS from one exact list."""

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


def cors_headers(reply: Any) -> dict[str, str]:
    """The CORS headers of a reply."""
    return {
        name: value for name, value in reply.headers if name.lower().startswith("access-control-")
    }


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": OWN},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
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
    """No browser, our own page, or a listed one."""
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
    ],
)
def test_who_may_not_call(app: Flask, sandbox: Sandbox, path: str, headers: dict[str, str]) -> None:
    """Another site's page gets 403 without CORS headers, before anything is done for it."""
    reply = app.test_client().post(
        path, headers=headers, data={"username": "alice", "password": "alice-password"}
    )
    assert reply.status_code == 403
    assert reply.json is not None
    assert reply.json["error"] == "access_denied"
    assert "BAKRYPT_ALLOWED_ORIGINS" in reply.json["error_description"]
    assert cors_headers(reply) == {}
    assert not sandbox.calls


def test_own_origin_is_compared_whole(app: Flask) -> None:
    """An http page on the path of our https app is another origin."""
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
    """Answered at both spellings without a redirect, for the method and headers that it needs."""
    headers = {
        "Origin": LISTED,
        "Sec-Fetch-Site": "cross-site",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    reply = app.test_client().options(path, headers=headers)
    assert reply.status_code == 204
    assert cors_headers(reply) == {
        "Access-Control-Allow-Origin": LISTED,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Headers": "authorization, content-type",
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Expose-Headers": "Retry-After, X-Request-ID",
        "Access-Control-Max-Age": "600",
    }
    assert "Origin" in reply.vary


@BOTH_ROUTES
@pytest.mark.parametrize("origin", NEAR_MISSES)
def test_preflight_of_another_page(app: Flask, path: str, origin: str) -> None:
    """Answered without CORS headers, so that the browser goes no further."""
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
def test_cors_headers_on_every_reply(app: Flask, send: dict[str, Any], status: int) -> None:
    """Else a page sees "network error" and not the description."""
    reply = app.test_client().open(**send, headers={"Origin": LISTED})
    assert reply.status_code == status
    assert reply.headers.getlist("Access-Control-Allow-Origin") == [LISTED]
    assert "Origin" in reply.vary


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413, 429, 500, 503])
@pytest.mark.parametrize("path", ["/auth/exchange/", "/auth/token"])
def test_cors_headers_whoever_says_no(app: Flask, path: str, status: int) -> None:
    """A limiter, a login or a fault of the host's."""
    app.before_request(lambda: abort(status))
    reply = app.test_client().post(path, headers={"Origin": LISTED})
    assert reply.status_code == status
    assert reply.headers.getlist("Access-Control-Allow-Origin") == [LISTED]


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]
)
@pytest.mark.parametrize("path", ["/auth/exchange/", "/auth/token"])
def test_a_form_on_another_site_gets_nothing(
    app: Flask, sandbox: Sandbox, path: str, content_type: str
) -> None:
    """A form needs no preflight, whatever it is sent to."""
    headers = {
        "Origin": "https://evil.example",
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
    }
    data = b"username=alice&password=alice-password"
    reply = app.test_client().post(path, headers=headers, data=data, content_type=content_type)
    assert reply.status_code == 403
    assert "access_token" not in reply.text
    assert not sandbox.calls


@pytest.mark.parametrize(("mishap", "status"), [("fail", 500), ("throttle", 429)])
def test_cors_headers_on_upstreams_errors(
    app: Flask, sandbox: Sandbox, mishap: str, status: int
) -> None:
    """The same where bakrypt is the cause."""
    setattr(sandbox, mishap, 503)
    reply = app.test_client().post("/auth/exchange/", headers={"Origin": LISTED})
    assert reply.status_code == status
    assert reply.headers["Access-Control-Allow-Origin"] == LISTED


def test_the_hosts_own_cors_does_not_open_these_routes(app: Flask) -> None:
    """A host that says `*` for itself says nothing for the tokens."""
    CORS(app, origins="*")
    app.config["CORS_ALLOW_HEADERS"] = "x-nothing"
    client = app.test_client()
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    reply = client.options("/auth/token/", headers={"Origin": LISTED, **preflight})
    assert reply.headers["Access-Control-Allow-Headers"] == "content-type"
    assert (
        cors_headers(client.post("/auth/exchange/", headers={"Origin": "https://evil.example"}))
        == {}
    )
    assert cors_headers(client.post("/auth/exchange/")) == {}
    reply = client.post("/auth/token/", headers={"Origin": LISTED})
    assert reply.headers.getlist("Access-Control-Allow-Origin") == [LISTED]


def test_closed_by_default(sandbox: Sandbox) -> None:
    """A five-line app gives the account's token to nobody, and says both ways out."""
    app = Flask("host")
    app.config.from_mapping(sandbox.environ)
    app.register_blueprint(create_blueprint())
    reply = app.test_client().post("/auth/exchange/")
    assert reply.status_code == 403
    assert reply.json is not None
    assert reply.json["error"] == "access_denied"
    assert "authorize=" in reply.json["error_description"]
    assert "BAKRYPT_EXCHANGE_PUBLIC=true" in reply.json["error_description"]
    assert not sandbox.calls


def test_public(sandbox: Sandbox) -> None:
    """The setting opens it to everybody."""
    app = create_app({**sandbox.environ, "BAKRYPT_EXCHANGE_PUBLIC": "true"}, authorize=None)
    assert app.test_client().post("/auth/exchange/").status_code == 200


@pytest.mark.parametrize(
    ("answer", "status"),
    [(True, 200), (False, 403), (None, 403)],
)
@pytest.mark.parametrize("public", ["true", "false"])
def test_authorize(sandbox: Sandbox, public: str, answer: object, status: int) -> None:
    """It is asked in each request, and decides even where the setting is left open."""
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
    reply = app.test_client().post("/auth/exchange/")
    assert (reply.status_code, reply.get_json()["error"]) == (500, "server_error")
    assert "authorize must return true, false or None" in caplog.text
    assert not sandbox.calls


async def never_awaited() -> bool:
    """A guard for another kind of framework."""
    return False


@pytest.mark.parametrize("authorize", [True, "yes", never_awaited])
def test_a_guard_that_is_no_function(sandbox: Sandbox, authorize: Any) -> None:
    """Said at registration and not at the first request."""
    with pytest.raises(TypeError, match="authorize must be a function"):
        create_app(sandbox.environ, authorize=authorize)


def test_a_refused_page_is_named_in_the_log(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """The page itself sees no more than a network error, at the preflight or after it."""
    client = app.test_client()
    for send in (client.options, client.post):
        caplog.clear()
        assert (
            send("/auth/token/", headers={"Origin": "https://shop.example.org"}).status_code == 403
        )
        assert "Origin 'https://shop.example.org'" in caplog.text
        assert "BAKRYPT_ALLOWED_ORIGINS" in caplog.text


def test_authorize_sees_the_request(sandbox: Sandbox) -> None:
    """Sessions, headers and the like are at hand."""
    app = create_app(sandbox.environ, authorize=lambda: request.headers.get("X-Key") == "right")
    client = app.test_client()
    assert client.post("/auth/exchange/", headers={"X-Key": "right"}).status_code == 200
    assert client.post("/auth/exchange/").status_code == 403


def test_token_needs_no_authorization(sandbox: Sandbox) -> None:
    """Who has a user's password needs no leave of the app's."""
    app = create_app(sandbox.environ, authorize=lambda: False)
    grant = {"username": "alice", "password": "alice-password"}
    assert app.test_client().post("/auth/token/", data=grant).status_code == 200


def test_the_mark_of_flask_cors_is_still_its_own() -> None:
    """The app's own flask-cors leaves a response alone that has this mark."""
    from flask_cors.core import FLASK_CORS_EVALUATED  # noqa: PLC0415

    from bakrypt_proxy.web.cors import EVALUATED  # noqa: PLC0415

    assert EVALUATED == FLASK_CORS_EVALUATED
