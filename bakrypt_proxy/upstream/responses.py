"""What a response of bakrypt means: an access token, or which error and whose."""

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
from .masking import Masked
from .response_reader import Response

MAX_BODY = 64 * 1024  # bytes

_LONGEST_DATE = 40  # characters
_TOO_MANY_REQUESTS = 429
# Said of a connection, here that of this server. Browsers would take them as said of theirs: they
# send a request again after 408 and 421, be it a mint, and show no page a 407.
_ABOUT_THE_CONNECTION = {407, 408, 421, 425, 426}
# Django REST framework says `detail` alone; these are the nearest codes of RFC 6749.
_ERROR_BY_STATUS = {
    401: "invalid_grant",
    403: "access_denied",
    _TOO_MANY_REQUESTS: "too_many_requests",
}


class Grant(NamedTuple):
    """One of the three ways to get a token, and how bakrypt refuses this server's credentials.

    `endpoint` is the word of signals, metrics and the log. `settings` names the settings that hold
    the credentials.
    """

    endpoint: str
    path: str
    settings: str
    grant_type: str = ""
    refusing_statuses: Collection[int] = ()
    refusing_errors: Collection[str] = ()
    carries_callers_words: bool = True


EXCHANGE = Grant(
    "exchange",
    "/auth/exchange/",
    "BAKRYPT_TOKEN",
    refusing_statuses={401, 403},
    carries_callers_words=False,
)
PASSWORD = Grant(
    "token",
    "/auth/token/",
    "BAKRYPT_CLIENT_ID and BAKRYPT_CLIENT_SECRET",
    grant_type="password",
    refusing_errors={"invalid_client", "unauthorized_client"},
)
REFRESH = PASSWORD._replace(grant_type="refresh_token")


def read_response(grant: Grant, response: Response, secret: Masked[str]) -> AccessToken:
    """Return the access token in a response.

    :param secret: the server's own, which was sent; an upstream that repeats it is not quoted.
    :raises BakryptError: the error that the response means.
    """
    # The functions below return errors and do not raise them: their frames hold tokens.
    result = _read(grant, response, secret)
    if isinstance(result, BakryptError):
        raise result from None
    return result


def _read(grant: Grant, response: Response, secret: Masked[str]) -> AccessToken | BakryptError:
    if 200 <= response.status < 300:
        return _read_token(response)
    if not is_refusal(response.status):
        return _not_a_refusal(response)
    if response.status in grant.refusing_statuses:
        return _credentials_refused(grant, response)
    return _read_refusal(grant, response, secret)


def is_refusal(status: int) -> bool:
    """Return whether a status says that bakrypt refuses what was sent."""
    return 400 <= status < 500 and status not in _ABOUT_THE_CONNECTION


def _read_token(response: Response) -> AccessToken | BakryptError:
    body = _read_object(response)
    if isinstance(body, BakryptError):
        return body
    if not _is_token(body.get("access_token")):
        return _failure("bakrypt's reply held no usable access_token", response)
    return cast("AccessToken", body)


def _is_token(value: object) -> bool:
    """Return whether a value can be sent in a header (RFC 6749 appendix A.12: printable ASCII)."""
    return isinstance(value, str) and bool(value) and value.isascii() and value.isprintable()


def _read_refusal(grant: Grant, response: Response, secret: Masked[str]) -> BakryptError:
    read = _read_error(response)
    if isinstance(read, BakryptError):
        return read
    error, description = read
    if error in grant.refusing_errors:
        return _credentials_refused(grant, response)
    if not grant.carries_callers_words and response.status != _TOO_MANY_REQUESTS:
        text = f"bakrypt did not understand the exchange (status {response.status})"
        return _failure(text, response)
    said = f"{error} {description}"
    if secret.reveal() in said or quote_plus(secret.reveal()) in said:
        return _failure("bakrypt's refusal repeated a secret", response)
    return UpstreamRefusedError(
        description, status=response.status, error=error, retry_after=retry_after_of(response)
    )


def _credentials_refused(grant: Grant, response: Response) -> CredentialsRefusedError:
    return CredentialsRefusedError(
        "bakrypt refused this server's credentials",
        detail=f"status {response.status} from {grant.path}: look at {grant.settings}",
        retry_after=retry_after_of(response),
    )


def _not_a_refusal(response: Response) -> UpstreamFailedError:
    if 300 <= response.status < 400:
        return _failure(
            "bakrypt answered with a redirect, which is not followed",
            response,
            hint="is BAKRYPT_URL right?",
        )
    return _failure(f"bakrypt failed (status {response.status})", response)


def _read_error(response: Response) -> tuple[str, str | None] | BakryptError:
    """Return code and description of a 4xx, in bakrypt's words where they fit the contract."""
    fitting = _ERROR_BY_STATUS.get(response.status, "invalid_request")
    body = _read_object(response)
    if isinstance(body, BakryptError):
        # A throttle in front of bakrypt answers in HTML; its status says all there is to say.
        return (fitting, None) if response.status == _TOO_MANY_REQUESTS else body
    error = body.get("error")
    if isinstance(error, str) and error:
        return error, _text(body.get("error_description"))
    return fitting, _text(body.get("detail"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _read_object(response: Response) -> dict[str, Any] | BakryptError:
    if len(response.body.reveal()) > MAX_BODY:
        return _failure("bakrypt's reply was too large", response)
    try:
        body = STRICT_JSON.decode(response.body.reveal().decode())
    except (ValueError, RecursionError):
        return _failure("bakrypt's reply was not JSON", response)
    if not isinstance(body, dict):
        return _failure("bakrypt's reply was not a JSON object", response)
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """Read a number that JSON can write again: 1e999 would go on to the browser as Infinity."""
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError("a number out of range")
    return number


STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _failure(description: str, response: Response, *, hint: str = "") -> UpstreamFailedError:
    # The body is left out on purpose: it may hold a token.
    detail = f"status {response.status}, {len(response.body.reveal())} bytes read"
    return UpstreamFailedError(
        description,
        detail=f"{detail}; {hint}" if hint else detail,
        retry_after=retry_after_of(response),
    )


def retry_after_of(response: Response) -> str | None:
    """Return the Retry-After header if it makes sense and is no longer than a date."""
    value = response.headers.reveal().get("retry-after", "")
    is_plain = value.isascii() and value.isprintable() and len(value) <= _LONGEST_DATE
    return value if is_plain and retry_after_seconds(value) is not None else None


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110 section 10.2.3).

    None means that there is none, or that it makes no sense.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    date = parsedate_tz(value)
    try:
        return None if date is None else max(0.0, mktime_tz(date) - time.time())
    except (ValueError, OverflowError):  # a year that no clock knows
        return None
