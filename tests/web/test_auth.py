"""The HTTP contract of the two routes, as a caller sees it."""

import io
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote

import click
import pytest
import requests
from conftest import create_app, serve
from flask import Blueprint, Flask, Response, abort, redirect, request
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from misbehaving import TOKEN_REPLY, Upstream, replying

from bakrypt_proxy import BakryptClient, Settings, SettingsError, create_blueprint
from bakrypt_proxy.sandbox import Sandbox

ALICE = {"username": "alice", "password": "alice-password"}
BOTH_ROUTES = pytest.mark.parametrize(
    "path", ["/auth/exchange/", "/auth/exchange", "/auth/token/", "/auth/token"]
)


def assert_error(response: Any, status: int, error: str, description: str | None = None) -> None:
    """Check the status and body of an error, and the headers of every response."""
    assert response.status_code == status
    assert response.content_type == "application/json"
    body = json.loads(response.data)
    assert body["error"] == error
    assert set(body) <= {"error", "error_description"}
    if description is not None:
        assert description in body["error_description"]
    assert_not_cached(response)


def assert_not_cached(response: Any) -> None:
    """Check the headers that RFC 6749 section 5.1 demands."""
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Pragma"] == "no-cache"


@pytest.mark.parametrize("path", ["/auth/exchange/", "/auth/exchange"])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"json": {}},
        {"json": {"rejected_token": "x"}},
        {"data": b"", "content_type": "application/json"},
    ],
)
def test_exchange(client: FlaskClient, path: str, body: dict[str, Any]) -> None:
    """Both spellings answer directly, without a body or with a rejected token."""
    response = client.post(path, **body)
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.json is not None
    assert set(response.json) == {"access_token", "expires_in", "token_type", "scope"}
    assert_not_cached(response)


@pytest.mark.parametrize("path", ["/auth/token/", "/auth/token"])
@pytest.mark.parametrize("grant", [{}, {"grant_type": "password"}])
@pytest.mark.parametrize("kind", ["json", "form", "multipart"])
def test_password(client: FlaskClient, path: str, grant: dict[str, str], kind: str) -> None:
    """A JSON object, a form and a browser's FormData work, with and without a grant type."""
    content_type = {"json": None, "form": None, "multipart": "multipart/form-data"}[kind]
    body: dict[str, Any] = {"json": ALICE | grant} if kind == "json" else {"data": ALICE | grant}
    response = client.post(path, content_type=content_type, **body)
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["token_type"] == "Bearer"
    assert_not_cached(response)


@pytest.mark.parametrize("kind", ["json", "data"])
def test_refresh(client: FlaskClient, sandbox: Sandbox, kind: str) -> None:
    """A refresh returns a new pair of tokens and revokes the old access token."""
    old = client.post("/auth/token/", json=ALICE).get_json()
    body: Any = {"grant_type": "refresh_token", "refresh_token": old["refresh_token"]}
    new = client.post("/auth/token/", **{kind: body}).get_json()
    assert sandbox.store.owner(new["access_token"]) == "alice"
    assert sandbox.store.owner(old["access_token"]) is None


@pytest.mark.parametrize("kind", ["json", "data"])
@pytest.mark.parametrize("text", ["a b", "a&b=c", "a+b", "100%", "é", "密码", "🔑", " padded "])
def test_text_reaches_bakrypt_unchanged(upstream: Upstream, kind: str, text: str) -> None:
    """Any text in JSON or a form arrives unchanged in bakrypt's form."""
    body: Any = {"username": text, "password": text}
    create_app(upstream.environ).test_client().post("/auth/token/", **{kind: body})
    assert upstream.requests[0].form["username"] == upstream.requests[0].form["password"] == [text]


