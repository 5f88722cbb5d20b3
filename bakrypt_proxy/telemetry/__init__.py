"""What an operator sees: signals, log lines, JSON logs."""

from .calls import UpstreamCall
from .json_log import JsonFormatter
from .signals import shared_token_renewed, shared_token_served, upstream_called

__all__ = [
    "JsonFormatter",
    "UpstreamCall",
    "shared_token_renewed",
    "shared_token_served",
    "upstream_called",
]
