"""A log line and a signal for each call to bakrypt."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field

from ..errors import BakryptError, CredentialsRefusedError, UpstreamRefusedError
from .signals import notify, upstream_called
from .tracing import traced

_logger = logging.getLogger(__name__)

request_id: ContextVar[str | None] = ContextVar("bakrypt_request_id", default=None)
"""The id of the caller's request; the log lines of its calls to bakrypt carry it."""

_OUTCOMES = {UpstreamRefusedError: "refused", CredentialsRefusedError: "credentials_refused"}


@dataclass
class UpstreamCall:
    """One call to bakrypt, without secrets and without its body.

    :param endpoint: `exchange`, `token`, or the name of a call to the API.
    :param shared: whether the token is for all callers.
    :param status: bakrypt's HTTP status; None if there was no response.
    :param bytes_sent: how many bytes of the body of a call to the API were sent.
    :param outcome: `success`, `refused`, `credentials_refused`, `failed`, or `aborted` if the
        caller left before the body was sent.
    """

    endpoint: str
    network: str
    shared: bool
    status: int | None = None
    outcome: str = "failed"
    milliseconds: float = 0
    bytes_sent: int = 0
    request_id: str | None = field(default_factory=request_id.get)


@contextmanager
def observed(call: UpstreamCall, *, method: str, url: str) -> Iterator[UpstreamCall]:
    """Measure a call and report it, by a log line, a signal and a span, when it is over.

    :param method: the method of the request, for the span.
    :param url: its URL, without secrets.
    """
    started = time.perf_counter()
    with traced(call, method, url):
        try:
            yield call
            call.outcome = "success"
        except BakryptError as error:
            call.outcome = outcome_of(error)
            raise
        except Exception:  # raised by the body, which comes from the caller
            call.outcome = "aborted"
            raise
        finally:
            call.milliseconds = round((time.perf_counter() - started) * 1000, 1)
            _report(call)


def _report(call: UpstreamCall) -> None:
    if _logger.isEnabledFor(logging.INFO):
        fields = asdict(call)
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        _logger.info("upstream call %s", line, extra={"fields": fields})
    notify(upstream_called, call=call)


def outcome_of(error: BakryptError) -> str:
    """Return the outcome for an error that a call to bakrypt ended with."""
    return _OUTCOMES.get(type(error), "failed")