def test_unknown_members_pass_through(upstream: Upstream) -> None:
    """Unknown members reach the caller from bakrypt, but not bakrypt from the caller."""
    upstream.behave = replying(200, TOKEN_REPLY | {"id_token": "x"})
    response = (
        create_app(upstream.environ).test_client().post("/auth/token/", json=ALICE | {"role": "x"})
    )
    assert response.json == TOKEN_REPLY | {"id_token": "x"}
    assert "role" not in upstream.requests[0].form


@pytest.mark.parametrize(
    "grant", [ALICE, {"grant_type": "refresh_token", "refresh_token": "a-refresh-token"}]
)
@pytest.mark.parametrize("kind", ["json", "data"])
def test_the_scope_goes_upstream(upstream: Upstream, grant: dict[str, str], kind: str) -> None:
    """Without it the wider token would come back."""
    client = create_app(upstream.environ).test_client()
    assert client.post("/auth/token/", **{kind: grant | {"scope": "read"}}).status_code == 200
    assert upstream.requests[0].form["scope"] == ["read"]
    client.post("/auth/token/", **{kind: grant})
    assert "scope" not in upstream.requests[1].form


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("token", {}, "username is missing"),
    ("token", {"json": {}}, "username is missing"),
    ("token", {"json": {"username": "a"}}, "password is missing"),
    ("token", {"data": {"password": "a"}}, "username is missing"),
    ("token", {"json": {"username": "", "password": "a"}}, "username is missing"),
    ("token", {"data": {"username": "a", "password": ""}}, "password is missing"),
    ("token", {"json": {"username": 1, "password": "a"}}, "username must be a string"),
    ("token", {"json": {"username": None, "password": "a"}}, "username is missing"),
    ("token", {"json": None}, "username is missing"),
    (
        "token",
        {"json": {"grant_type": "refresh_token", "refresh_token": None}},
        "refresh_token is missing",
    ),
    ("token", {"json": ALICE | {"scope": ["read"]}}, "scope must be"),
    ("token", {"json": {"username": ["a"], "password": "a"}}, "username must be"),
    ("token", {"json": ALICE | {"grant_type": False}}, "grant_type must be"),
    ("token", {"json": ALICE | {"grant_type": []}}, "grant_type must be"),
    ("token", {"json": [ALICE]}, "must be a JSON object"),
    ("token", {"json": "alice"}, "must be a JSON object"),
    ("token", {"json": {"grant_type": "refresh_token"}}, "refresh_token is missing"),
    ("token", {"json": {"username": "a\ud800", "password": "b"}}, "username is not valid Unicode"),
    ("token", {"data": b"{", "content_type": "application/json"}, "not valid JSON"),
    ("token", {"data": b"\xff", "content_type": "application/json"}, "not valid JSON"),
    ("token", {"data": b"[" * 60_000, "content_type": "application/json"}, "not valid JSON"),
    ("token", {"data": b"9" * 60_000, "content_type": "application/json"}, "not valid JSON"),
    (
        "token",
        {"data": b'{"username":"a","username":"a"}', "content_type": "application/json"},
        "username is given more than once",
    ),
    (
        "token",
        {
            "data": b"username=a&username=b&password=c",
            "content_type": "application/x-www-form-urlencoded",
        },
        "",
    ),
    (
        "token",
        {"data": b"username=%FF&password=c", "content_type": "application/x-www-form-urlencoded"},
        "UTF-8",
    ),
    (
        "token",
        {"data": b"a&" * 200, "content_type": "application/x-www-form-urlencoded"},
        "not a valid form",
    ),
    (
        "token",
        {"data": b"username=a&password=b", "content_type": "text/plain"},
        "send JSON with Content-Type",
    ),
    ("token", {"data": b"\x00"}, "send JSON with Content-Type"),
    ("exchange", {"json": {"rejected_token": 1}}, "rejected_token must be"),
    ("exchange", {"json": {"rejected_token": {}}}, "rejected_token must be"),
    (
        "token",
        {
            "data": b' {"username": "a", "password": "b"}',
            "content_type": "application/x-www-form-urlencoded",
        },
        "looks like JSON: send JSON with Content-Type: application/json",
    ),
    ("exchange", {"data": b"nonsense", "content_type": "application/json"}, "not valid JSON"),
    ("exchange", {"data": b"nonsense"}, "send JSON with Content-Type"),
    (
        "exchange",
        {"data": b"--x\r\nnonsense\r\n--x--", "content_type": "multipart/form-data; boundary=x"},
        "form",
    ),
    ("exchange", {"data": {"file": (io.BytesIO(b"x"), "a.txt")}}, "form"),
]


