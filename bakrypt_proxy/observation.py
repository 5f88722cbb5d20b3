"""What can be seen from outside: a log line and a signal for each call to bakrypt, signals for the shared token.

The signals are blinker's, as Flask's own are: `upstream_called.connect(receiver)`.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

from blinker import NamedSignal, Namespace

from .errors import BakryptError, CredentialsRefusedError, UpstreamRefusedError

logger = logging.getLogger(__name__)

request_id: ContextVar[str | None] = ContextVar("bakrypt_request_id", default=None)
"""The id of the caller's request, which the log lines of its upstream calls carry."""

_signals = Namespace()
upstream_called = _signals.signal("upstream-called", "Sent after each call to bakrypt, with `call`, an UpstreamCall.")
shared_token_served = _signals.signal("shared-token-served", "Sent when a caller got the shared token, with `network`.")
shared_token_renewed = _signals.signal(
    "shared-token-renewed", "Sent after each renewal of the shared token, with `network` and `outcome`."
)

_OUTCOMES = {UpstreamRefusedError: "refused", CredentialsRefusedError: "credentials_refused"}


@dataclass
class UpstreamCall:
    """One call to bakrypt: no secret, nothing of its body.

    `outcome` is `success`, `refused`, `credentials_refused` or `failed`; `status` is None where there was no answer;
    `shared` says that the token is for all callers.
    """

    endpoint: str
    network: str
    shared: bool
    status: int | None = None
    outcome: str = "failed"
    milliseconds: float = 0
    request_id: str | None = field(default_factory=request_id.get)


@contextmanager
def observed(call: UpstreamCall) -> Iterator[UpstreamCall]:
    """Time what is done inside, and report it when it is over."""
    started = time.perf_counter()
    try:
        yield call
        call.outcome = "success"
    except BakryptError as error:
        call.outcome = outcome_of(error)
        raise
    finally:
        call.milliseconds = round((time.perf_counter() - started) * 1000, 1)
        if logger.isEnabledFor(logging.INFO):
            fields = asdict(call)
            line = " ".join(f"{name}={value}" for name, value in fields.items())
            logger.info("upstream call %s", line, extra={"fields": fields})
        notify(upstream_called, call=call)


def notify(signal: NamedSignal, **what: Any) -> None:
    """Send a signal. A receiver that fails is logged: it must not cost a caller the token that bakrypt gave."""
    if not signal.receivers:
        return
    try:
        signal.send(**what)
    except Exception:
        logger.exception("a receiver of %s failed", signal.name)


def outcome_of(error: BakryptError) -> str:
    """Return the word for an error that a call to bakrypt ended with."""
    return _OUTCOMES.get(type(error), "failed")
