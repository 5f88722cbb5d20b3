"""The parameters of a request, read from JSON or from a form and checked."""

import json
from collections.abc import Iterable
from urllib.parse import parse_qsl

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from ..errors import InvalidRequestError

MAX_BODY = 64 * 1024
_MAX_PARAMETERS = 100


class Parameters:
    """The members of a JSON object or the fields of a form.

    :raises InvalidRequestError: if a name is given twice (RFC 6749 section 3.2).
    """

    def __init__(self, pairs: Iterable[tuple[str, object]]) -> None:
        self._values: dict[str, object] = {}
        for name, value in pairs:
            if name in self._values:
                raise InvalidRequestError(
                    f"{name} is given more than once" if name.isprintable() else "a duplicate"
                )
            self._values[name] = value

    def get(self, name: str) -> str | None:
        """Return a parameter's text, or None if it is left out.

        :raises InvalidRequestError: if it is empty or not a string.
        """
        if name not in self._values:
            return None
        value = self._values[name]
        if not isinstance(value, str) or not value:
            raise InvalidRequestError(f"{name} must be a string that is not empty")
        return value

    def require(self, name: str) -> str:
        """Return a parameter's text.

        :raises InvalidRequestError: if it is left out, empty or not a string.
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
    if body and request.is_json:
        return _read_json(body)
    if body and request.mimetype == "application/x-www-form-urlencoded":
        return _read_form(body)
    # The host's CSRF check may have read the form already; then no body is left.
    form = list(request.form.items(multi=True))
    if not body and not form:
        return _NONE
    if form or request.mimetype == "multipart/form-data":
        return _check_form(form)
    raise InvalidRequestError("send JSON with Content-Type: application/json, or a form")


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
        parameters = _JSON.decode(body.decode())
    except (ValueError, RecursionError):
        # Not `from error`: a JSONDecodeError carries the whole body, passwords included.
        raise InvalidRequestError("the body is not valid JSON") from None
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
    return Parameters(pairs)


def _check_form(form: list[tuple[str, str]]) -> Parameters:
    """Check a form that werkzeug has read.

    It drops what it cannot read and replaces bytes that are not UTF-8 by U+FFFD.
    """
    if not form or any("\N{REPLACEMENT CHARACTER}" in value for _, value in form):
        raise InvalidRequestError("the body is not a valid form in UTF-8")
    return Parameters(form)