@pytest.mark.parametrize(("route", "body", "description"), MALFORMED)
def test_malformed_requests(
    client: FlaskClient, sandbox: Sandbox, route: str, body: dict[str, Any], description: str
) -> None:
    """A mistake of the caller is a 400, and bakrypt gets no request."""
    assert_error(client.post(f"/auth/{route}/", **body), 400, "invalid_request", description)
    assert not sandbox.calls


LEFT_OUT: list[tuple[str, dict[str, Any]]] = [
    ("exchange", {"json": {"rejected_token": None}}),
    ("exchange", {"json": {"rejected_token": ""}}),
    ("exchange", {"data": b"null", "content_type": "application/json"}),
    ("exchange", {"data": b" null\n", "content_type": "application/json"}),
    ("exchange", {"data": {"rejected_token": ""}}),
    ("token", {"json": ALICE | {"grant_type": None}}),
    ("token", {"json": ALICE | {"grant_type": ""}}),
    ("token", {"data": ALICE | {"grant_type": ""}}),
    ("token", {"json": ALICE | {"refresh_token": None, "scope": None, "rejected_token": None}}),
    ("token", {"data": ALICE | {"scope": ""}}),
]


@pytest.mark.parametrize(("route", "body"), LEFT_OUT)
def test_what_is_empty_or_null_is_left_out(
    client: FlaskClient, route: str, body: dict[str, Any]
) -> None:
    """RFC 6749 section 3.2; pydantic, the JDK and others send it for "not given"."""
    assert client.post(f"/auth/{route}/", **body).status_code == 200


FORM = "application/x-www-form-urlencoded"
SOUND: list[tuple[bytes, str]] = [
    (b"username=alice&password=alice-password&resource=a&resource=b", FORM),
    (b'{"username":"alice","password":"alice-password","x":1,"x":2}', "application/json"),
    (b'\xef\xbb\xbf{"username":"alice","password":"alice-password"}', "application/json"),
    (b'{"username":"alice","password":"alice-password"}', "text/json"),
    (b'{"username":"alice","password":"alice-password"}', "application/vnd.x+json; charset=x"),
]


@pytest.mark.parametrize(("body", "kind"), SOUND)
def test_unusual_but_sound_requests(client: FlaskClient, body: bytes, kind: str) -> None:
    """Unknown members may be given twice (RFC 8707), a BOM is skipped."""
    assert client.post("/auth/token/", data=body, content_type=kind).status_code == 200


@pytest.mark.parametrize("password", [b"%25FF", b"%25", b"%25E4%25", b"a%25b"])
@pytest.mark.parametrize("host_reads", [True, False])
def test_a_percent_sign_in_a_password(
    upstream: Upstream, password: bytes, host_reads: bool
) -> None:
    """It arrives as the caller wrote it, also where the host has read the form before."""
    app = create_app(upstream.environ)
    if host_reads:
        app.before_request(lambda: request.form.get("csrf_token") and None)
    body = b"username=alice&password=" + password
    app.test_client().post("/auth/token/", data=body, content_type=FORM)
    assert upstream.requests[0].form["password"] == [unquote(password.decode())]


@pytest.mark.parametrize("bad", [b"%FF", b"%E4", b"%C3", b"\xff"])
def test_a_form_that_is_not_utf_8_where_the_host_has_read_it(
    upstream: Upstream, bad: bytes
) -> None:
    """400, as without the host."""
    app = create_app(upstream.environ)
    app.before_request(lambda: request.form.get("csrf_token") and None)
    body = b"password=a&username=" + bad
    reply = app.test_client().post("/auth/token/", data=body, content_type=FORM)
    assert_error(reply, 400, "invalid_request", "UTF-8")
    assert not upstream.requests


