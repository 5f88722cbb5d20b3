"""What a response of bakrypt's API means: JSON to hand on, or which error."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..errors import (
    BakryptError,
    CredentialsRefusedError,
    UpstreamFailedError,
    UpstreamRefusedError,
)
from .masking import Masked
from .response_reader import Response
from .responses import STRICT_JSON, is_refusal, retry_after_of

MAX_RESPONSE = 2**20  # bytes

_KEPT_WITHOUT_JSON = {413, 429}  # also from a proxy in front of bakrypt, in HTML
_ERROR_BY_STATUS = {403: "access_denied", 404: "not_found", 429: "too_many_requests"}
_SENTENCES = {
    403: "bakrypt does not allow this",
    404: "there is no such transaction",
    413: "bakrypt refuses this as too large",
    415: "bakrypt does not take this type of file",
    429: "too many requests, try again later",
}
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MAX_DETAIL = 200  # characters
_SHORTEST_QUOTE = 3  # characters of the caller's that a sentence must not repeat

Said = Callable[[], Iterable[str]]


class ApiResponse(NamedTuple):
    """A success: its status, its JSON as text, and what the text says."""

    status: int
    text: str
    content: Any


def read_api_response(response: Response, said: Said | None, token: Masked[str]) -> ApiResponse:
    """Return a success of the API.

    :param said: returns the texts that the caller sent, which no error may repeat; None if they are
        not known, as with a file.
    :param token: the token that was sent; a response that repeats it is not handed on.
    :raises UpstreamRefusedError: if bakrypt refuses the request, with bakrypt's status.
    :raises CredentialsRefusedError: if bakrypt refuses the token.
    :raises UpstreamFailedError: for anything else that is no JSON of a success.
    """
    result = _read(response, said, token)
    if isinstance(result, BakryptError):
        raise result from None
    return result


def _read(response: Response, said: Said | None, token: Masked[str]) -> ApiResponse | BakryptError:
    body, status = _json(response), response.status
    if status == 401:
        return CredentialsRefusedError(
            "bakrypt refused this server's token", detail="status 401: look at BAKRYPT_TOKEN"
        )
    if body is not None and _repeats(response, token):
        return UpstreamFailedError("bakrypt's response repeated a secret")
    if 200 <= status < 300 and body is not None:
        return ApiResponse(status, response.body.reveal().decode(), body)
    if is_refusal(status) and (body is not None or status in _KEPT_WITHOUT_JSON):
        return UpstreamRefusedError(
            _describe(status, body, said),
            status=status,
            error=_ERROR_BY_STATUS.get(status, "invalid_request"),
            retry_after=retry_after_of(response),
        )
    return _failure(response)


def _repeats(response: Response, token: Masked[str]) -> bool:
    """Return whether a response holds the token, also where JSON escapes letters of it.

    Not by a pattern: a caller may have chosen what the response says, a MiB of quotes for example.
    """
    plain = response.body.reveal().replace(rb"\\", rb"\u005c").replace(rb"\/", b"/")
    return token.reveal() in plain.decode("unicode_escape")


def _failure(response: Response) -> UpstreamFailedError:
    size = len(response.body.reveal())
    if size > MAX_RESPONSE:
        description = "bakrypt's response was too large"
    elif 300 <= response.status < 400:
        description = "bakrypt answered with a redirect, which is not followed"
    elif response.status >= 400 and not is_refusal(response.status):
        description = f"bakrypt failed (status {response.status})"
    else:
        description = f"bakrypt's response was not JSON (status {response.status})"
    return UpstreamFailedError(
        description,
        detail=f"status {response.status}, {size} bytes read",
        retry_after=retry_after_of(response),
    )


def _json(response: Response) -> Any:
    """Return the JSON object or list of a response, or None if it is something else."""
    raw = response.body.reveal()
    if len(raw) > MAX_RESPONSE:
        return None
    try:
        body = STRICT_JSON.decode(raw.decode())
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict | list) else None


def _describe(status: int, body: Any, said: Said | None) -> str:
    """Return a sentence for the caller. Bakrypt's own words are used if they are harmless.

    bakrypt's component shows the sentence as HTML, and bakrypt quotes what it was sent.
    """
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, str) and said is not None and _is_harmless(detail, said):
        return detail
    if fields := _fields(body):
        return f"bakrypt refuses these fields: {', '.join(fields)}"
    return _SENTENCES.get(status, "bakrypt refuses this request")


def _is_harmless(detail: str, said: Said) -> bool:
    if not 0 < len(detail) <= _MAX_DETAIL or not detail.isprintable() or set(detail) & set("<>&"):
        return False
    sentence = _plain(detail)
    try:
        quotes = [_plain(text) for text in said()]
    except RecursionError:
        return False  # nobody knows
    return not any(len(text) >= _SHORTEST_QUOTE and text in sentence for text in quotes)


def _plain(text: str) -> str:
    """Return a text in lower case, with single spaces: Django REST strips what it quotes."""
    return " ".join(text.lower().split())


def _fields(body: Any) -> list[str]:
    """Return the names of the fields that an error of Django REST names, without its messages."""
    names: set[str] = set()
    for item in body if isinstance(body, list) else [body]:
        if isinstance(item, dict):
            names |= {key for key, value in item.items() if isinstance(value, dict | list)}
    return sorted(name for name in names if _FIELD.fullmatch(name))
