"""Canaries: no planted secret shows in a log, a traceback, its frames, a reply or an output."""

import json
import logging
import pickle
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy, deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
import trustme
from conftest import Clock, create_app, tls_server
from flask import Flask, Request
from misbehaving import (
    TOKEN_REPLY,
    Behaviour,
    Upstream,
    close_at_once,
    close_half_way,
    drip_body,
    echo_as_error,
    replying,
    sending,
)
from werkzeug.exceptions import HTTPException

from app import create_app as create_our_app
from bakrypt_proxy import (
    AccessToken,
    BakryptClient,
    BakryptError,
    Settings,
    UpstreamFailedError,
)
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.telemetry import JsonFormatter
from bakrypt_proxy.tokens.shared import SharedToken
from bakrypt_proxy.upstream.masking import Masked
from bakrypt_proxy.upstream.relay import ApiRequest, Relay
from bakrypt_proxy.upstream.transport import Transport

SECRETS = ("planted-exchange-secret", "planted-client-secret")
CALLERS = {
    "password": "planted-password",
    "refresh_token": "planted-refresh-token",
    "rejected_token": "planted-rejected",
}
ISSUED = ("planted-access-token", "planted-new-refresh-token")
TOKEN = TOKEN_REPLY | {"access_token": ISSUED[0], "refresh_token": ISSUED[1]}

PATHS: dict[str, Behaviour] = {
    "success": replying(200, TOKEN),
    "repeats what it was sent": echo_as_error,
    "closes at once": close_at_once,
    "closes half-way": close_half_way,
    "drips": drip_body,
    "token in a list": replying(200, [TOKEN]),
    "token with a wrong type": replying(200, TOKEN | {"access_token": list(ISSUED)}),
    "token in broken JSON": replying(200, str(TOKEN).encode()),
    "token too large": replying(200, TOKEN | {"padding": "x" * 100_000}),
    "token with an error": replying(500, TOKEN),
    "token with a redirect": replying(
        307, TOKEN, "Location: https://planted-access-token.invalid/"
    ),
    "refuses our credentials": replying(
        401, {"error": "invalid_client", "error_description": SECRETS[1]}
    ),
    "secret as it was sent": replying(
        400, {"error": "x", "error_description": "client_secret=planted-client%2Bsecret"}
    ),
    "secret as the code": replying(400, {"error": SECRETS[1]}),
    "secret as the detail": replying(429, {"detail": f"{SECRETS[0]} {SECRETS[1]}"}),
    "refuses the caller": replying(400, {"error": "invalid_grant", "error_description": "No."}),
}
REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "exchange": ("/auth/exchange/", {"rejected_token": CALLERS["rejected_token"]}),
    "password": ("/auth/token/", {"username": "alice", "password": CALLERS["password"]}),
    "refresh": (
        "/auth/token/",
        {"grant_type": "refresh_token", "refresh_token": CALLERS["refresh_token"]},
    ),
    "malformed": (
        "/auth/token/",
        {"password": CALLERS["password"], "refresh_token": [CALLERS["refresh_token"]]},
    ),
}


def assert_silent(text: str, secrets: tuple[str, ...]) -> None:
    """None of the secrets shows."""
    assert [secret for secret in secrets if secret in text] == []


@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("behave", PATHS.values(), ids=PATHS)
def test_replies_and_logs(
    upstream: Upstream,
    caplog: pytest.LogCaptureFixture,
    behave: Behaviour,
    path: str,
    body: dict[str, object],
) -> None:
    """Through every path; a token's own reply is the one place where it may stand."""
    caplog.set_level(logging.DEBUG)
    upstream.behave = behave
    app = create_app(upstream.environ | {"BAKRYPT_TIMEOUT": "0.2"})
    for reply in (
        app.test_client().post(path, json=body),
        app.test_client().post(path, data=str(body).encode(), content_type="application/json"),
    ):
        own = () if reply.status_code == 200 else ISSUED
        assert_silent(f"{reply.headers}{reply.text}", SECRETS + own)
    assert_silent(caplog.text, SECRETS + ISSUED + tuple(CALLERS.values()))