@pytest.mark.parametrize("host_reads", [False, True])
@pytest.mark.parametrize("is_terminated", [False, True])
def test_a_form_that_is_cut_short(
    upstream: Upstream, is_terminated: bool, host_reads: bool
) -> None:
    """The caller left in the middle of the password. Some servers just end the input there."""
    app = create_app(upstream.environ)
    if host_reads:
        app.before_request(lambda: request.form.get("csrf_token") and None)
    reply = app.test_client().post(
        "/auth/token/",
        data=b"username=alice&password=alice-pass",
        content_type=FORM,
        environ_overrides={"CONTENT_LENGTH": "38", "wsgi.input_terminated": is_terminated},
    )
    assert_error(reply, 400, "invalid_request")
    assert not upstream.requests


@pytest.mark.parametrize("path", ["/auth//exchange/", "/auth//exchange", "//auth/exchange/"])
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
def test_two_slashes_are_another_path(client: FlaskClient, path: str, method: str) -> None:
    """404 and no redirect, on which a browser's preflight would die."""
    assert client.open(path, method=method, base_url="http://localhost").status_code == 404


@pytest.mark.parametrize(
    "grant_type", ["client_credentials", "authorization_code", "Password", "\x00"]
)
def test_unsupported_grants(client: FlaskClient, grant_type: str) -> None:
    """Any other grant type is `unsupported_grant_type`."""
    assert_error(
        client.post("/auth/token/", json={"grant_type": grant_type}), 400, "unsupported_grant_type"
    )


@BOTH_ROUTES
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "FOO"]
)
def test_other_methods(client: FlaskClient, path: str, method: str) -> None:
    """Every method but POST gets our 405, also one that Flask does not know."""
    response = client.open(path, method=method)
    assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    if method == "HEAD":
        assert response.status_code == 405
    else:
        assert_error(response, 405, "invalid_request")


@BOTH_ROUTES
def test_a_large_body(client: FlaskClient, path: str) -> None:
    """A body above 64 KiB gets a 413."""
    response = client.post(path, data=b" " * 70_000, content_type="application/json")
    assert_error(response, 413, "invalid_request")


def test_a_large_body_of_unknown_length(app: Flask) -> None:
    """A chunked body is refused as soon as it exceeds the limit."""
    with serve(app) as url:
        response = requests.post(
            f"{url}/auth/token/",
            data=iter([b" " * 40_000] * 2),
            headers={"Content-Type": "application/json"},
            timeout=5,
        )
    assert response.status_code == 413
    assert response.json()["error"] == "invalid_request"


def test_a_smaller_limit_of_the_host_stays(sandbox: Sandbox) -> None:
    """The blueprint does not raise a smaller limit of the host."""
    app = create_app({**sandbox.environ, "MAX_CONTENT_LENGTH": 10})
    assert_error(app.test_client().post("/auth/token/", json=ALICE), 413, "invalid_request")


