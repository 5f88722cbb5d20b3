"""The parameters of a request, read from JSON or from a form and checked."""

import json
from collections.abc import Iterable
from urllib.parse import parse_qsl

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from ..errors import InvalidRequestError

MAX_BODY = 64 * 1024
_MAX_PARAMETERS = 100
_KNOWN = {"grant_type", "username", "password", "refresh_token", "scope", "rejected_token"}
_FORM = "application/x-www-form-urlencoded"
_HOW_TO_SEND = (
    f"send JSON with Content-Type: application/json, or a form with Content-Type: {_FORM}"
)


class Parameters:
    """The members of a JSON object or the fields of a form that we know.

    Unknown ones are ignored, also if they are given twice, as RFC 8707 does with `resource`.

    :raises InvalidRequestError: if a known one is given twice (RFC 6749 section 3.2).
    """

    def __init__(self, pairs: Iterable[tuple[str, object]]) -> None:
        self._values: dict[str, object] = {}
        for name, value in pairs:
            if name in self._values:
                raise InvalidRequestError(f"{name} is given more than once")
            if name in _KNOWN:
                self._values[name] = value

    def __bool__(self) -> bool:
        return bool(self._values)

    def get(self, name: str) -> str | None:
        """Return a parameter's text, or None if it is left out, empty or null.

        RFC 6749 section 3.2: an empty parameter counts as left out.

        :raises InvalidRequestError: if it is not a string.
        """
        value = self._values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise InvalidRequestError(f"{name} must be a string")
        return value

    def require(self, name: str) -> str:
        """Return a parameter's text.

        :raises InvalidRequestError: if it is left out, empty, null or not a string.
        """
        value = self.get(name)
        if value is None:
            raise InvalidRequestError(f"{name} is missing")
        return value


_NONE = Parameters(())
# Parameters sees the pairs of each object, and so a member that is given twice.
_JSON = json.JSONDecoder(object_pairs_hook=Parameters)


def read_parameters(request: Request) -> Parameters:
    """Read the body of a request. An empty body has no parameters, whatever its content type.

    :raises InvalidRequestError: if the body is neither a JSON object nor a form.
    :raises RequestEntityTooLarge: if the body is larger than 64 KiB or the app's own limit.
    """
    if _is_empty(request):
        return _NONE
    body = _read_body(request)
    if body and (request.is_json or request.mimetype == "text/json"):
        return _read_json(body)
    if body and request.mimetype == _FORM:
        return _read_form(body)
    # The host may have read a multipart form, or one of unknown length; then no body is left.
    form = list(request.form.items(multi=True))
    if not body and not form:
        return _NONE
    if form or request.mimetype == "multipart/form-data":
        return _check_form(form)
    raise InvalidRequestError(_HOW_TO_SEND)


def keep_form(request: Request) -> None:
    """Keep a form's bytes, so that they can be read after the host's CSRF check has read the form.

    From the form alone, werkzeug's replacement for bytes that are not UTF-8 cannot be told from
    what the caller wrote.
    """
    length = request.content_length
    if length is not None and length <= MAX_BODY and request.mimetype == _FORM:
        request.get_data()


def _is_empty(request: Request) -> bool:
    """Return whether the headers of an HTTP/1 request say that there is no body.

    RFC 9112 section 6.3.
    """
    environ = request.environ
    if not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
        return False
    return (
        environ.get("CONTENT_LENGTH") in {None, "", "0"} and "HTTP_TRANSFER_ENCODING" not in environ
    )


def _read_body(request: Request) -> bytes:
    host_limit = request.max_content_length
    limit = MAX_BODY if host_limit is None else min(host_limit, MAX_BODY)
    if (request.content_length or 0) > limit:
        raise RequestEntityTooLarge
    # One more than allowed: werkzeug cuts off a chunked body at its limit without an error.
    request.max_content_length = limit + 1
    body = request.get_data()
    if len(body) > limit:
        raise RequestEntityTooLarge
    return body


def _read_json(body: bytes) -> Parameters:
    try:
        parameters = _JSON.decode(body.decode("utf-8-sig"))  # some clients send a BOM
    except (ValueError, RecursionError):
        # Not `from error`: a JSONDecodeError carries the whole body, passwords included.
        raise InvalidRequestError("the body is not valid JSON") from None
    if parameters is None:  # JSON's null: some clients send it for "no body"
        return _NONE
    if not isinstance(parameters, Parameters):
        raise InvalidRequestError("the body must be a JSON object")
    return parameters


def _read_form(body: bytes) -> Parameters:
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except ValueError:
        raise InvalidRequestError("the body is not a valid form in UTF-8") from None
    parameters = Parameters(pairs)
    if not parameters and body.lstrip().startswith((b"{", b"[")):
        raise InvalidRequestError("the body looks like JSON: " + _HOW_TO_SEND)
    return parameters


def _check_form(form: list[tuple[str, str]]) -> Parameters:
    """Check a form that werkzeug has read.

    It drops what it cannot read and replaces bytes that are not UTF-8 by U+FFFD.
    """
    if not form or any("\N{REPLACEMENT CHARACTER}" in value for _, value in form):
        raise InvalidRequestError("the body is not a valid form in UTF-8")
    return Parameters(form)
