"""The parameters of a request, from JSON or from a form, checked before they are used."""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import cast
from urllib.parse import parse_qsl

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from ..errors import InvalidRequestError
from ..upstream.masking import Masked

MAX_BODY = 64 * 1024
_MAX_PARAMETERS = 100


class Parameters:
    """The members of a JSON object or the fields of a form.

    The values are masked: a frame that raises may hold them. `duplicate` is the name of a parameter
    that is given more than once (RFC 6749 section 3.2).
    """

    def __init__(self, pairs: Iterable[tuple[str, object]]) -> None:
        values: dict[str, object] = {}
        self.duplicate: str | None = None
        for name, value in pairs:
            if name in values:
                self.duplicate = name
            elif isinstance(value, Parameters) and value.duplicate is not None:
                self.duplicate = value.duplicate
            values[name] = value
        self._values = Masked(values)

    def get(self, name: str) -> str | None:
        """Return a parameter's text, or None if it is left out.

        :raises InvalidRequestError: if it is empty or not a string.
        """
        if name not in self._values.reveal():
            return None
        if not isinstance(self._values.reveal()[name], str) or not self._values.reveal()[name]:
            raise InvalidRequestError(f"{name} must be a string that is not empty")
        return cast("str", self._values.reveal()[name])

    def require(self, name: str) -> str:
        """Return a parameter's text; it is an error to leave it out."""
        if self.get(name) is None:
            raise InvalidRequestError(f"{name} is missing")
        return cast("str", self.get(name))


_NONE = Parameters(())
_JSON = json.JSONDecoder(
    object_pairs_hook=Parameters
)  # each object's pairs, so that a member that stands twice is seen


def read_parameters(request: Request) -> Parameters:
    """Read the body of a request. An empty one has no parameters, whatever type it claims.

    :raises InvalidRequestError: if it is neither a JSON object nor a form.
    :raises RequestEntityTooLarge: if it has more than 64 KiB.
    """
    if _is_empty(request):
        return _NONE
    parameters = _read(request)
    name = parameters.duplicate
    if name is not None:
        raise InvalidRequestError(
            f"{name} is given more than once" if name.isprintable() else "a duplicate"
        )
    return parameters


def _read(request: Request) -> Parameters:
    body = Masked(_read_body(request))
    if body.reveal() and request.is_json:
        return _read_json(body)
    if body.reveal() and request.mimetype == "application/x-www-form-urlencoded":
        return _read_form(body)
    # A host's CSRF check may have read the form already, and then no body is left.
    form = Masked(list(request.form.items(multi=True)))
    if not body.reveal() and not form.reveal():
        return _NONE
    if form.reveal() or request.mimetype == "multipart/form-data":
        return _check_form(form)
    raise InvalidRequestError("send JSON with Content-Type: application/json, or a form")


def _is_empty(request: Request) -> bool:
    """Return whether the headers of HTTP/1 say that there is no body (RFC 9112 section 6.3)."""
    environ = request.environ
    if not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
        return False
    return (
        environ.get("CONTENT_LENGTH") in {None, "", "0"} and "HTTP_TRANSFER_ENCODING" not in environ
    )


def _read_body(request: Request) -> bytes:
    limit = (
        MAX_BODY
        if request.max_content_length is None
        else min(request.max_content_length, MAX_BODY)
    )
    if (request.content_length or 0) > limit:
        raise RequestEntityTooLarge
    # One more than allowed: werkzeug cuts a chunked body off at its limit without a word.
    request.max_content_length = limit + 1
    if len(request.get_data()) > limit:
        raise RequestEntityTooLarge
    return request.get_data()


def _read_json(body: Masked[bytes]) -> Parameters:
    try:
        parameters = _JSON.decode(body.reveal().decode())
    except (ValueError, RecursionError):
        # Raised below: Python's error carries the whole body, passwords included.
        parameters = None
    if parameters is None:
        raise InvalidRequestError("the body is not valid JSON") from None
    if not isinstance(parameters, Parameters):
        del parameters
        raise InvalidRequestError("the body must be a JSON object")
    return parameters


def _read_form(body: Masked[bytes]) -> Parameters:
    form: Masked[list[tuple[str, str]]] | None = None
    with suppress(ValueError):
        form = Masked(
            parse_qsl(
                body.reveal().decode(),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_PARAMETERS,
            )
        )
    if form is None:
        raise InvalidRequestError("the body is not a valid form in UTF-8") from None
    return Parameters(form.reveal())


def _check_form(form: Masked[list[tuple[str, str]]]) -> Parameters:
    """Take a form that werkzeug has read.

    It drops what it cannot read, and puts U+FFFD for what is not UTF-8.
    """
    is_broken = any("\N{REPLACEMENT CHARACTER}" in value for _, value in form.reveal())
    if is_broken or not form.reveal():
        raise InvalidRequestError("the body is not a valid form in UTF-8")
    return Parameters(form.reveal())
