"""Calls without a token in the page: the allow-list, what goes up, what comes down."""

import json
import tracemalloc
from io import BytesIO
from typing import Any
from uuid import uuid4

import pytest
from conftest import create_app as create_auth_app
from flask import Flask, g, request
from flask.testing import FlaskClient
from misbehaving import TOKEN_REPLY, Behaviour, Received, Upstream, replying
from werkzeug.local import LocalProxy

from bakrypt_proxy import (
    BakryptClient,
    Settings,
    SettingsError,
    create_api_blueprint,
)
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.upstream.masking import Masked

TRANSACTION = "3f8a2b6e-9c1d-4e5f-8a7b-0123456789ab"
JSON = {"Content-Type": "application/json"}
MADE = [{"name": "A", "uuid": str(uuid4()), "transaction": TRANSACTION}]
FILE = {"uuid": str(uuid4()), "ipfs": "ipfs://Qm"}


def create_app(config: Any, **arguments: Any) -> Flask:
    """A host app with the API's blueprint."""
    app = Flask("host")
    app.config.from_mapping(config)
    arguments.setdefault("authorize", lambda: True)
    app.register_blueprint(create_api_blueprint(**arguments))
    return app


class Api:
    """A bakrypt whose API answers as a test says, and which counts its tokens."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.answer: Behaviour = replying(201, MADE)
        self.tokens = 0
        upstream.behave = self._behave

    def _behave(self, upstream: Upstream, connection: Any, received: Received) -> None:
        if received.line.startswith("POST /auth/exchange/"):
            self.tokens += 1
            token = TOKEN_REPLY | {"access_token": f"token-{self.tokens}"}
            replying(200, token)(upstream, connection, received)
        else:
            self.answer(upstream, connection, received)

    @property
    def calls(self) -> list[Received]:
        """The calls to the API."""
        return [call for call in self.upstream.requests if "/auth/" not in call.line]


@pytest.fixture
def api(upstream: Upstream) -> Api:
    """The API of a bakrypt that misbehaves on request."""
    return Api(upstream)


@pytest.fixture
def client(api: Api) -> FlaskClient:
    """A visitor of an app in front of it, with all calls switched on."""
    config = {
        **api.upstream.environ,
        "BAKRYPT_API_CALLS": "files,assets,transactions,mint,refund",
    }
    return create_app(config).test_client()


def assert_error(response: Any, status: int, error: str, text: str = "") -> None:
    """An `ErrorResponse` of ours, in plain words."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json["error"] == error
    assert text in response.json.get("error_description", "")
    assert not set(response.text) & set("<>")


def make(client: FlaskClient) -> None:
    """Create an asset, for its receipt."""
    assert client.post("/bakrypt/v1/assets/", json=[{"name": "A"}]).status_code == 201


def test_a_visitor_makes_an_asset_and_follows_it(sandbox: Sandbox) -> None:
    """The whole way: a file, an asset, its transaction, and the list after a reload."""
    client = create_app(sandbox.environ).test_client()
    file = client.post("/bakrypt/v1/files/", data={"file": (b"x" * 3000, "a.png")})
    assert file.status_code in {201, 400}
    made = client.post("/bakrypt/v1/assets/", json=[{"name": "A"}])
    assert made.status_code == 201
    transaction = made.get_json()[0]["transaction"]
    seen = client.get(f"/bakrypt/v1/transactions/{transaction}/")
    assert seen.get_json()["deposit_address"].startswith("addr_")
    assert client.get("/bakrypt/receipts/").get_json() == {"transactions": [transaction]}
    assert sandbox.calls["/auth/exchange/"] == 1


def test_one_asset_comes_with_its_whole_transaction(api: Api, client: FlaskClient) -> None:
    """Bakrypt answers an object with an object."""
    api.answer = replying(
        201, MADE[0] | {"transaction": {"uuid": TRANSACTION, "status": "waiting"}}
    )
    assert client.post("/bakrypt/v1/assets/", json={"name": "A"}).status_code == 201
    assert client.get("/bakrypt/receipts/").get_json() == {"transactions": [TRANSACTION]}


def test_what_goes_up(api: Api, client: FlaskClient) -> None:
    """Our own headers and two of the caller's, and nothing else."""
    headers = {
        "Authorization": "Bearer of-the-page",
        "Cookie": "session=planted",
        "Accept": "text/html",
        "Accept-Language": "de",
        "Origin": "http://localhost",
        "Referer": "http://localhost/x",
        "X-Forwarded-For": "203.0.113.7",
        "X-HTTP-Method-Override": "DELETE",
        "X-CSRFToken": "planted",
        "Range": "bytes=0-1",
        "X-Request-ID": "mine",
    }
    client.post("/bakrypt/v1/assets/", json=[{"name": "A"}], headers=headers)
    (call,) = api.calls
    assert call.line == "POST /v1/assets/ HTTP/1.1"
    assert json.loads(call.body) == [{"name": "A"}]
    sent = {name: value for name, value in call.headers.items() if name != "host"}
    assert sent == {
        "authorization": "Bearer token-1",
        "accept": "application/json",
        "accept-encoding": "identity",
        "accept-language": "de",
        "user-agent": "bakrypt_proxy",
        "content-type": "application/json",
        "content-length": str(len(call.body)),
        "x-request-id": "mine",
    }