REFUSALS: list[tuple[str, int, Any, tuple[str, ...], int, dict[str, str]]] = [
    # route; status, body and headers from upstream; status and body for the caller
    (
        "token",
        400,
        {"error": "invalid_grant", "error_description": "Invalid credentials given."},
        (),
        400,
        {"error": "invalid_grant", "error_description": "Invalid credentials given."},
    ),
    ("token", 401, {"error": "invalid_grant"}, (), 401, {"error": "invalid_grant"}),
    (
        "token",
        400,
        {"error": "invalid_grant", "error_uri": "x"},
        (),
        400,
        {"error": "invalid_grant"},
    ),
    (
        "token",
        400,
        {"error": "invalid_grant", "error_description": 7},
        (),
        400,
        {"error": "invalid_grant"},
    ),
    (
        "token",
        400,
        {"detail": "Bad."},
        (),
        400,
        {"error": "invalid_request", "error_description": "Bad."},
    ),
    (
        "token",
        401,
        {"detail": "No."},
        (),
        401,
        {"error": "invalid_grant", "error_description": "No."},
    ),
    (
        "token",
        403,
        {"detail": "No."},
        (),
        403,
        {"error": "access_denied", "error_description": "No."},
    ),
    (
        "token",
        404,
        {"detail": "No."},
        (),
        404,
        {"error": "invalid_request", "error_description": "No."},
    ),
    ("token", 400, {"username": ["Required."]}, (), 400, {"error": "invalid_request"}),
    (
        "token",
        429,
        {"detail": "Request was throttled."},
        ("Retry-After: 7",),
        429,
        {"error": "too_many_requests", "error_description": "Request was throttled."},
    ),
    ("token", 429, b"<h1>Slow down</h1>", ("Retry-After: 7",), 429, {"error": "too_many_requests"}),
    (
        "exchange",
        429,
        {"detail": "Slow."},
        ("Retry-After: 7",),
        429,
        {"error": "too_many_requests"},
    ),
]
OUR_FAULTS: list[tuple[str, int, Any]] = [
    ("exchange", 401, b""),
    ("exchange", 403, b"<h1>Forbidden</h1>"),
    ("exchange", 401, {"detail": "Invalid token."}),
    ("exchange", 403, {"detail": "Invalid token."}),
    ("token", 401, {"error": "invalid_client"}),
    ("token", 400, {"error": "unauthorized_client"}),
]


@pytest.mark.parametrize(
    ("route", "status", "body", "headers", "expected_status", "expected"), REFUSALS
)
def test_refusals_of_what_the_caller_sent(
    upstream: Upstream,
    route: str,
    status: int,
    body: Any,
    headers: tuple[str, ...],
    expected_status: int,
    expected: dict[str, str],
) -> None:
    """The caller gets bakrypt's own status and description."""
    upstream.behave = replying(status, body, *headers)
    response = create_app(upstream.environ).test_client().post(f"/auth/{route}/", json=ALICE)
    assert_error(response, expected_status, expected["error"])
    assert response.json is not None
    assert expected.items() <= response.json.items()
    assert response.headers.get("Retry-After") == ("7" if headers else None)


DATE = "Wed, 21 Oct 2037 07:28:00 GMT"


@pytest.mark.parametrize(
    "value",
    ["soon", "-1", "1.5", "", "٣", "9" * 41, f"{DATE} é", f"{DATE}\x85", f"{DATE}{'x' * 20}"],
)
def test_an_invalid_retry_after_is_dropped(upstream: Upstream, value: str) -> None:
    """RFC 9110 section 10.2.3 allows only seconds or a date."""
    upstream.behave = lambda up, connection, received: connection.sendall(
        f"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nRetry-After: {value}\r\n\r\n".encode()
    )
    response = create_app(upstream.environ).test_client().post("/auth/token/", json=ALICE)
    assert_error(response, 429, "too_many_requests")
    assert "Retry-After" not in response.headers


@pytest.mark.parametrize(("route", "status", "body"), OUR_FAULTS)
def test_refusals_of_our_credentials(
    upstream: Upstream, route: str, status: int, body: Any
) -> None:
    """They are a 500, because a page would answer a 401 with a new sign-in of its user."""
    upstream.behave = replying(status, body, 'WWW-Authenticate: Bearer error="invalid_client"')
    response = create_app(upstream.environ).test_client().post(f"/auth/{route}/", json=ALICE)
    assert_error(response, 500, "server_error", "bakrypt refused this server's credentials")
    assert "WWW-Authenticate" not in response.headers


