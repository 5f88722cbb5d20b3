"""A span for each call to bakrypt, if the host uses OpenTelemetry.

A host that traces has imported `opentelemetry.trace`. Otherwise nothing of it is imported here.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_TRACE = "opentelemetry.trace"
_UNTRACED = nullcontext()
_PORTS = {"https": 443, "http": 80}


class TracedCall(Protocol):
    """What a span tells about a call when it is over."""

    status: int | None
    outcome: str


def traced(call: TracedCall, method: str, url: str) -> AbstractContextManager[None]:
    """Run a call in a span of kind CLIENT, with OpenTelemetry's attributes for HTTP clients.

    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client

    :param call: its status and outcome are read at the end.
    :param url: without secrets.
    """
    return _in_span(call, method, url) if _TRACE in sys.modules else _UNTRACED


@contextmanager
def _in_span(call: TracedCall, method: str, url: str) -> Iterator[None]:
    from opentelemetry import trace  # noqa: PLC0415 - it is an extra

    with trace.get_tracer("bakrypt_proxy").start_as_current_span(
        method,
        kind=trace.SpanKind.CLIENT,
        attributes=_describe_request(method, url),
        # An event with a traceback would hold what the frames' errors quote.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            _describe_response(span, call)


def trace_headers() -> dict[str, str]:
    """Return the header that makes bakrypt's spans part of the current trace (W3C Trace Context).

    Without `tracestate` and baggage: they are the host's or the caller's, and may be private.
    """
    if _TRACE not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - it is an extra
        TraceContextTextMapPropagator,
    )

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return {name: headers[name] for name in headers.keys() & {"traceparent"}}


def _describe_request(method: str, url: str) -> dict[str, str | int]:
    parts = urlsplit(url)
    return {
        "http.request.method": method,
        "server.address": parts.hostname or "",
        "server.port": parts.port or _PORTS[parts.scheme],
        "url.full": url,
    }


def _describe_response(span: "Span", call: TracedCall) -> None:
    span.set_attribute("bakrypt.outcome", call.outcome)
    if call.status is None:
        return
    span.set_attribute("http.response.status_code", call.status)
    if call.status >= 400:
        span.set_attribute("error.type", str(call.status))