def test_what_comes_down(api: Api, client: FlaskClient) -> None:
    """Status, Retry-After and JSON; no cookie and no other header."""
    api.answer = replying(
        202, MADE, "Set-Cookie: a=b", "X-Secret: c", "Retry-After: 7", "Server: d"
    )
    response = client.post("/bakrypt/v1/assets/", json=[{"name": "A"}])
    assert (response.status_code, response.get_json()) == (202, MADE)
    assert set(response.headers.keys()) == {
        "Content-Type",
        "Content-Length",
        "Cache-Control",
        "Pragma",
        "Vary",
        "X-Request-ID",
        "X-Content-Type-Options",
        "Set-Cookie",
    }
    assert [name.startswith("bakrypt-") for name in response.headers.getlist("Set-Cookie")] == [
        True
    ]


BAD_SUCCESSES: dict[str, Behaviour] = {
    "html": replying(200, b"<html>", "Content-Type: text/html"),
    "nothing": replying(204, b""),
    "empty": replying(200, b""),
    "a text": replying(200, b'"x"'),
    "a number": replying(200, b"1"),
    "nan": replying(200, b'{"a": NaN}'),
    "infinity": replying(200, b'{"a": 1e999}'),
    "not utf-8": replying(200, b'{"a": "\xff"}'),
    "too large": replying(200, json.dumps({"a": "x" * 2**20}).encode()),
    "redirect": replying(302, b"", "Location: https://evil.example/"),
    "html refusal": replying(404, b"<html>", "Content-Type: text/html"),
    "broken": replying(500, b"<html>"),
}


@pytest.mark.parametrize("answer", BAD_SUCCESSES.values(), ids=BAD_SUCCESSES)
def test_what_is_no_json_never_comes_down(api: Api, client: FlaskClient, answer: Behaviour) -> None:
    """500, in our words."""
    api.answer = answer
    response = client.post("/bakrypt/v1/assets/", json=[{"name": "A"}])
    assert_error(response, 500, "server_error")
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        (400, {"name": ["This <b>x</b> is bad."]}, "invalid_request", "these fields: name"),
        (400, [{"name": ["Bad."]}, {"image": ["Bad."]}], "invalid_request", "image, name"),
        (400, {"<img src=x onerror=y>": ["Bad."]}, "invalid_request", "refuses this request"),
        (400, {"detail": "<img src=x>"}, "invalid_request", "refuses this request"),
        (400, {"detail": "The name Evil-Name is taken."}, "invalid_request", "refuses this"),
        (400, {"detail": "The balance is too low."}, "invalid_request", "The balance is too low."),
        (403, {"detail": "Not for you."}, "access_denied", "Not for you."),
        (404, {"detail": "Not found."}, "not_found", "Not found."),
        (413, b"<html>", "invalid_request", "too large"),
        (429, b"<html>", "too_many_requests", "try again later"),
        (400, {"error": "x", "error_description": "y"}, "invalid_request", "refuses this request"),
        (400, {"detail": "a\nb"}, "invalid_request", "refuses this request"),
        (400, {"detail": "x" * 1000}, "invalid_request", "refuses this request"),
        (400, {"detail": ["x"]}, "invalid_request", "detail"),
    ],
)
def test_errors_are_ours(
    api: Api, client: FlaskClient, status: int, body: Any, error: str, text: str
) -> None:
    """Bakrypt's status, plain words, and nothing that the caller sent."""
    api.answer = replying(status, body, "Retry-After: 7")
    response = client.post("/bakrypt/v1/assets/", json=[{"name": "Evil-Name"}])
    assert_error(response, status, error, text)
    assert response.headers["Retry-After"] == "7"
    assert "vil-Name" not in response.text


def test_an_error_that_quotes_a_name_without_its_spaces(api: Api, client: FlaskClient) -> None:
    """Django REST strips a text before it quotes it."""
    api.answer = replying(400, {"detail": "Evil Name is taken."})
    response = client.post("/bakrypt/v1/assets/", json=[{"image": "\n  Evil \t Name  "}])
    assert_error(response, 400, "invalid_request", "refuses this request")


def test_an_error_that_quotes_a_number(api: Api, client: FlaskClient) -> None:
    """It is the caller's, too."""
    api.answer = replying(400, {"detail": "4711 is too many."})
    response = client.post("/bakrypt/v1/assets/", json=[{"amount": 4711}])
    assert_error(response, 400, "invalid_request", "refuses this request")


@pytest.mark.parametrize("call", ["mint", "refund"])
def test_a_refusal_in_the_words_of_the_call(api: Api, client: FlaskClient, call: str) -> None:
    """The fixed parts of the path are not the caller's words. The uuid is."""
    make(client)
    path, text = f"/bakrypt/v1/transactions/{TRANSACTION}/{call}/", f"The {call} is under way."
    api.answer = replying(400, {"detail": text})
    assert_error(client.post(path), 400, "invalid_request", text)
    api.answer = replying(400, {"detail": f"{TRANSACTION.upper()} is rejected."})
    assert_error(client.post(path), 400, "invalid_request", "refuses this request")