@pytest.mark.parametrize("status", [400, 404, 405, 415])
def test_a_refused_exchange_is_our_fault(upstream: Upstream, status: int) -> None:
    """The caller of an exchange sends nothing that bakrypt could refuse."""
    upstream.behave = replying(status, {"detail": "Not found."})
    response = create_app(upstream.environ).test_client().post("/auth/exchange/")
    assert_error(response, 500, "server_error", f"status {status}")


@pytest.mark.parametrize(
    ("route", "setting"),
    [("exchange", "BAKRYPT_TOKEN"), ("token", "BAKRYPT_CLIENT_ID")],
    ids=["exchange", "token"],
)
def test_missing_credentials_name_the_setting(route: str, setting: str) -> None:
    """The error tells the developer which setting to set."""
    response = create_app({}).test_client().post(f"/auth/{route}/", json=ALICE)
    assert_error(response, 500, "server_error", setting)


def test_wrong_settings_stop_the_registration() -> None:
    """Registration raises the same error everywhere, also inside another click tool."""
    with pytest.raises(SettingsError, match="BAKRYPT_TIMEOUT"):
        create_app({"BAKRYPT_TIMEOUT": "x"})
    with click.Context(click.Command("celery")), pytest.raises(SettingsError):
        create_app({"BAKRYPT_TIMEOUT": "x"})


def test_settings_come_from_config_then_environment(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read once, when the blueprint is registered."""
    monkeypatch.setenv("BAKRYPT_URL", sandbox.url)
    monkeypatch.setenv("BAKRYPT_TOKEN", "wrong")
    app = create_app({"BAKRYPT_TOKEN": sandbox.environ["BAKRYPT_TOKEN"]})
    app.config["BAKRYPT_TOKEN"] = "changed"
    monkeypatch.setenv("BAKRYPT_URL", "https://bakrypt.invalid")
    assert app.test_client().post("/auth/exchange/").status_code == 200


def test_two_networks_in_one_app(upstream: Upstream) -> None:
    """Each blueprint calls its own upstream with its own credentials."""
    with Upstream() as other:
        app = Flask("host")
        for name, source in (("mainnet", upstream), ("testnet", other)):
            settings = Settings.from_mapping(source.environ | {"BAKRYPT_TOKEN": f"{name}-secret"})
            blueprint = create_blueprint(name=name, settings=settings, authorize=lambda: True)
            app.register_blueprint(blueprint, url_prefix=f"/{name}")
        client = app.test_client()
        assert client.post("/mainnet/exchange/").status_code == 200
        assert client.post("/testnet/exchange").status_code == 200
        assert [r.headers["authorization"] for r in upstream.requests] == ["Token mainnet-secret"]
        assert [r.headers["authorization"] for r in other.requests] == ["Token testnet-secret"]
        assert client.post("/auth/exchange/").status_code == 404


def test_one_blueprint_in_two_apps(upstream: Upstream) -> None:
    """The second app does not inherit the settings of the first one."""
    blueprint = create_blueprint(authorize=lambda: True)
    apps = [Flask("first"), Flask("second")]
    for app, secret in zip(apps, ("first-secret", "second-secret"), strict=True):
        app.config.from_mapping(upstream.environ, BAKRYPT_TOKEN=secret)
        app.register_blueprint(blueprint)
    for app in apps:
        app.test_client().post("/auth/exchange/")
    assert [r.headers["authorization"] for r in upstream.requests] == [
        "Token first-secret",
        "Token second-secret",
    ]


@pytest.mark.parametrize("strict_slashes", [True, False])
def test_nested_under_a_parent(sandbox: Sandbox, strict_slashes: bool) -> None:
    """The prefixes are joined, and the parent's hooks run first."""
    app = Flask("host")
    app.config.from_mapping(sandbox.environ)
    app.url_map.strict_slashes = strict_slashes
    api = Blueprint("api", __name__, url_prefix="/api")
    seen: list[str | None] = []
    api.before_request(lambda: seen.append(request.endpoint))
    api.register_blueprint(create_blueprint(authorize=lambda: True), url_prefix="/bakrypt")
    app.register_blueprint(api)
    client = app.test_client()
    assert client.post("/api/bakrypt/exchange").status_code == 200
    assert client.post("/api/bakrypt/token/", json=ALICE).status_code == 200
    assert_error(client.get("/api/bakrypt/token"), 405, "invalid_request")
    assert seen == ["api.bakrypt.exchange", "api.bakrypt.token", "api.bakrypt.token"]


def test_a_client_that_the_host_passes_in(bakrypt: BakryptClient) -> None:
    """The client's settings become the blueprint's settings."""
    app = create_app({}, client=bakrypt)
    assert app.test_client().post("/auth/exchange/").status_code == 200


def test_the_hosts_other_routes_are_unchanged(app: Flask) -> None:
    """Their errors, methods and headers stay as they are."""
    app.add_url_rule("/hello", view_func=lambda: "hello")
    client = app.test_client()
    response = client.get("/hello")
    assert response.data == b"hello"
    assert "Cache-Control" not in response.headers
    assert "Vary" not in response.headers
    assert client.post("/hello").content_type == "text/html; charset=utf-8"
    assert client.get("/auth/nothing").content_type == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "invalid_request"),
        (401, "access_denied"),
        (403, "access_denied"),
        (429, "too_many_requests"),
        (503, "server_error"),
    ],
)
def test_errors_of_the_host_get_the_contracts_body(app: Flask, status: int, error: str) -> None:
    """A 429 of a limiter or a 401 of a login has the same form as our errors."""
    app.before_request(lambda: abort(status))
    assert_error(app.test_client().post("/auth/exchange/"), status, error)


