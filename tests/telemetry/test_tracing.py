"""Calls to bakrypt, seen by OpenTelemetry."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from misbehaving import Upstream, close_at_once, replying
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bakrypt_proxy import BakryptClient, BakryptError, Settings
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.telemetry import UpstreamCall
from bakrypt_proxy.telemetry.tracing import trace_headers, traced

PLANTED = "planted-"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """A tracer provider for one test. OpenTelemetry allows one for a process."""
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return provider


@pytest.fixture
def exporter(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    """The spans that ended."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    provider.shutdown()


def client_of(upstream: Upstream | Sandbox, **arguments: Any) -> BakryptClient:
    """A client of an upstream, which has planted secrets, or of the sandbox."""
    return BakryptClient(Settings.from_mapping(upstream.environ), **arguments)


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of a span."""
    return dict(span.attributes or {})


def test_a_span_for_a_call(sandbox: Sandbox, exporter: InMemorySpanExporter) -> None:
    """It is of kind CLIENT, with the stable attributes for HTTP and our outcome, and no other."""
    with client_of(sandbox) as bakrypt:
        bakrypt.exchange()
    (span,) = exporter.get_finished_spans()
    host, port = sandbox.url.removeprefix("http://").split(":")
    assert (span.name, span.kind, span.status.status_code) == (
        "POST",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert attributes_of(span) == {
        "http.request.method": "POST",
        "server.address": host,
        "server.port": int(port),
        "url.full": f"{sandbox.url}/auth/exchange/",
        "http.response.status_code": 200,
        "bakrypt.outcome": "success",
    }


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        (400, "invalid_grant", "refused"),
        (429, "throttled", "refused"),
        (401, "invalid_client", "credentials_refused"),
        (503, "down", "failed"),
    ],
)
def test_a_span_of_a_refusal(
    upstream: Upstream, exporter: InMemorySpanExporter, status: int, error: str, outcome: str
) -> None:
    """Its `error.type` is the status, as the convention says, and the span is an error."""
    upstream.behave = replying(status, {"error": error})
    with client_of(upstream) as bakrypt, pytest.raises(BakryptError):
        bakrypt.password("alice", f"{PLANTED}password")
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["url.full"] == f"{upstream.url}/auth/token/"
    assert attributes_of(span)["error.type"] == str(status)
    assert attributes_of(span)["http.response.status_code"] == status
    assert attributes_of(span)["bakrypt.outcome"] == outcome
    assert PLANTED not in span.to_json()


def test_a_span_without_a_response(upstream: Upstream, exporter: InMemorySpanExporter) -> None:
    """Its `error.type` is the error's class, and there is no event with a traceback."""
    upstream.behave = close_at_once
    with client_of(upstream) as bakrypt, pytest.raises(BakryptError):
        bakrypt.refresh(f"{PLANTED}refresh-token")
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert not span.events
    assert attributes_of(span)["error.type"] == "UpstreamFailedError"
    assert attributes_of(span)["bakrypt.outcome"] == "failed"
    assert "http.response.status_code" not in attributes_of(span)
    assert PLANTED not in span.to_json()


def test_a_useless_success_is_an_error(upstream: Upstream, exporter: InMemorySpanExporter) -> None:
    """A 200 without a token has the error's class, because the status does not say it."""
    upstream.behave = replying(200, {"access": "none"})
    with client_of(upstream) as bakrypt, pytest.raises(BakryptError):
        bakrypt.exchange()
    (span,) = exporter.get_finished_spans()
    assert attributes_of(span)["http.response.status_code"] == 200
    assert attributes_of(span)["error.type"] == "UpstreamFailedError"
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("has_session", [False, True])
def test_the_trace_goes_to_bakrypt(
    upstream: Upstream, exporter: InMemorySpanExporter, provider: TracerProvider, has_session: bool
) -> None:
    """`traceparent` names our span, which is a child of the host's; its baggage stays here."""
    session = requests.Session() if has_session else None
    token = context.attach(baggage.set_baggage("customer", f"{PLANTED}customer"))
    tracer = provider.get_tracer("host")
    with (
        client_of(upstream, session=session) as bakrypt,
        tracer.start_as_current_span("request") as parent,
    ):
        bakrypt.exchange()
    context.detach(token)
    span, _ = exporter.get_finished_spans()
    own, outer = span.get_span_context(), parent.get_span_context()
    assert own is not None
    assert span.parent == outer
    headers = upstream.requests[0].headers
    ids = f"{own.trace_id:032x}-{own.span_id:016x}"
    assert headers["traceparent"] == f"00-{ids}-{own.trace_flags:02x}"
    assert "baggage" not in headers


def test_what_the_caller_says_of_the_trace_stays_here(provider: TracerProvider) -> None:
    """A host that goes on with the caller's trace has its `tracestate`."""
    caller = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "of=the-caller"}
    parent = TraceContextTextMapPropagator().extract(caller)
    with provider.get_tracer("host").start_as_current_span("request", context=parent):
        headers = trace_headers()
    assert list(headers) == ["traceparent"]
    assert "1" * 32 in headers["traceparent"]


@pytest.mark.parametrize(
    ("url", "port"), [("https://bakrypt.io/auth/token/", 443), ("http://[::1]:8080/x", 8080)]
)
def test_the_port_is_always_known(exporter: InMemorySpanExporter, url: str, port: int) -> None:
    """It is the scheme's if the URL does not name it."""
    with traced(UpstreamCall("token", "testnet", shared=False), "GET", url):
        pass
    (span,) = exporter.get_finished_spans()
    assert attributes_of(span)["server.port"] == port
    assert span.name == "GET"


def test_without_a_span_there_are_no_headers() -> None:
    """The API alone, without a tracer provider, changes no request."""
    assert trace_headers() == {}


def test_nothing_is_imported_if_the_host_does_not_trace(sandbox: Sandbox) -> None:
    """Neither by the package nor by a call."""
    code = (
        "import sys, bakrypt_proxy as b;"
        f"b.BakryptClient(b.Settings.from_mapping({dict(sandbox.environ)!r})).exchange();"
        "print([name for name in sys.modules if 'opentelemetry' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