@pytest.mark.parametrize("quote", [TRANSACTION.replace("-", ""), "tlh-Latn"])
def test_an_error_that_quotes_what_went_up_besides(
    api: Api, client: FlaskClient, quote: str
) -> None:
    """The uuid in its other spelling, and the language."""
    make(client)
    api.answer = replying(400, {"detail": f"There is no {quote} here."})
    response = client.get(
        f"/bakrypt/v1/transactions/{TRANSACTION}/", headers={"Accept-Language": "tlh-Latn"}
    )
    assert_error(response, 400, "invalid_request", "refuses this request")


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500])
def test_the_token_never_comes_down(api: Api, client: FlaskClient, status: int) -> None:
    """Whatever bakrypt says of it."""
    make(client)
    answer = {"detail": "The token token-1 of token-2 has no access.", "token": "token-1, token-2"}
    text = json.dumps(answer)
    for written in (text, text.replace("token-", "\\u0074oken-")):
        api.answer = replying(status, written.encode())
        response = client.get(f"/bakrypt/v1/transactions/{TRANSACTION}/")
        assert_error(response, 500, "server_error")
        assert "oken-" not in response.text


def test_a_token_in_a_member_that_is_given_twice(api: Api, client: FlaskClient) -> None:
    """Its first value comes down, too: bakrypt's text is handed on as it is."""
    make(client)
    api.answer = replying(200, b'{"a": "\\u0074oken-1", "a": 1}')
    assert_error(client.get(f"/bakrypt/v1/transactions/{TRANSACTION}/"), 500, "server_error")


def test_a_refusal_that_quotes_the_token(api: Api, client: FlaskClient) -> None:
    """Its text is not handed on, and the token is renewed as after any other 401."""
    make(client)

    def behave(upstream: Upstream, connection: Any, received: Received) -> None:
        token = received.headers["authorization"]
        answer = replying(200, {}) if token.endswith("-2") else replying(401, {"detail": token})
        answer(upstream, connection, received)

    api.answer = behave
    assert client.get(f"/bakrypt/v1/transactions/{TRANSACTION}/").status_code == 200
    assert api.tokens == 2


@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_a_deep_body(api: Api, client: FlaskClient, depth: int) -> None:
    """It goes up, or is refused; bakrypt's refusal of it comes down."""
    api.answer = replying(400, {"detail": "Not like that."})
    body = f'{{"a": {"[" * depth}{"]" * depth}}}'
    response = client.post("/bakrypt/v1/assets/", data=body, headers=JSON)
    assert_error(response, 400, "invalid_request")


class Unread(BytesIO):
    """A body that knows how often it was read."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read."""
        self.reads += 1
        return super().read(size)


@pytest.mark.parametrize(("protocol", "is_read"), [("HTTP/1.1", True), ("HTTP/2", False)])
def test_the_rest_of_a_body(client: FlaskClient, protocol: str, is_read: bool) -> None:
    """It is read after the response, but for HTTP/2, where no other request would suffer."""
    body = Unread(b"x" * 100)
    environ = {"SERVER_PROTOCOL": protocol, "wsgi.input_terminated": True, "wsgi.input": body}
    environ["CONTENT_LENGTH"] = "100"
    response = client.post("/bakrypt/v1/nothing/", environ_overrides=environ)
    response.close()
    assert response.status_code == 404
    assert bool(body.reads) is is_read


@pytest.mark.parametrize("other", [lambda: 7, lambda: g.staff])
def test_another_blueprints_visitor_that_fails_here(api: Api, other: Any) -> None:
    """It is not asked: it may need what only its own requests have."""
    app = create_app(api.upstream.environ)
    blueprint = create_api_blueprint(name="staff", authorize=lambda: True, visitor=other)
    app.register_blueprint(blueprint, url_prefix="/staff")
    client = app.test_client()
    make(client)
    assert client.get("/bakrypt/receipts/").get_json() == {"transactions": [TRANSACTION]}


def test_a_registration_that_failed(api: Api) -> None:
    """An app may go on without its second network."""
    app = Flask("host")
    app.config.from_mapping(api.upstream.environ)
    settings = Settings(url="https://bakrypt.io", client_id="c", client_secret="s")
    second = create_api_blueprint(name="second", settings=settings)
    with pytest.raises(SettingsError):
        app.register_blueprint(second, url_prefix="/second")
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    make(app.test_client())


@pytest.mark.parametrize("status", [407, 408, 421, 425, 426])
def test_what_is_said_of_a_connection(api: Api, client: FlaskClient, status: int) -> None:
    """Chromium sends a request again after a 408 or 421, be it a mint, and shows no page a 407."""
    make(client)
    api.answer = replying(status, {"detail": "no"})
    response = client.post(f"/bakrypt/v1/transactions/{TRANSACTION}/mint/")
    assert_error(response, 500, "server_error", f"status {status}")


def test_an_error_of_a_file_quotes_nothing(api: Api, client: FlaskClient) -> None:
    """What a file says is not known here, so no sentence of bakrypt's is handed on."""
    api.answer = replying(400, {"detail": "evil.png is bad", "file": ["evil.png"]})
    response = client.post("/bakrypt/v1/files/", data=b"x", content_type="image/png")
    assert_error(response, 400, "invalid_request", "these fields: file")
    assert "evil" not in response.text