@pytest.mark.parametrize("code", [400, 405, 413, 500, Exception])
def test_error_pages_of_the_host_are_for_its_own_routes(sandbox: Sandbox, code: Any) -> None:
    """A script never gets an HTML error page of the host."""
    app = create_app(sandbox.environ, authorize=lambda: abort(500))
    app.register_error_handler(code, lambda error: ("<h1>host page</h1>", 500))
    client = app.test_client()
    assert_error(client.post("/auth/token/"), 400, "invalid_request")
    assert_error(client.get("/auth/token/"), 405, "invalid_request")
    assert_error(client.post("/auth/token/", data=b"x" * 70_000), 413, "invalid_request")
    assert_error(client.post("/auth/exchange/"), 500, "server_error")


def test_a_description_that_is_not_a_string(app: Flask) -> None:
    """Translated descriptions are objects, and some extensions pass dicts."""
    app.before_request(lambda: abort(400, {"field": "wrong"}))
    assert_error(app.test_client().post("/auth/token/"), 400, "invalid_request", "field")


def test_routes_that_the_host_adds_to_the_blueprint(sandbox: Sandbox) -> None:
    """The host's own routes and child blueprints work without our checks."""
    blueprint = create_blueprint(authorize=lambda: True)
    child = Blueprint("child", __name__, url_prefix="/child")
    blueprint.add_url_rule("/me", view_func=lambda: "me")
    child.add_url_rule("/", view_func=lambda: "child")
    blueprint.register_blueprint(child)
    app = Flask("host")
    app.config.from_mapping(sandbox.environ)
    app.register_blueprint(blueprint)
    client = app.test_client()
    assert client.get("/auth/me").text == "me"
    assert client.get("/auth/child/", headers={"Origin": "https://evil.example"}).text == "child"
    assert client.post("/auth/exchange/").status_code == 200


def test_a_response_of_the_host_is_not_replaced(app: Flask) -> None:
    """A redirect to a login page is not an error of ours."""
    app.before_request(lambda: abort(redirect("/login")))
    response = app.test_client().post("/auth/exchange/")
    assert response.status_code == 302
    assert_not_cached(response)


