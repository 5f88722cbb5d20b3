"""The parameters of a request, read from JSON or from a form and checked.

What a frame holds when an error is raised is masked: it may be a password.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast
from urllib.parse import parse_qsl

from flask import Request

from ..errors import InvalidRequestError
from ..upstream.masking import Masked
from .bodies import read_body

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
    `duplicate` is the name of a known one that is given twice (RFC 6749 section 3.2).
    """

    def __init__(self, pairs: Iterable[tuple[str, object]]) -> None:
        values: dict[str, object] = {}
        self.duplicate: str | None = None
        for name, value in pairs:
            if name in values:
                self.duplicate = name
            if name in _KNOWN:
                values[name] = value
        self._values = Masked(values)

    def __bool__(self) -> bool:
        return bool(self._values.reveal())

    def get(self, name: str) -> str | None:
        """Return a parameter's text, or None if it is left out, empty or null.

        RFC 6749 section 3.2: an empty parameter counts as left out.

        :raises InvalidRequestError: if it is not a string.
        """
        value = Masked(self._values.reveal().get(name, ""))
        if value.reveal() is None or value.reveal() == "":
            return None
        if not isinstance(value.reveal(), str):
            raise InvalidRequestError(f"{name} must be a string")
        return cast("str", value.reveal())

    def require(self, name: str) -> str:
        """Return a parameter's text.

        :raises InvalidRequestError: if it is left out, empty, null or not a string.
        """
        value = Masked(self.get(name))
        if value.reveal() is None:
            raise InvalidRequestError(f"{name} is missing")
        return cast("str", value.reveal())


_NONE = Parameters(())
# Parameters sees the pairs of each object, and so a member that is given twice.
_JSON = json.JSONDecoder(object_pairs_hook=Parameters)


def read_parameters(request: Request) -> Parameters:
    """Read the body of a request. An empty body has no parameters, whatever its content type.

    :raises InvalidRequestError: if the body is neither a JSON object nor a form, or if a known
        parameter is given twice.
    :raises RequestEntityTooLarge: if the body is larger than 64 KiB or the app's own limit.
    :raises BadRequest: if its length is not valid, or the caller left before all of it was there.
    """
    if _is_empty(request):
        return _NONE
    parameters = _read(request)
    if parameters.duplicate is not None:
        raise InvalidRequestError(f"{parameters.duplicate} is given more than once")
    return parameters


def keep_form(request: Request) -> None:
    """Keep a form's bytes, so that they can be read after the host's CSRF check has read the form.

    From the form alone, werkzeug's replacement for bytes that are not UTF-8 cannot be told from
    what the caller wrote.
    """
    length = request.content_length if request.mimetype == _FORM else None
    if length is not None and length <= MAX_BODY:
        request.get_data()


def _read(request: Request) -> Parameters:
    host_limit = request.max_content_length
    limit = MAX_BODY if host_limit is None else min(host_limit, MAX_BODY)
    body = Masked(read_body(request, limit))
    if body.reveal() and (request.is_json or request.mimetype == "text/json"):
        return _read_json(body)
    if body.reveal() and request.mimetype == _FORM:
        return _read_form(body)
    # The host may have read a multipart form, or one of unknown length; then no body is left.
    form = Masked(list(request.form.items(multi=True)))
    if not body.reveal() and not form.reveal():
        return _NONE
    if form.reveal() or request.mimetype == "multipart/form-data":
        return _check_form(form)
    raise InvalidRequestError(_HOW_TO_SEND)


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


def _read_json(body: Masked[bytes]) -> Parameters:
    found: Masked[Any] | None = None
    # Python's error carries the whole body, passwords included. Some clients send a BOM.
    with suppress(ValueError, RecursionError):
        found = Masked(_JSON.decode(body.reveal().decode("utf-8-sig")))
    if found is None:
        raise InvalidRequestError("the body is not valid JSON")
    if found.reveal() is None:  # JSON's null: some clients send it for "no body"
        return _NONE
    if not isinstance(found.reveal(), Parameters):
        raise InvalidRequestError("the body must be a JSON object")
    return cast("Parameters", found.reveal())


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
        raise InvalidRequestError("the body is not a valid form in UTF-8")
    parameters = Parameters(form.reveal())
    if not parameters and body.reveal().lstrip().startswith((b"{", b"[")):
        raise InvalidRequestError(f"the body looks like JSON: {_HOW_TO_SEND}")
    return parameters


def _check_form(form: Masked[list[tuple[str, str]]]) -> Parameters:
    """Check a form that werkzeug has read.

    It drops what it cannot read and replaces bytes that are not UTF-8 by U+FFFD.
    """
    is_broken = any("\N{REPLACEMENT CHARACTER}" in value for _, value in form.reveal())
    if is_broken or not form.reveal():
        raise InvalidRequestError("the body is not a valid form in UTF-8")
    return Parameters(form.reveal())
