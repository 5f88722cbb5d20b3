"""`docs/existing-apps.md`: what Sentry's SDK sends, with a transport that keeps it."""

import json
import subprocess
import sys
from typing import Any

import pytest
from documents import read, snippet

from bakrypt_proxy.sandbox import CREDENTIALS

pytestmark = pytest.mark.timeout(180)  # the first one waits for a new process
PAGE = "docs/existing-apps.md"
PLANTED = ["planted-password", "planted-refresh", "planted-rejected"]
Events = dict[str, list[dict[str, Any]]]  # by what happened

# Sentry patches much of the standard library, so this runs in a process of its own.
HOST = """
import json, sys

import sentry_sdk
from flask import Flask, request
from sentry_sdk.transport import Transport

from bakrypt_proxy import BakryptClient, Settings, create_api_blueprint, create_blueprint
from bakrypt_proxy.sandbox import Sandbox

init = sentry_sdk.init
events = []
sandbox = Sandbox().listen()


class Kept(Transport):
    def capture_envelope(self, envelope):
        events.extend(item.payload.json for item in envelope.items if item.type == "event")


def authorize():
    if "broken" in request.headers:
        raise RuntimeError("the host's own")
    return True


def grant(name):
    getattr(bakrypt, name)(*request.args.getlist("with"))


def create_client():
    app = Flask("host")
    app.config.update(sandbox.environ, BAKRYPT_SHARE_TOKEN=False)
    app.register_blueprint(create_blueprint(authorize=authorize))
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    app.add_url_rule("/own/<name>", view_func=grant)
    return app.test_client()


def see(path, **options):
    events.clear()
    headers = {"X-Request-ID": "the-request-id", **options.pop("headers", {})}
    client.open(path, **{"method": "POST", "headers": headers, **options})
    return list(events)


found = []
for snippet, more in json.loads(sys.argv[1]):
    sentry_sdk.init = lambda **options: init(**options, **more, transport=Kept)
    exec(snippet)
    client = create_client()
    bakrypt = BakryptClient(Settings.from_mapping(sandbox.environ))
    password = {"username": "alice", "password": "planted-password"}
    refresh = {"grant_type": "refresh_token", "refresh_token": "planted-refresh"}
    rejected = {"rejected_token": "planted-rejected"}
    sandbox.fail = None
    seen = {"caller": see("/auth/token/", json=password)}
    client.post("/bakrypt/v1/assets/", json=[{"name": "Gold"}])
    sandbox.fail = 503
    seen |= {
        "password": see("/auth/token/", json=password),
        "refresh": see("/auth/token/", data=refresh),
        "exchange": see("/auth/exchange/", json=rejected),
        "api": see("/bakrypt/v1/assets/", json=[{"name": "Gold"}]),
        "own exchange": see("/own/exchange", method="GET"),
        "own refresh": see("/own/refresh?with=x", method="GET"),
        "authorize": see("/auth/exchange/", json=rejected, headers={"broken": "1"}),
    }
    found.append(seen)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def all_seen() -> list[Events]:
    """The events with the snippet, without its filter, and with bodies switched off."""
    code = snippet(PAGE, "Sentry")
    bare = code.partition("    event_scrubber")[0] + ")"
    everything = {"send_default_pii": True, "max_request_body_size": "always"}
    runs = [(code, everything), (bare, {}), (bare, {"max_request_body_size": "never"})]
    result = subprocess.run(
        [sys.executable, "-c", HOST, json.dumps(runs)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: list[Events] = json.loads(result.stdout)
    return found


@pytest.fixture
def seen(all_seen: list[Events]) -> Events:
    """The events with the snippet, and all that Sentry can send besides."""
    return all_seen[0]


def planted_in(events: Events) -> list[str]:
    """The secrets of callers that show in events."""
    return [secret for secret in PLANTED if secret in json.dumps(events)]


def test_no_secret(seen: Events) -> None:
    """Neither the callers' nor ours, in bodies and log lines."""
    assert planted_in(seen) == []
    for name in ("BAKRYPT_TOKEN", "BAKRYPT_CLIENT_SECRET"):
        assert CREDENTIALS[name] not in json.dumps(seen)


def test_frames(seen: Events) -> None:
    """There are frames of ours, and the test above has seen their local variables."""
    frames = [
        frame
        for name in ("own exchange", "own refresh", "authorize")
        for value in seen[name][0]["exception"]["values"]
        for frame in value["stacktrace"]["frames"]
        if frame["module"].startswith("bakrypt_proxy.")
    ]
    rooms = {frame["module"].rpartition(".")[0] for frame in frames if frame["vars"]}
    assert rooms == {"bakrypt_proxy.upstream", "bakrypt_proxy.web"}


def test_what_is_an_event(seen: Events) -> None:
    """Our 500s by their log line, a fault of the host's as an exception, a caller's as none."""
    assert seen["caller"] == []
    for name in ("password", "refresh", "exchange", "api"):
        (event,) = seen[name]
        assert "exception" not in event
        assert event["logger"].startswith("bakrypt_proxy.")
        assert "request_id=the-request-id" in json.dumps(event["logentry"])
    (event,) = seen["authorize"]
    assert event["exception"]["values"][0]["type"] == "RuntimeError"


def test_cookies(seen: Events) -> None:
    """With `send_default_pii` receipts are among them."""
    assert [name for name in seen["api"][0]["request"]["cookies"] if name.startswith("bakrypt-")]


def test_without_the_filter(all_seen: list[Events]) -> None:
    """The two tokens are sent, the password is not; without bodies none of them is."""
    _, bare, without_bodies = all_seen
    assert planted_in(bare) == PLANTED[1:]
    assert planted_in(without_bodies) == []
    assert '`max_request_body_size="never"`' in read(PAGE)
    assert "cookies" not in bare["api"][0]["request"]