def test_an_exception_in_authorize_is_a_logged_500(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets an error body and the developer gets the traceback."""
    app = create_app(sandbox.environ, authorize=lambda: 1 / 0)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert_error(app.test_client().post("/auth/exchange/"), 500, "server_error")
    assert "ZeroDivisionError" in caplog.text


def test_a_crash_where_the_host_has_a_handler_for_all(sandbox: Sandbox) -> None:
    """The handler sees the exception; the caller still gets the contract's body."""
    app = create_app(sandbox.environ, authorize=lambda: 1 / 0)
    seen: list[Exception] = []

    @app.errorhandler(Exception)
    def show(error: Exception) -> ResponseReturnValue:
        seen.append(error)
        return "<h1>Sorry</h1>", 500

    reply = app.test_client().post("/auth/exchange/", headers={"Origin": "http://localhost"})
    assert_error(reply, 500, "server_error")
    assert "Sorry" not in reply.text
    assert [type(error) for error in seen] == [ZeroDivisionError]


@pytest.mark.parametrize("status", [400, 404, 418, 500, 599])
def test_an_error_page_of_the_hosts_handler(sandbox: Sandbox, status: int) -> None:
    """Whatever its status, streamed or not."""
    app = create_app(sandbox.environ, authorize=lambda: 1 / 0)
    app.register_error_handler(
        ZeroDivisionError, lambda _: Response((part for part in "<html>"), status)
    )
    error = "server_error" if status >= 500 else "invalid_request"
    assert_error(app.test_client().post("/auth/exchange/"), status, error)


def test_an_error_response_of_the_host_is_kept(sandbox: Sandbox) -> None:
    """One that has the contract's body already."""
    app = create_app(sandbox.environ, authorize=lambda: 1 / 0)
    app.register_error_handler(ZeroDivisionError, lambda _: ({"error": "own", "x": 1}, 409))
    reply = app.test_client().post("/auth/exchange/")
    assert (reply.status_code, reply.json) == (409, {"error": "own", "x": 1})


def test_a_form_that_the_host_has_read_already(app: Flask) -> None:
    """A CSRF check may read the form before the view does."""
    app.before_request(lambda: request.form.get("csrf_token") and None)
    client = app.test_client()
    assert client.post("/auth/token/", data=ALICE).status_code == 200
    assert_error(
        client.post("/auth/token/", data=ALICE | {"x": "x" * 70_000}), 413, "invalid_request"
    )


def test_a_multipart_form_that_is_not_utf_8(client: FlaskClient) -> None:
    """The form is refused, because werkzeug would replace characters of the password."""
    body = b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\n\xff\r\n--b--\r\n'
    response = client.post(
        "/auth/token/", data=body, content_type="multipart/form-data; boundary=b"
    )
    assert_error(response, 400, "invalid_request", "UTF-8")


def test_over_a_real_socket(app: Flask) -> None:
    """The contract holds on a real socket, for a caller that uses only urllib."""
    with serve(app) as url:
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/auth/exchange", method="POST")
        ) as response:
            assert json.load(response)["token_type"] == "Bearer"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}/auth/token", data=b"username=alice&password=wrong")
        with caught.value:
            assert caught.value.code == 400
            assert json.load(caught.value)["error"] == "invalid_grant"


def test_tools_see_the_methods_of_the_routes(app: Flask) -> None:
    """`flask routes` and similar tools list POST and OPTIONS."""
    rules = {rule.endpoint: rule.methods for rule in app.url_map.iter_rules() if rule.methods}
    assert rules["bakrypt.exchange"] == rules["bakrypt.token"] == {"POST", "OPTIONS"}


def test_the_view_may_be_wrapped(app: Flask) -> None:
    """A limiter or login extension can replace a view by a wrapper."""
    view = app.view_functions["bakrypt.token"]

    def wrapped() -> ResponseReturnValue:
        return Response("wrapped", 418) if request.json == {} else app.ensure_sync(view)()

    app.view_functions["bakrypt.token"] = wrapped
    client = app.test_client()
    assert client.post("/auth/token/", json={}).status_code == 418
    assert client.post("/auth/token/", json=ALICE).status_code == 200