BODIES: list[tuple[bytes, str, str]] = [
    (b'[{"name": "A", "uuid": "x"}]', "application/json", "an asset is new"),
    (b'[{"name": "A"}, {"transaction": null}]', "application/json", "an asset is new"),
    (b'{"name": "A", "name": "B"}', "application/json", "twice"),
    (b'{"a": {"b": 1, "b": 2}}', "application/json", "twice"),
    (b'{"a": NaN}', "application/json", "NaN"),
    (b'{"a": -Infinity}', "application/json", "NaN"),
    (b'{"a": 1e999}', "application/json", "out of range"),
    (b'{"a": "\\ud800"}', "application/json", "Unicode"),
    (b'{"a": "\xff"}', "application/json", "UTF-8"),
    (b"[1]", "application/json", "object"),
    (b'"x"', "application/json", "object"),
    (b"null", "application/json", "object"),
    (b"", "application/json", "not valid JSON"),
    (b"[" * 100_000, "application/json", "not valid JSON"),
    (b"name=A&uuid=x", "application/x-www-form-urlencoded", "application/json"),
    (b'{"name": "A"}', "text/plain", "application/json"),
    (b'{"name": "A"}', "application/vnd.x+json", "application/json"),
    (b'--x\r\n\r\n{"name": "A"}\r\n--x--', "multipart/form-data; boundary=x", "application/json"),
]


@pytest.mark.parametrize(("body", "kind", "text"), BODIES)
def test_an_assets_body_that_is_refused(
    api: Api, client: FlaskClient, body: bytes, kind: str, text: str
) -> None:
    """Nothing of it reaches bakrypt."""
    response = client.post("/bakrypt/v1/assets/", data=body, content_type=kind)
    assert_error(response, 400, "invalid_request", text)
    assert not api.calls


@pytest.mark.parametrize(
    ("body", "kind", "written"),
    [
        (
            b'[{"+AHUAdQBpAGQ-": "x"}]',
            "application/json; charset=utf-7",
            b'[{"+AHUAdQBpAGQ-": "x"}]',
        ),
        (b'\xef\xbb\xbf{"name":\n"\\u00e4"}', "application/json", '{"name": "ä"}'.encode()),
        (b'{"n": 10000000000000000000000}', "application/json", b'{"n": 10000000000000000000000}'),
        (b"[]", "application/json", b"[]"),
    ],
)
def test_bakrypt_gets_what_we_wrote(
    api: Api, client: FlaskClient, body: bytes, kind: str, written: bytes
) -> None:
    """UTF-8, whatever the caller says of the charset."""
    client.post("/bakrypt/v1/assets/", data=body, content_type=kind)
    (call,) = api.calls
    assert (call.body, call.headers["content-type"]) == (written, "application/json")


def test_the_memory_of_an_assets_call(api: Api, client: FlaskClient) -> None:
    """While bakrypt is waited for, only the body is kept, and not what was read from it."""
    body = json.dumps([{str(number): number for number in range(60_000)}]).encode()
    held: list[int] = []

    def measure(upstream: Upstream, connection: Any, received: Received) -> None:
        held.append(tracemalloc.get_traced_memory()[0])
        replying(201, MADE)(upstream, connection, received)

    make(client)
    api.answer = measure
    tracemalloc.start()
    client.post("/bakrypt/v1/assets/", data=body, headers=JSON)
    tracemalloc.stop()
    assert held[0] < 5 * len(body)  # three of them are the test's own client and server


def test_a_large_assets_body(api: Api, client: FlaskClient) -> None:
    """413 above 1 MiB, before it is parsed."""
    body = json.dumps([{"name": "x" * 2**20}])
    response = client.post("/bakrypt/v1/assets/", data=body, content_type="application/json")
    assert_error(response, 413, "invalid_request")
    assert not api.calls


PATHS: list[tuple[str, str, int]] = [
    ("GET", "/bakrypt/v1/transactions/", 404),
    ("GET", "/bakrypt/v1/", 404),
    ("POST", "/bakrypt/v1", 404),
    ("GET", "/bakrypt/v1//x", 404),
    ("GET", "/bakrypt/v1//", 404),
    ("POST", "/bakrypt/v1//files/", 404),
    ("POST", "/bakrypt/v1/files/%0a", 404),
    ("GET", "/bakrypt/v1/%0d%0ax", 404),
    ("POST", "/bakrypt/v1///files", 404),
    ("GET", f"/bakrypt/v1//transactions/{TRANSACTION}/", 404),
    ("GET", "/bakrypt/v1/users/", 404),
    ("GET", "/bakrypt/v1/assets/", 404),
    ("GET", "/bakrypt/v1/files", 404),
    ("POST", "/bakrypt/v1/transactions/", 404),
    ("BREW", "/bakrypt/v1/users/", 404),
    ("PUT", "/bakrypt/v1/assets/", 405),
    ("HEAD", f"/bakrypt/v1/transactions/{TRANSACTION}/", 405),
    ("DELETE", f"/bakrypt/v1/transactions/{TRANSACTION}/", 405),
    ("HEAD", "/bakrypt/receipts/", 405),
    ("PUT", "/bakrypt/v1/files/", 405),
    ("BREW", "/bakrypt/v1/files/", 405),
    ("GET", f"/bakrypt/v1/transactions/{TRANSACTION}/mint/", 405),
    ("GET", f"/bakrypt/v1/transactions/{TRANSACTION}/?force=true", 400),
    ("GET", f"/bakrypt/v1/transactions/{TRANSACTION};x/", 404),
    ("GET", "/bakrypt/v1/transactions/%2e%2e/assets/", 404),
    ("GET", "/bakrypt/v1/transactions/%252e%252e/", 404),
    ("GET", "/bakrypt/v1/transactions/..%2fassets%2f/", 404),
    ("GET", f"/bakrypt/v1/transactions/{TRANSACTION}%00/", 404),
    ("GET", f"/bakrypt/v1/transactions\\{TRANSACTION}/", 404),
    ("GET", f"/bakrypt//v1/transactions/{TRANSACTION}/", 404),
    ("POST", "/bakrypt/v1/assets/?a=b", 400),
    ("POST", "/bakrypt/v1/files/?", 411),
]


