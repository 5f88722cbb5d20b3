"""What a reply of bakrypt means: an access token, or which error and whose."""

import json
import time
from collections.abc import Collection
from email.utils import mktime_tz, parsedate_tz
from typing import Any, NamedTuple, NoReturn, cast
from urllib.parse import quote_plus

from ..errors import (
    BakryptError,
    CredentialsRefusedError,
    UpstreamFailedError,
    UpstreamRefusedError,
)
from ..types import AccessToken

MAX_BODY = 64 * 1024

_TOO_MANY_REQUESTS = 429
# Django REST framework says `detail` alone; these are the nearest codes of RFC 6749.
_ERROR_BY_STATUS = {
    401: "invalid_grant",
    403: "access_denied",
    _TOO_MANY_REQUESTS: "too_many_requests",
}


class Reply(NamedTuple):
    """What came back over HTTP. `body` has at most `MAX_BODY` + 1 bytes."""

    status: int
    body: bytes
    retry_after: str | None


class Endpoint(NamedTuple):
    """One of the two upstream endpoints, and how it tells that the server's own credentials are refused.

    `settings` names the settings that hold these credentials.
    """

    name: str
    path: str
    settings: str
    refusing_statuses: Collection[int] = ()
    refusing_errors: Collection[str] = ()
    carries_callers_words: bool = True


EXCHANGE = Endpoint(
    "exchange",
    "/auth/exchange/",
    "BAKRYPT_TOKEN",
    refusing_statuses={401, 403},
    carries_callers_words=False,
)
TOKEN = Endpoint(
    "token",
    "/auth/token/",
    "BAKRYPT_CLIENT_ID and BAKRYPT_CLIENT_SECRET",
    refusing_errors={"invalid_client", "unauthorized_client"},
)


def read_reply(endpoint: Endpoint, reply: Reply, secret: str) -> AccessToken:
    """Return the access token in a reply, or raise the `BakryptError` that the reply amounts to.

    `secret` is what was sent to `endpoint`; an upstream that repeats it is not quoted.
    """
    if 200 <= reply.status < 300:
        return _read_token(reply)
    raise _refusal(endpoint, reply, secret)


def _read_token(reply: Reply) -> AccessToken:
    body = _read_object(reply)
    if not isinstance(body.get("access_token"), str) or not body["access_token"]:
        raise _failure("bakrypt's reply held no access_token", reply)
    return cast("AccessToken", body)


def _refusal(endpoint: Endpoint, reply: Reply, secret: str) -> BakryptError:
    if not 400 <= reply.status < 500:
        return _not_a_refusal(reply)
    if reply.status in endpoint.refusing_statuses:
        return _credentials_refused(endpoint, reply)
    error, description = _read_error(reply)
    if error in endpoint.refusing_errors:
        return _credentials_refused(endpoint, reply)
    if not endpoint.carries_callers_words and reply.status != _TOO_MANY_REQUESTS:
        return _failure(f"bakrypt did not understand the exchange (status {reply.status})", reply)
    said = f"{error} {description}"
    if secret in said or quote_plus(secret) in said:
        return _failure("bakrypt's refusal repeated a secret", reply)
    return UpstreamRefusedError(
        description, status=reply.status, error=error, retry_after=reply.retry_after
    )


def _credentials_refused(endpoint: Endpoint, reply: Reply) -> CredentialsRefusedError:
    return CredentialsRefusedError(
        "bakrypt refused this server's credentials",
        detail=f"status {reply.status} from {endpoint.path}: look at {endpoint.settings}",
        retry_after=reply.retry_after,
    )


def _not_a_refusal(reply: Reply) -> UpstreamFailedError:
    if 300 <= reply.status < 400:
        return _failure(
            "bakrypt answered with a redirect, which is not followed",
            reply,
            hint="is BAKRYPT_URL right?",
        )
    return _failure(f"bakrypt failed (status {reply.status})", reply)


def _read_error(reply: Reply) -> tuple[str, str | None]:
    """Return code and description of a 4xx, in bakrypt's words where it has any that fit the contract."""
    fitting = _ERROR_BY_STATUS.get(reply.status, "invalid_request")
    try:
        body = _read_object(reply)
    except UpstreamFailedError:
        # A throttle in front of bakrypt answers in HTML; its status says all there is to say.
        if reply.status == _TOO_MANY_REQUESTS:
            return fitting, None
        raise
    error = body.get("error")
    if isinstance(error, str) and error:
        return error, _text(body.get("error_description"))
    return fitting, _text(body.get("detail"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _read_object(reply: Reply) -> dict[str, Any]:
    if len(reply.body) > MAX_BODY:
        raise _failure("bakrypt's reply was too large", reply)
    try:
        body = _JSON.decode(reply.body.decode())
    except (ValueError, RecursionError):
        # Not `from error`: a JSONDecodeError carries the whole body, tokens included.
        raise _failure("bakrypt's reply was not JSON", reply) from None
    if not isinstance(body, dict):
        raise _failure("bakrypt's reply was not a JSON object", reply)
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """Read a number that JSON can write again: 1e999 would go on to the browser as Infinity."""
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError("a number out of range")
    return number


_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _failure(description: str, reply: Reply, *, hint: str = "") -> UpstreamFailedError:
    # The body is left out on purpose: it may hold a token.
    detail = f"status {reply.status}, {len(reply.body)} bytes read"
    return UpstreamFailedError(
        description, detail=f"{detail}; {hint}" if hint else detail, retry_after=reply.retry_after
    )


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110 section 10.2.3), or None if it is senseless."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    date = parsedate_tz(value)
    try:
        return None if date is None else max(0.0, mktime_tz(date) - time.time())
    except (ValueError, OverflowError):  # a year that no clock knows
        return None