GRANTS: dict[str, Callable[[BakryptClient], object]] = {
    "exchange": lambda bakrypt: bakrypt.exchange(),
    "password": lambda bakrypt: bakrypt.password("alice", CALLERS["password"]),
    "refresh": lambda bakrypt: bakrypt.refresh(CALLERS["refresh_token"]),
}


@pytest.mark.parametrize("grant", GRANTS.values(), ids=GRANTS)
@pytest.mark.parametrize("behave", [b for name, b in PATHS.items() if name != "success"])
def test_tracebacks_and_reprs(
    upstream: Upstream, behave: Behaviour, grant: Callable[[BakryptClient], object]
) -> None:
    """Of the client, its settings and its errors, with all that they were raised from."""
    upstream.behave = behave
    settings = Settings.from_mapping(upstream.environ | {"BAKRYPT_TIMEOUT": "0.2"})
    bakrypt = BakryptClient(settings)
    try:
        grant(bakrypt)
    except BakryptError as error:
        shown = [
            *traceback.format_exception(error),
            repr(error),
            str(error),
            str(error.response),
            error.detail,
        ]
        # A caller's own password may come back in a reply that repeats it; our secrets may not.
        assert_silent("".join(shown) + repr(bakrypt) + repr(settings), SECRETS + ISSUED)


ALL = SECRETS + ISSUED + tuple(CALLERS.values())


def as_a_crash_reporter_sees(error: BaseException) -> str:
    """Everything that the frames of an error and of its causes hold, but for those of the tests."""
    seen: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None:
            continue
        seen += [repr(link), str(link), repr(vars(link)), repr(link.args)]
        pending += [link.__cause__, link.__context__]
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if not frame.f_code.co_filename.startswith(str(Path(__file__).parent)):
                seen += [text for value in frame.f_locals.values() for text in inside(value)]
    return "\n".join(seen)