@pytest.mark.parametrize(("method", "path", "status"), PATHS)
def test_what_is_not_on_the_list(
    api: Api, client: FlaskClient, method: str, path: str, status: int
) -> None:
    """Nothing of it reaches bakrypt, also for the maker of the transaction."""
    make(client)
    response = client.open(path, method=method)
    assert response.status_code == status
    assert len(api.calls) == 1
    if status == 404 and path.startswith("/bakrypt/v1"):
        assert_error(response, 404, "not_found", "there is no such path")


@pytest.mark.parametrize("spelling", [TRANSACTION.upper(), TRANSACTION])
def test_upstream_goes_the_canonical_path(api: Api, client: FlaskClient, spelling: str) -> None:
    """Whatever spelling Flask's routing matches."""
    make(client)
    api.answer = replying(200, {"uuid": TRANSACTION})
    headers = {"X-HTTP-Method-Override": "DELETE", "Range": "bytes=0-1"}
    assert client.get(f"/bakrypt/v1/transactions/{spelling}", headers=headers).status_code == 200
    assert api.calls[1].line == f"GET /v1/transactions/{TRANSACTION}/ HTTP/1.1"
    assert "content-length" not in api.calls[1].headers


@pytest.mark.parametrize("action", ["mint", "refund"])
def test_mint_and_refund(api: Api, client: FlaskClient, action: str) -> None:
    """By the maker; the body is ignored."""
    make(client)
    path = f"/bakrypt/v1/transactions/{TRANSACTION}/{action}/"
    api.answer = replying(200, {"uuid": TRANSACTION})
    assert client.post(path, json={"force": True}).status_code == 200
    assert api.calls[1].line == f"POST /v1/transactions/{TRANSACTION}/{action}/ HTTP/1.1"
    assert (api.calls[1].body, api.calls[1].headers["content-length"]) == (b"", "0")


@pytest.mark.parametrize("action", ["mint", "refund"])
def test_mint_and_refund_are_off_by_default(api: Api, action: str) -> None:
    """403 in plain words, before anything else is looked at."""
    client = create_app(api.upstream.environ).test_client()
    make(client)
    response = client.post(f"/bakrypt/v1/transactions/{TRANSACTION}/{action}/")
    assert_error(response, 403, "access_denied", "BAKRYPT_API_CALLS")
    assert len(api.calls) == 1


@pytest.mark.parametrize("path", ["", "mint/", "refund/"])
def test_another_visitors_transaction(api: Api, client: FlaskClient, path: str) -> None:
    """404, as an unknown one; bakrypt is not asked."""
    make(client)
    other = client.application.test_client()
    send = other.get if not path else other.post
    for transaction in (TRANSACTION, str(uuid4())):
        response = send(f"/bakrypt/v1/transactions/{transaction}/{path}")
        assert_error(response, 404, "not_found", "there is no such transaction")
    assert len(api.calls) == 1


