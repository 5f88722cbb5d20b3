"""Log lines, request ids, metrics and readiness."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import create_app
from misbehaving import Upstream, hang, replying
from processes import gunicorn
from real_redis import RedisServer
from werkzeug.exceptions import ClientDisconnected

from app import create_app as create_our_app
from bakrypt_proxy import BakryptClient, Settings, SettingsError
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.telemetry import (
    JsonFormatter,
    UpstreamCall,
    shared_token_renewed,
    shared_token_served,
    upstream_called,
)
from bakrypt_proxy.upstream.masking import Masked
from bakrypt_proxy.upstream.relay import ApiRequest, Relay
from bakrypt_proxy.upstream.transport import Transport
from bakrypt_proxy.web.metrics import create_metrics

ALICE = {"username": "alice", "password": "alice-password"}
LOGGER = "bakrypt_proxy.telemetry.calls"


def calls(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the log lines on upstream calls."""
    return [record.fields for record in caplog.records if record.name == LOGGER]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    """Log at INFO, as our app does."""
    caplog.set_level(logging.INFO, "bakrypt_proxy")


def test_one_line_for_each_upstream_call(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The line says what was called and how it ended; a shared response logs no line."""
    client = create_app(sandbox.environ).test_client()
    client.post("/auth/exchange/", headers={"X-Request-ID": "first"})
    client.post("/auth/exchange/", headers={"X-Request-ID": "second"})
    client.post("/auth/token/", json=ALICE, headers={"X-Request-ID": "third"})
    client.post("/auth/token/", json=ALICE | {"password": "wrong"})
    exchange, token, refused = calls(caplog)
    host = sandbox.url.removeprefix("http://")
    common = {"network": host, "milliseconds": exchange["milliseconds"], "bytes_sent": 0}
    assert exchange == common | {
        "endpoint": "exchange",
        "shared": True,
        "status": 200,
        "outcome": "success",
        "request_id": "first",
    }
    assert (token["endpoint"], token["shared"], token["request_id"]) == ("token", False, "third")
    assert (refused["status"], refused["outcome"]) == (400, "refused")
    assert re.fullmatch("[0-9a-f]{32}", refused["request_id"])
    assert 0 < exchange["milliseconds"] < 5000
    assert "endpoint=exchange network=" in caplog.text


@pytest.mark.parametrize(
    ("behave", "status", "outcome"),
    [
        (replying(401, {"error": "invalid_client"}), 401, "credentials_refused"),
        (replying(503, b""), 503, "failed"),
        (replying(200, b"<html>"), 200, "failed"),
        (hang, None, "failed"),
    ],
)
def test_failures_have_a_line_too(
    upstream: Upstream,
    caplog: pytest.LogCaptureFixture,
    behave: Any,
    status: int | None,
    outcome: str,
) -> None:
    """The line of a failed call has the status if there was a response."""
    upstream.behave = behave
    app = create_app(upstream.environ | {"BAKRYPT_TIMEOUT": "1"})
    app.test_client().post("/auth/token/", json=ALICE)
    (call,) = calls(caplog)
    assert (call["status"], call["outcome"]) == (status, outcome)


def test_a_visitor_who_leaves_is_no_failure_of_bakrypts(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """An alert on failures would ring for each upload that somebody cancels."""

    def leaving() -> Iterator[bytes]:
        yield b"x"
        raise ClientDisconnected

    settings = Settings.from_mapping(upstream.environ)
    relay = Relay(Transport(settings.url), settings)
    request = ApiRequest("files", "POST", "/v1/files/", {}, leaving(), 2**20, said=None)
    with pytest.raises(ClientDisconnected):
        relay.send(request, Masked("a-token"))
    (call,) = calls(caplog)
    assert (call["status"], call["outcome"]) == (None, "aborted")
    assert call["bytes_sent"] == 1  # and not what the visitor promised


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3_4", True), ("", False), ("a b", False), ("x" * 129, False), ("é", False)],
)
def test_request_ids(sandbox: Sandbox, given: str, kept: bool) -> None:
    """A caller's request id comes back if it is safe in a log; errors have an id too."""
    client = create_app(sandbox.environ).test_client()
    for response in (
        client.post("/auth/exchange/", headers={"X-Request-ID": given}),
        client.get("/auth/token/", headers={"X-Request-ID": given}),
    ):
        found = response.headers["X-Request-ID"]
        assert (found == given) if kept else re.fullmatch("[0-9a-f]{32}", found)


def test_an_error_in_the_log_has_the_request_id(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's request id leads to the cause of the error."""
    upstream.behave = replying(503, b"")
    create_app(upstream.environ).test_client().post(
        "/auth/exchange/", headers={"X-Request-ID": "mine"}
    )
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.fields == {"route": "bakrypt.exchange", "request_id": "mine"}  # type: ignore[attr-defined]


def test_json_lines() -> None:
    """A JSON line is one object with the fields as members and, if present, a traceback."""
    record = logging.LogRecord("a.b", logging.INFO, "", 0, "call %s", ("x",), None)
    record.fields = {"status": 200, "request_id": "1"}
    line = json.loads(JsonFormatter().format(record))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "a.b",
        "message": "call x",
        "status": 200,
        "request_id": "1",
    }
    try:
        int("no")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "ValueError: invalid literal" in json.loads(JsonFormatter().format(record))["traceback"]
    assert "\n" not in JsonFormatter().format(record)


@pytest.mark.parametrize(("log_format", "is_json"), [("json", True), ("text", False)])
def test_the_log_of_our_app(log_format: str, is_json: bool) -> None:
    """A new process of our app logs to standard error in the chosen format."""
    config = {"BAKRYPT_NETWORK": "sandbox", "BAKRYPT_LOG_FORMAT": log_format}
    code = (
        "from app import create_app\n"
        f"app = create_app({config!r})\n"
        "app.test_client().post('/auth/exchange/')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    (line,) = [line for line in result.stderr.splitlines() if "upstream call" in line]
    assert line.startswith("{") == is_json
    if is_json:
        assert json.loads(line)["endpoint"] == "exchange"


def test_signals() -> None:
    """A host app can count upstream calls itself."""
    seen: list[UpstreamCall] = []

    def receive(_: object, call: UpstreamCall) -> None:
        seen.append(call)

    with Sandbox().listen() as sandbox, upstream_called.connected_to(receive):
        create_app(sandbox.environ).test_client().post("/auth/exchange/")
    assert [call.outcome for call in seen] == ["success"]


def test_a_failing_receiver_does_not_fail_the_request(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the signal, for example if the disk under the metrics is full."""

    def fail(_: object, **what: object) -> None:
        raise OSError("no space left on device")

    signals = (upstream_called, shared_token_renewed, shared_token_served)
    with ExitStack() as stack:
        for signal in signals:
            stack.enter_context(signal.connected_to(fail))
        client = create_app(sandbox.environ).test_client()
        assert [client.post("/auth/exchange/").status_code for _ in range(2)] == [200, 200]
    for signal in signals:
        assert f"a receiver of {signal.name} failed" in caplog.text


def test_a_missing_directory_for_metrics_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our app fails at start, and not at the first call."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    with pytest.raises(SettingsError, match="PROMETHEUS_MULTIPROC_DIR"):
        create_metrics()


def test_a_request_id_ends_with_its_request(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A call in the host's own view does not log the id of the request before."""
    app = create_app(sandbox.environ)
    bakrypt = BakryptClient(Settings.from_mapping(sandbox.environ))
    app.add_url_rule("/mine", view_func=lambda: dict(bakrypt.exchange()))
    client = app.test_client()
    client.post("/auth/exchange/", headers={"X-Request-ID": "first"})
    client.get("/mine", headers={"X-Request-ID": "second"})
    assert [call["request_id"] for call in calls(caplog)] == ["first", None]


def value(text: str, name: str, **labels: str) -> float:
    """Return a sample's value in Prometheus' text format, or 0 if it is absent."""
    for line in text.splitlines():
        if line.startswith(f"{name}{{") and all(
            f'{key}="{label}"' in line for key, label in labels.items()
        ):
            return float(line.rsplit(" ", 1)[1])
    return 0


def test_metrics(sandbox: Sandbox) -> None:
    """The metrics count upstream calls by outcome, their duration, shared hits and renewals."""
    client = create_our_app(
        {"BAKRYPT_NETWORK": "sandbox", "BAKRYPT_URL": sandbox.url}
    ).test_client()
    for _ in range(5):
        client.post("/auth/exchange/")
    client.post("/auth/token/", json=ALICE)
    client.post("/auth/token/", json=ALICE | {"password": "planted-password"})
    response = client.get("/metrics")
    assert response.content_type.startswith("text/plain; version=")
    network = sandbox.url.removeprefix("http://")
    calls = "bakrypt_upstream_calls_total"
    for endpoint, outcome in (("exchange", "success"), ("token", "success"), ("token", "refused")):
        labels = {"endpoint": endpoint, "network": network, "outcome": outcome}
        assert value(response.text, calls, **labels) == 1
    durations = "bakrypt_upstream_call_duration_seconds_count"
    assert value(response.text, durations, endpoint="token", network=network) == 2
    assert value(response.text, "bakrypt_shared_token_hits_total", network=network) == 4
    assert (
        value(
            response.text, "bakrypt_shared_token_renewals_total", network=network, outcome="success"
        )
        == 1
    )
    assert "planted" not in response.text


@pytest.mark.slow
def test_metrics_of_several_workers_are_added_up(sandbox: Sandbox, tmp_path: Path) -> None:
    """Every worker returns the sums over all workers."""
    environ = {
        "BAKRYPT_NETWORK": "sandbox",
        "BAKRYPT_URL": sandbox.url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    import requests  # noqa: PLC0415

    with gunicorn(environ) as url:
        for _ in range(40):
            assert requests.post(f"{url}/auth/exchange/", timeout=5).status_code == 200
        text = requests.get(f"{url}/metrics", timeout=5).text
    network = sandbox.url.removeprefix("http://")
    renewals = value(
        text, "bakrypt_shared_token_renewals_total", network=network, outcome="success"
    )
    assert renewals == sandbox.calls["/auth/exchange/"]
    assert value(text, "bakrypt_shared_token_hits_total", network=network) == 40 - renewals


def test_readyz(sandbox: Sandbox) -> None:
    """With credentials the app is ready, without a call to bakrypt."""
    response = create_our_app(sandbox.environ).test_client().get("/readyz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})
    assert not sandbox.calls


def test_readyz_without_credentials() -> None:
    """Without credentials the app is not ready, because it could serve nobody."""
    response = create_our_app({}).test_client().get("/readyz")
    assert response.status_code == 503
    assert response.json == {"error": "server_error", "error_description": "no credentials are set"}


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
@pytest.mark.parametrize("share", ["true", "false"])
def test_readyz_and_redis(sandbox: Sandbox, tmp_path: Path, share: str) -> None:
    """If Redis is configured, the app is not ready while Redis is down."""
    with RedisServer(tmp_path) as server:
        settings = {
            **sandbox.environ,
            "BAKRYPT_REDIS_URL": server.url,
            "BAKRYPT_SHARE_TOKEN": share,
        }
        client = create_our_app(settings).test_client()
        assert client.get("/readyz").status_code == 200
        server.kill()
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "Redis cannot be used" in response.get_json()["error_description"]
        server.start()
        assert client.get("/readyz").status_code == 200


def test_an_empty_directory_setting_is_not_set(tmp_path: Path) -> None:
    """prometheus-client would drop its files in the working directory."""
    code = (
        "from flask import Flask; from bakrypt_proxy.web.metrics import create_metrics; "
        "app = Flask('x'); app.register_blueprint(create_metrics()); "
        "print(app.test_client().get('/metrics').status_code)"
    )
    root = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": "", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "200\n"
    assert list(tmp_path.iterdir()) == []
