"""Signals, by blinker as Flask's own: `upstream_called.connect(receiver)`."""

import logging
from typing import Any

from blinker import NamedSignal, Namespace

_logger = logging.getLogger(__name__)

_signals = Namespace()
upstream_called: NamedSignal = _signals.signal(
    "upstream-called", "Sent after each call to bakrypt, with `call`, an UpstreamCall."
)
shared_token_served: NamedSignal = _signals.signal(
    "shared-token-served", "Sent when a caller got the shared token, with `network`."
)
shared_token_renewed: NamedSignal = _signals.signal(
    "shared-token-renewed",
    "Sent after each renewal of the shared token, with `network` and `outcome`.",
)


def notify(signal: NamedSignal, **arguments: Any) -> None:
    """Send a signal. A receiver that fails is logged and costs no caller the token."""
    if not signal.receivers:
        return
    try:
        signal.send(**arguments)
    except Exception:
        _logger.exception("a receiver of %s failed", signal.name)