ROUTES = [
    ("POST", "/bakrypt/v1/files/"),
    ("POST", "/bakrypt/v1/assets/"),
    ("GET", f"/bakrypt/v1/transactions/{TRANSACTION}/"),
    ("POST", f"/bakrypt/v1/transactions/{TRANSACTION}/mint/"),
    ("GET", "/bakrypt/receipts/"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_closed_by_default(api: Api, method: str, path: str) -> None:
    """The error says both ways out."""
    client = create_app(api.upstream.environ, authorize=None).test_client()
    response = client.open(path, method=method)
    assert_error(response, 403, "access_denied", "BAKRYPT_API_PUBLIC")
    assert "create_api_blueprint" in response.json["error_description"]  # type: ignore[index]
    assert not api.upstream.requests


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_pages_of_other_sites(
    api: Api, client: FlaskClient, method: str, path: str, headers: dict[str, str]
) -> None:
    """GETs are checked, too."""
    assert_error(client.open(path, method=method, headers=headers), 403, "access_denied")
    assert not api.calls


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_an_unknown_host_of_an_open_api(api: Api, method: str, path: str) -> None:
    """DNS rebinding ends here, over https too."""
    config = {**api.upstream.environ, "BAKRYPT_API_PUBLIC": "true"}
    client = create_app(config, authorize=None).test_client()
    response = client.open(
        path,
        method=method,
        base_url="https://evil.example",
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert_error(response, 403, "access_denied", "BAKRYPT_TRUSTED_HOSTS")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_plain_http_on_another_host(client: FlaskClient, method: str, path: str) -> None:
    """The receipt would travel in the clear, or be dropped."""
    response = client.open(path, method=method, base_url="http://shop.example.com")
    assert_error(response, 403, "access_denied", "BAKRYPT_TRUSTED_PROXIES")


@pytest.mark.parametrize("site", ["same-origin", "same-site"])
@pytest.mark.parametrize("page", ["https://shop.example.com", "http://shop.example.com:8080"])
def test_a_proxy_that_does_not_pass_the_host_on(api: Api, page: str, site: str) -> None:
    """The receipt would have no `Secure`, or travel in the clear: the page knows where it is."""
    config = {
        **api.upstream.environ,
        "BAKRYPT_ALLOWED_ORIGINS": page if site == "same-site" else "",
    }
    client = create_app(config).test_client()
    headers = {"Origin": page, "Sec-Fetch-Site": site}
    response = client.post("/bakrypt/v1/assets/", json=[{"name": "A"}], headers=headers)
    assert_error(response, 403, "access_denied", "Host")
    assert not api.calls


@pytest.mark.parametrize(
    "page", ["http://localhost:5173", "http://127.0.0.1:8080", "http://app.localhost:5000"]
)
def test_a_development_server_that_changes_the_host(client: FlaskClient, page: str) -> None:
    """Vite's does, and its page is on loopback."""
    headers = {"Origin": page, "Sec-Fetch-Site": "same-origin"}
    response = client.post("/bakrypt/v1/assets/", json=[{"name": "A"}], headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Storage-Access": "none"},
        {"Sec-Fetch-Storage-Access": "inactive"},
        {"Sec-Fetch-Storage-Access": "active"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://listed.example"},
    ],
)
def test_a_browser_that_keeps_no_cookie(api: Api, headers: dict[str, str]) -> None:
    """A foreign iframe or a page of another site is told before anything is made."""
    config = {**api.upstream.environ, "BAKRYPT_ALLOWED_ORIGINS": "https://listed.example"}
    client = create_app(config).test_client()
    response = client.post(
        "/bakrypt/v1/assets/", json=[{}], headers=headers, base_url="https://shop.example.com"
    )
    assert_error(response, 403, "access_denied", "cookies")
    assert not api.calls


def test_cookies_that_the_server_cannot_read(api: Api) -> None:
    """Of a Cookie header with a letter beyond ASCII, granian makes an empty text."""
    client = create_app(api.upstream.environ).test_client(use_cookies=False)
    environ = {"HTTP_COOKIE": "", "SERVER_SOFTWARE": "Granian"}
    response = client.get("/bakrypt/receipts/", environ_overrides=environ)
    assert_error(response, 400, "invalid_request", "cookies")
    response = client.post("/bakrypt/v1/assets/", json=[{}], environ_overrides=environ)
    assert_error(response, 400, "invalid_request", "cookies")
    assert not api.calls


def test_a_visitor_behind_a_proxy(api: Api) -> None:
    """Flask-Login's `current_user` and the like: the receipt is written all the same."""
    name = LocalProxy(lambda: "alice")
    client = create_app(api.upstream.environ, visitor=lambda: name).test_client()
    make(client)
    assert client.get("/bakrypt/receipts/").get_json() == {"transactions": [TRANSACTION]}


@pytest.mark.parametrize("name", [uuid4(), 7, 0, b"alice", True, ["alice"]])
@pytest.mark.parametrize(("method", "path"), [ROUTES[1], ROUTES[2], ROUTES[4]])
def test_a_visitor_that_is_no_string(api: Api, method: str, path: str, name: Any) -> None:
    """500 before anything is made: an asset without a receipt would be lost."""
    client = create_app(api.upstream.environ, visitor=lambda: name).test_client()
    assert_error(client.open(path, method=method, json=[{"name": "A"}]), 500, "server_error")
    assert not api.upstream.requests


async def async_visitor() -> str:
    """What a host may pass by mistake."""
    return "alice"


@pytest.mark.parametrize("visitor", ["alice", async_visitor])
def test_a_visitor_that_is_no_function(api: Api, visitor: Any) -> None:
    """Said at registration."""
    with pytest.raises(TypeError, match="visitor must be a function"):
        create_app(api.upstream.environ, visitor=visitor)


def test_a_visitor_function_that_fails_later(api: Api) -> None:
    """It is asked once, before the asset is made: its database may be away after that."""
    names = ["alice", "alice", "alice"]
    client = create_app(api.upstream.environ, visitor=names.pop).test_client()
    make(client)
    make(client)
    assert client.get("/bakrypt/receipts/").get_json() == {"transactions": [TRANSACTION]}


def test_a_host_that_has_read_the_body(api: Api, client: FlaskClient) -> None:
    """500 that says so: an empty file would look like a whole one."""
    app = client.application
    app.before_request(lambda: request.form.get("csrf_token") and None)
    response = app.test_client().post("/bakrypt/v1/files/", data={"file": "x"})
    assert_error(response, 500, "server_error", "read the body before")
    assert not api.calls


def test_a_file_without_a_length(api: Api, client: FlaskClient) -> None:
    """411: only a whole file may look like one."""
    environ = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    for overrides in ({}, environ):
        response = client.post("/bakrypt/v1/files/", environ_overrides=overrides)
        assert_error(response, 411, "invalid_request", "Content-Length")
    assert not api.calls


BAD_LENGTHS = ["+5", "-5", "1e3", "0x5", "5_0", "5, 5", "\u0665", "9" * 5000]


@pytest.mark.parametrize("length", BAD_LENGTHS, ids=range(len(BAD_LENGTHS)))
@pytest.mark.parametrize("path", ["/bakrypt/v1/files/", "/bakrypt/v1/assets/"])
def test_a_length_that_is_no_number(api: Api, client: FlaskClient, path: str, length: str) -> None:
    """It is not taken for 0: bakrypt would get an empty file."""
    response = client.post(
        path, data=b"[{}]", headers=JSON, environ_overrides={"CONTENT_LENGTH": length}
    )
    assert_error(response, 400, "invalid_request", "Content-Length")
    assert not api.calls


def test_an_empty_length_is_none(api: Api, client: FlaskClient) -> None:
    """A WSGI server may set it (PEP 3333)."""
    environ = {"CONTENT_LENGTH": ""}
    response = client.post("/bakrypt/v1/files/", data=b"x", environ_overrides=environ)
    assert_error(response, 411, "invalid_request")
    assert not api.calls


@pytest.mark.parametrize("body", [b"[{}]", b""])
def test_an_assets_body_that_is_cut_short(api: Api, client: FlaskClient, body: bytes) -> None:
    """RFC 9112 section 8: it is incomplete, also where it is cut behind whole JSON."""
    environ = {"CONTENT_LENGTH": "100", "wsgi.input_terminated": True}
    response = client.post(
        "/bakrypt/v1/assets/", input_stream=BytesIO(body), headers=JSON, environ_overrides=environ
    )
    assert_error(response, 400, "invalid_request")
    assert not api.calls


def test_a_file_above_the_limit(api: Api) -> None:
    """413 before a byte is read."""
    app = create_app({**api.upstream.environ, "BAKRYPT_MAX_UPLOAD": "1 KiB"})
    response = app.test_client().post("/bakrypt/v1/files/", data=b"x" * 1025)
    assert_error(response, 413, "invalid_request", "1024 bytes")
    assert app.test_client().post("/bakrypt/v1/files/", data=b"x" * 1024).status_code == 201
    assert len(api.calls) == 1


def test_a_file_goes_up_whole(api: Api, client: FlaskClient) -> None:
    """With the caller's type, also if it is larger than what a small one may be."""
    body = bytes(range(256)) * 20_000
    api.answer = replying(201, FILE)
    response = client.post("/bakrypt/v1/files/", data=body, content_type="image/png; a=b")
    assert (response.status_code, response.get_json()) == (201, FILE)
    (call,) = api.calls
    assert call.body == body
    assert call.headers["content-type"] == "image/png; a=b"


@pytest.mark.parametrize("name", ["CONTENT_TYPE", "HTTP_ACCEPT_LANGUAGE"])
def test_a_file_with_an_empty_header(api: Api, client: FlaskClient, name: str) -> None:
    """As one without it: uWSGI sets an empty CONTENT_TYPE for a file without a type."""
    api.answer = replying(201, FILE)
    response = client.post("/bakrypt/v1/files/", data=b"x", environ_overrides={name: ""})
    assert response.status_code == 201
    assert {"content-type", "accept-language"}.isdisjoint(api.calls[0].headers)


@pytest.mark.parametrize("path", ["/bakrypt/v1/files/", "/bakrypt/v1/assets"])
def test_a_preflight_names_the_call_and_not_the_list(client: FlaskClient, path: str) -> None:
    """The list at the same path is a 404."""
    response = client.options(path)
    assert (response.status_code, response.headers["Allow"]) == (204, "OPTIONS, POST")


def refusing(*good: str, then: Behaviour) -> Behaviour:
    """Answer 401 unless the request has one of these tokens."""

    def behave(upstream: Upstream, connection: Any, received: Received) -> None:
        known = received.headers["authorization"].removeprefix("Bearer ") in good
        (then if known else replying(401, {"detail": "no"}))(upstream, connection, received)

    return behave


@pytest.mark.parametrize("size", [1, 10, 2**20])
def test_a_refused_token_is_renewed_and_the_call_sent_again(
    api: Api, client: FlaskClient, size: int
) -> None:
    """A small file arrives once."""
    api.answer = refusing("token-2", then=replying(201, FILE))
    response = client.post("/bakrypt/v1/files/", data=b"x" * size)
    assert response.status_code == 201
    assert [len(call.body) for call in api.calls] == [size, size]
    assert api.tokens == 2


def test_a_large_file_is_sent_again_by_the_page(
    api: Api, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with Retry-After; the next try has the new token. Nobody is to be woken for it."""
    api.answer = refusing("token-2", then=replying(201, FILE))
    body = b"x" * (2**20 + 1)
    response = client.post("/bakrypt/v1/files/", data=body)
    assert_error(response, 503, "temporarily_unavailable")
    assert response.headers["Retry-After"] == "1"
    assert client.post("/bakrypt/v1/files/", data=body).status_code == 201
    assert api.tokens == 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_second_refusal_blames_this_server(
    api: Api, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """500, and the log names the setting."""
    api.answer = refusing(then=replying(201, MADE))
    response = client.post("/bakrypt/v1/assets/", json=[{"name": "A"}])
    assert_error(response, 500, "server_error", "this server's")
    assert "BAKRYPT_TOKEN" in caplog.text
    assert api.tokens == 2
    assert len(api.calls) == 2


def test_a_token_that_worked_is_renewed_at_once(api: Api, client: FlaskClient) -> None:
    """Twice within five seconds: the pause between renewals is for callers' reports."""
    for number in (1, 2, 3):
        api.answer = refusing(f"token-{number}", then=replying(201, MADE))
        make(client)
    assert api.tokens == 3


def test_a_call_that_refuses_each_token(api: Api, client: FlaskClient) -> None:
    """It does not cost a token each time, although the others take them."""
    make(client)
    transaction = f"/bakrypt/v1/transactions/{TRANSACTION}/"
    for _ in range(5):
        api.answer = replying(200, {"status": "waiting"})
        assert client.get(transaction).status_code == 200
        api.answer = refusing(then=replying(200, {}))
        assert_error(client.post(f"{transaction}mint/"), 500, "server_error")
    assert api.tokens == 2


def test_a_call_that_refuses_each_token_while_others_work(api: Api, client: FlaskClient) -> None:
    """Another call takes the new token before the refused one is sent with it."""
    make(client)
    transaction = f"/bakrypt/v1/transactions/{TRANSACTION}/"
    (account,) = client.application.extensions["bakrypt_proxy"].accounts

    def behave(upstream: Upstream, connection: Any, received: Received) -> None:
        account.note_accepted(Masked(received.headers["authorization"].removeprefix("Bearer ")))
        replying(401, {"detail": "no"})(upstream, connection, received)

    api.answer = behave
    for _ in range(5):
        assert_error(client.post(f"{transaction}mint/"), 500, "server_error")
    assert api.tokens == 2


def test_a_token_that_never_worked_is_not_renewed_again_and_again(
    api: Api, client: FlaskClient
) -> None:
    """Each call fails by itself; bakrypt is asked for one more token only."""
    api.answer = refusing(then=replying(201, MADE))
    for _ in range(5):
        response = client.post("/bakrypt/v1/assets/", json=[{"name": "A"}])
        assert_error(response, 500, "server_error")
    assert api.tokens == 2
    assert len(api.calls) == 6


@pytest.mark.parametrize("status", [400, 403, 404, 409, 429, 500, 502, 503])
def test_nothing_else_is_repeated(api: Api, client: FlaskClient, status: int) -> None:
    """Bakrypt may have taken it."""
    make(client)
    api.answer = replying(status, {"detail": "no"})
    client.post(f"/bakrypt/v1/transactions/{TRANSACTION}/mint/")
    assert len(api.calls) == 2


def test_a_mint_is_not_repeated_over_a_connection_that_ends(api: Api, client: FlaskClient) -> None:
    """A kept connection that ends without a byte may have carried it all the same."""
    make(client)

    def end(_: Upstream, connection: Any, __: Received) -> None:
        connection.close()

    api.answer = end
    response = client.post(f"/bakrypt/v1/transactions/{TRANSACTION}/mint/")
    assert_error(response, 500, "server_error")
    assert len(api.calls) == 2


def test_without_a_token_there_is_no_api() -> None:
    """Said at registration."""
    with pytest.raises(SettingsError, match="BAKRYPT_TOKEN"):
        create_app({"BAKRYPT_CLIENT_ID": "a", "BAKRYPT_CLIENT_SECRET": "b"})


def test_a_client_with_a_session_of_its_own() -> None:
    """Refused at registration: uploads need the client's own connections."""
    import requests  # noqa: PLC0415

    bakrypt = BakryptClient(Settings(token="t"), session=requests.Session())
    with pytest.raises(TypeError, match="session of its own"):
        create_app({}, client=bakrypt)


def test_the_token_is_shared_whatever_the_setting_says(api: Api) -> None:
    """And with the tokens' blueprint, if both agree."""
    app = create_auth_app({**api.upstream.environ, "BAKRYPT_SHARE_TOKEN": "false"})
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    client = app.test_client()
    for _ in range(3):
        make(client)
    assert api.tokens == 1


def test_a_made_transaction_that_is_none(api: Api, client: FlaskClient) -> None:
    """A response without a usable uuid gives no receipt, and no fault."""
    values: list[Any] = ["x", 1, None, [], {"uuid": 1}]
    for transaction in values:
        api.answer = replying(201, [MADE[0] | {"transaction": transaction}, 7])
        response = client.post("/bakrypt/v1/assets/", json=[{"name": "A"}])
        assert response.status_code == 201
        assert "Set-Cookie" not in response.headers
