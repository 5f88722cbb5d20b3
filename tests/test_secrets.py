"""Canaries: no planted secret shows in a log at DEBUG, a traceback, a repr, a reply or a command's output."""

import logging
import traceback
from collections.abc import Callable

import pytest
from conftest import create_app
from misbehaving import (
    TOKEN_REPLY,
    Behaviour,
    Upstream,
    close_at_once,
    close_half_way,
    drip_body,
    echo_as_error,
    replying,
)

from app import create_app as create_our_app
from bakrypt_proxy import BakryptClient, BakryptError, Settings
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.telemetry import JsonFormatter

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
        # A caller's own password may come back to the caller, in a reply that repeats it; our secrets may not.
        assert_silent("".join(shown) + repr(bakrypt) + repr(settings), SECRETS + ISSUED)


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