def inside(value: object, depth: int = 2) -> Iterator[str]:
    """What `repr`, `vars` and a pickle show of a value, and of its attributes.

    Not of a request of werkzeug's or an app of Flask's, which hold what the host put there, nor of
    the settings, whose attributes are public.
    """
    yield repr(value)
    if isinstance(value, Request | Flask | Settings | ModuleType | type):
        return
    with suppress(Exception):
        yield pickle.dumps(value).decode("latin-1")
    if depth and hasattr(value, "__dict__"):
        for attribute in vars(value).values():
            yield from inside(attribute, depth - 1)
    if depth and isinstance(value, list | tuple | set | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from inside(item, depth - 1)


# The timeout of a given session is requests' own: it begins again with each byte of a drip.
WAYS = [
    (name, over)
    for name in PATHS
    for over in ("tcp", "tls", "given session")
    if name != "success" and (name, over) != ("drips", "given session")
]


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("grant", GRANTS.values(), ids=GRANTS)
@pytest.mark.parametrize(("name", "over"), WAYS)
def test_frames(
    request: pytest.FixtureRequest,
    name: str,
    over: str,
    grant: Callable[[BakryptClient], object],
    warm: bool,
) -> None:
    """Of every error that a script does not catch: Sentry collects their local variables."""
    upstream = request.getfixturevalue("tls_upstream" if over == "tls" else "upstream")
    timeout = "0.5" if name == "drips" else "5"
    settings = Settings.from_mapping(upstream.environ | {"BAKRYPT_TIMEOUT": timeout})
    with requests.Session() as session:
        bakrypt = BakryptClient(settings, session=session if over == "given session" else None)
        if warm:
            grant(bakrypt)
        upstream.behave = PATHS[name]
        with pytest.raises(BakryptError) as caught:
            grant(bakrypt)
        assert_silent(as_a_crash_reporter_sees(caught.value), ALL)
        bakrypt.close()


@pytest.mark.parametrize("grant", GRANTS.values(), ids=GRANTS)
def test_frames_without_an_upstream(
    grant: Callable[[BakryptClient], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens, the certificates are missing, the proxy is none."""
    credentials = {
        "BAKRYPT_TOKEN": SECRETS[0],
        "BAKRYPT_CLIENT_ID": "planted-client-id",
        "BAKRYPT_CLIENT_SECRET": SECRETS[1],
        "BAKRYPT_TIMEOUT": "1",
    }
    nearby = credentials | {"BAKRYPT_URL": "http://127.0.0.1:9"}
    here = BakryptClient(Settings.from_mapping(nearby))
    with pytest.raises(BakryptError) as nobody:
        grant(here)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:planted-proxy-password@127.0.0.1:9")
    far = Settings.from_mapping(credentials | {"BAKRYPT_URL": "https://bakrypt.invalid"})
    with pytest.raises(BakryptError, match="could not be reached") as no_proxy:
        grant(BakryptClient(far))
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:planted-proxy-password@127.0.0.1:9")
    with pytest.raises(BakryptError, match="must be") as wrong_proxy:
        grant(BakryptClient(far))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    monkeypatch.delenv("HTTPS_PROXY")
    with pytest.raises(BakryptError, match="certificates") as no_certificates:
        grant(BakryptClient(far))
    for caught in (nobody, no_proxy, wrong_proxy, no_certificates):
        seen = as_a_crash_reporter_sees(caught.value)
        assert_silent(seen, (*ALL, "planted-proxy-password", "user:planted", "dXNlcjpw"))


def sign_in_at_length(bakrypt: BakryptClient) -> None:
    """Send more than the buffers of both sockets take; also what is not sent yet is secret."""
    bakrypt.password("alice", CALLERS["password"] * 800_000)


def upload_at_length(bakrypt: BakryptClient) -> None:
    """The same with a visitor's file."""
    part = Masked(CALLERS["password"].encode() * 50_000)
    parts, length = (part.reveal() for _ in range(20)), 20 * len(part.reveal())
    request = ApiRequest("files", "POST", "/v1/files/", {}, parts, length)
    transport = bakrypt.open_transport()
    assert isinstance(transport, Transport)
    settings = Settings(url=bakrypt.settings.url, timeout=bakrypt.settings.timeout)
    Relay(transport, settings).send(request, Masked("planted-token"))


@pytest.mark.parametrize("send", [sign_in_at_length, upload_at_length])
@pytest.mark.parametrize("over", ["tcp", "tls"])
def test_frames_of_a_request_that_upstream_does_not_read(
    authority: trustme.CA, trusted: Path, over: str, send: Callable[[BakryptClient], None]
) -> None:
    """Python's own `ssl` module holds what it sends in a local variable."""
    stopped = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if over == "tls":
            connection = tls_server(authority, "127.0.0.1").wrap_socket(
                connection, server_side=True
            )
        stopped.wait(10)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        scheme = "https" if over == "tls" else "http"
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        settings = Settings(
            url=f"{scheme}://127.0.0.1:{listener.getsockname()[1]}",
            client_id="planted-client-id",
            client_secret=SECRETS[1],
            timeout=0.5,
        )
        with pytest.raises(BakryptError, match="did not answer in time") as caught:
            send(BakryptClient(settings))
        stopped.set()
        thread.join()
    assert_silent(as_a_crash_reporter_sees(caught.value), ALL)


@pytest.mark.parametrize("text", ["\ud800", 7, None, b"\xff"])
def test_frames_of_a_parameter_that_is_no_text(bakrypt: BakryptClient, text: object) -> None:
    """Python's own error would hold the value."""
    wrong: Any = f"planted-password{text}" if isinstance(text, str) else text
    with pytest.raises(BakryptError, match="password is not valid Unicode text") as caught:
        bakrypt.password("alice", wrong)
    assert_silent(as_a_crash_reporter_sees(caught.value), ALL)
    with pytest.raises(BakryptError, match="refresh_token is not valid Unicode text") as caught:
        bakrypt.refresh(wrong)
    assert_silent(as_a_crash_reporter_sees(caught.value), ALL)


def test_frames_of_settings_with_a_problem() -> None:
    """The right settings beside the wrong one stand in no frame."""
    secrets = ("planted-token", "planted-secret", "planted-redis", "planted-cookie-key" * 2)
    environ = {
        "BAKRYPT_TOKEN": secrets[0],
        "BAKRYPT_CLIENT_SECRET": secrets[1],
        "BAKRYPT_REDIS_URL": f"redis://:{secrets[2]}@redis.example:6379/0",
        "BAKRYPT_COOKIE_KEY": secrets[3],
        "BAKRYPT_TIMEOUT": "never",
    }
    with pytest.raises(BakryptError, match="BAKRYPT_TIMEOUT") as caught:
        Settings.from_mapping({}, environ)
    assert_silent(as_a_crash_reporter_sees(caught.value), secrets)


VIEWS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (path, {"json": body}) for name, (path, body) in REQUESTS.items()},
    "form": ("/auth/token/", {"data": {"username": "alice", "password": CALLERS["password"]}}),
    "broken JSON": (
        "/auth/token/",
        {"data": f'{{"password": "{CALLERS["password"]}', "content_type": "application/json"},
    ),
    "a list": ("/auth/token/", {"json": [CALLERS["password"]]}),
    "a member twice": (
        "/auth/token/",
        {
            "data": f'{{"password": "{CALLERS["password"]}", "password": "x"}}',
            "content_type": "application/json",
        },
    ),
    "a broken form": (
        "/auth/token/",
        {
            "data": f"password={CALLERS['password']}%FF",
            "content_type": "application/x-www-form-urlencoded",
        },
    ),
    "a field twice": (
        "/auth/token/",
        {"data": {"password": [CALLERS["password"], "x"], "username": "alice"}},
    ),
    "a broken form of several parts": (
        "/auth/token/",
        {
            "data": {"password": CALLERS["password"], "x": "\N{REPLACEMENT CHARACTER}"},
            "content_type": "multipart/form-data",
        },
    ),
    "plain text": (
        "/auth/token/",
        {"data": CALLERS["password"], "content_type": "text/plain"},
    ),
    "too large": (
        "/auth/token/",
        {"json": {"password": CALLERS["password"], "padding": "x" * 70_000}},
    ),
    "an unknown grant": (
        "/auth/token/",
        {"json": {"grant_type": "x", "password": CALLERS["password"]}},
    ),
    "a password that is a list": (
        "/auth/token/",
        {"json": {"username": "alice", "password": [CALLERS["password"]]}},
    ),
    "no username": ("/auth/token/", {"json": {"password": CALLERS["password"]}}),
}


@pytest.mark.parametrize(("path", "arguments"), VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("name", ["closes half-way", "repeats what it was sent", "token in a list"])
def test_frames_of_the_views(
    upstream: Upstream, name: str, path: str, arguments: dict[str, Any]
) -> None:
    """From Flask's dispatch down, before our handler makes a response of the error."""
    upstream.behave = PATHS[name]
    app = create_app(upstream.environ | {"BAKRYPT_SHARE_TOKEN": "false", "BAKRYPT_TIMEOUT": "1"})
    with app.test_request_context(path, method="POST", **arguments):
        app.preprocess_request()
        with pytest.raises((BakryptError, HTTPException)) as caught:
            app.dispatch_request()
        assert_silent(as_a_crash_reporter_sees(caught.value), ALL)


def test_a_masked_value_shows_nothing() -> None:
    """By none of the ways in which objects are looked at."""
    masked = Masked("planted-password")
    assert masked.reveal() == "planted-password"
    assert repr(masked) == str(masked) == f"{masked}" == "Masked(***)"
    assert not hasattr(masked, "__dict__")
    for copy_it in (pickle.dumps, copy, deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copy_it(masked)


def test_the_frames_are_looked_into() -> None:
    """The canary finds a secret in a local variable, an attribute, a pickle and a cause."""

    class Holder:
        def __init__(self) -> None:
            self.held = ["planted-password"]

    found = [list(inside(value)) for value in ("planted-password", Holder(), [Holder()])]
    assert all("planted-password" in "".join(texts) for texts in found)
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("planted-password")
    assert "planted-password" in as_a_crash_reporter_sees(caught.value)


@pytest.mark.parametrize("behave", [b for name, b in PATHS.items() if name != "success"])
@pytest.mark.parametrize(
    "command",
    [["exchange"], ["check"], ["token", "--username", "alice", "--password-stdin"]],
    ids=lambda c: c[0],
)
def test_commands(upstream: Upstream, behave: Behaviour, command: list[str]) -> None:
    """What they print when it goes wrong, on either stream."""
    upstream.behave = behave
    app = create_app(upstream.environ | {"BAKRYPT_TIMEOUT": "0.2"})
    result = app.test_cli_runner().invoke(
        args=["bakrypt", *command], input="planted-password-typed\n"
    )
    assert_silent(result.output, SECRETS + ISSUED)


def test_metrics_and_openapi_and_json_lines(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """After every path has been gone through, in what machines read of our app."""
    caplog.set_level(logging.DEBUG)
    for behave in PATHS.values():
        upstream.behave = behave
        client = create_our_app({**upstream.environ, "BAKRYPT_TIMEOUT": "0.2"}).test_client()
        for path, body in REQUESTS.values():
            client.post(path, json=body, headers={"X-Request-ID": SECRETS[0][:5]})
    pages = [
        client.get(path).text
        for path in ("/metrics", "/readyz", "/healthz", "/auth/openapi.json", "/")
    ]
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert len(lines) > len(PATHS)
    assert_silent("".join(pages + lines), SECRETS + ISSUED + tuple(CALLERS.values()))


def test_the_sandbox_logs_no_password(
    sandbox: Sandbox, bakrypt: BakryptClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody may type a real one there; oauthlib would log each token at DEBUG."""
    caplog.set_level(logging.DEBUG)
    token = bakrypt.password("alice", "alice-password")
    renewed = bakrypt.refresh(token["refresh_token"])
    with pytest.raises(BakryptError):
        bakrypt.password("alice", "planted-password")
    secrets = [
        token["access_token"],
        token["refresh_token"],
        renewed["access_token"],
        "planted-password",
    ]
    assert_silent(caplog.text, tuple(secrets))


def test_the_canaries_can_sing(upstream: Upstream) -> None:
    """The upstream really repeats the secrets in these tests, so that silence means something."""
    upstream.behave = echo_as_error
    create_app(upstream.environ).test_client().post("/auth/exchange/")
    assert upstream.requests[0].headers["authorization"] == f"Token {SECRETS[0]}"


@pytest.mark.parametrize(
    "error",
    [UpstreamFailedError("planted"), OSError("planted"), SystemExit("planted")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("as_json", [False, True])
def test_frames_of_the_shared_token(error: BaseException, as_json: bool) -> None:
    """Neither the token that is shared nor the one that a caller reports is in them."""
    held, reported = ISSUED[0], CALLERS["refresh_token"]

    def fetch(seconds: float) -> AccessToken:
        if is_cold:
            return {"access_token": held, "expires_in": 600, "token_type": "", "scope": ""}
        raise error

    for rejected in (held, reported):
        is_cold, clock = True, Clock()
        token = SharedToken(fetch, timeout=5, clock=clock, wall_clock=clock)
        token.get()
        is_cold = False
        if rejected != held:
            clock.now += 600
        with pytest.raises(type(error)) as caught:
            (token.get_json if as_json else token.get)(rejected)
        assert_silent(as_a_crash_reporter_sees(caught.value), ALL)


def test_frames_of_a_coding_that_repeats_a_secret(upstream: Upstream) -> None:
    """The value of Content-Encoding lies in a local variable of the frame that raises."""
    lines = b"Content-Encoding: %b\r\nContent-Length: 1\r\n\r\nx" % SECRETS[1].encode()
    head = b"HTTP/1.1 200 OK\r\n" + lines
    upstream.behave = sending(head)
    client = BakryptClient(Settings.from_mapping(upstream.environ))
    with pytest.raises(BakryptError) as caught:
        client.password("alice", CALLERS["password"])
    assert_silent(as_a_crash_reporter_sees(caught.value), ALL)
