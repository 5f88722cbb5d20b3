"""What every response of ours has: an error body of one form, a request id, no cache, CORS headers.

`keep_contract` gives all of it to a blueprint, `add_route` adds a route that also answers other
methods by the contract.
"""

import json
import logging
import random
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn

from flask import Blueprint, Request, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    TooManyRequests,
    default_exceptions,
)
from werkzeug.routing import BaseConverter

from ..errors import BakryptError, InvalidRequestError, UnavailableError
from ..telemetry.calls import request_id as upstream_request_id
from ..types import ErrorResponse
from .bodies import read_rest_after
from .cors import skip
from .json_response import JsonResponse
from .registration import current_request, find_registration

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_logger = logging.getLogger(__name__)

View = Callable[..., Response]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # what can be part of a log line without harm
_REQUEST_ID_KEY = "bakrypt_proxy.request_id"  # in the WSGI environ
_COMMON_HEADERS = [
    ("Cache-Control", "no-store"),  # RFC 6749 section 5.1, as Pragma
    ("Pragma", "no-cache"),
    ("Vary", "Origin"),
    ("X-Content-Type-Options", "nosniff"),
]
_REST = "bakrypt_rest"  # the converter's name in rules
_SAFE_METHODS = {"GET", "HEAD"}  # RFC 9110 section 9.2.1; a link on any page may lead there
_ERROR_BY_STATUS = {401: "access_denied", 403: "access_denied", 429: "too_many_requests"}


def keep_contract(blueprint: Blueprint) -> None:
    """Make a blueprint check the calling page, and render all its errors as `ErrorResponse`."""
    blueprint.before_request(_check_request)
    blueprint.after_request(_finish_response)
    blueprint.register_error_handler(BakryptError, _render_error)
    blueprint.register_error_handler(HTTPException, render_http_error)
    # Each code, too: Flask prefers a host's handler for a code to a handler of ours for all.
    for code in default_exceptions:
        blueprint.register_error_handler(code, render_http_error)


def add_route(
    blueprint: Blueprint, rule: str, view: View, method: str, *, head: bool = True
) -> None:
    """Add a route for one method, with and without the slash at the end.

    :param head: whether a route for GET answers HEAD, too.

    A second rule takes all other methods, because Flask's own 405 knows no `ErrorResponse`.
    """
    endpoint = view.__name__
    # Both spellings answer: a redirect to the slash would end a browser's preflight.
    blueprint.add_url_rule(
        rule,
        endpoint,
        view,
        methods=[method, "OPTIONS"],
        strict_slashes=False,
        merge_slashes=False,
        provide_automatic_options=False,
    )
    blueprint.record(lambda state: _add_other_methods(state, endpoint, head))


class _Rest(BaseConverter):
    """The rest of a path, also if it begins with a slash, which `path` does not take."""

    regex = r"[\s\S]*?"  # line breaks, too
    weight = 300  # after all others
    part_isolating = False


def add_catch_all(blueprint: Blueprint, path: str, endpoint: str) -> None:
    """Answer all methods of a path, and of all other paths below it, with a 404 by the contract."""

    def add(state: BlueprintSetupState) -> None:
        state.app.url_map.converters[_REST] = _Rest
        for rule in (path, f"{path}/<{_REST}:rest>"):
            state.add_url_rule(
                rule,
                endpoint,
                unknown_path,
                merge_slashes=False,  # else two slashes would be redirected
                provide_automatic_options=False,
            )
        for added in state.app.url_map.iter_rules(endpoint_of(state, endpoint)):
            added.methods = None  # as in `_add_other_methods`

    blueprint.record(add)


def endpoint_of(state: BlueprintSetupState, name: str) -> str:
    """Return the endpoint that a blueprint's route has in one registration of it."""
    return f"{state.name_prefix}.{state.name}.{name}".lstrip(".")


def _add_other_methods(state: BlueprintSetupState, name: str, head: bool) -> None:
    for rule in list(state.app.url_map.iter_rules(endpoint_of(state, name))):
        if rule.methods is not None and not head:
            rule.methods.discard("HEAD")  # which werkzeug adds to GET
        second = rule.empty()
        second.merge_slashes = rule.merge_slashes  # which `empty` forgets
        second.methods = None  # every method; Flask's add_url_rule has no word for it
        state.app.url_map.add(second)


def _check_request() -> Response | None:
    """Before each view: refuse other methods and pages of other origins, answer a preflight."""
    current = current_request()
    registration, rule = find_registration(current), current.url_rule
    if registration is None or rule is None:
        return None  # a route that the host added to the blueprint
    upstream_request_id.set(_request_id(current.environ))
    if rule.methods is None:
        _refuse_method(rule.endpoint)
    if current.method not in _SAFE_METHODS:
        registration.access.check_origin(current)
    if current.method == "OPTIONS":
        return Response(status=204, headers={"Allow": ", ".join(sorted(rule.methods))})
    return None


def _refuse_method(endpoint: str) -> NoReturn:
    rules = current_app.url_map.iter_rules(endpoint)
    allowed = sorted({method for rule in rules for method in rule.methods or ()})
    if not allowed:
        unknown_path()
    raise MethodNotAllowed(allowed)


def unknown_path(**_: str) -> NoReturn:
    """Answer for a path that leads nowhere.

    :raises InvalidRequestError: always, with status 404.
    """
    raise InvalidRequestError("there is no such path", status=404, error="not_found")


def _finish_response(response: Response) -> Response:
    """After each view or error: no cache keeps it, and pages of listed origins may read it."""
    current = current_request()
    registration = find_registration(current)
    if registration is None:
        return response
    read_rest_after(response, current)
    upstream_request_id.set(None)  # a later call of this thread does not belong to this request
    origin = current.environ.get("HTTP_ORIGIN")
    if origin is None and isinstance(response, JsonResponse) and response.is_untouched:
        skip(response)
        return response
    if response.status_code >= 400 and not _is_error_response(response):
        _render_again(response)
    if not isinstance(response, JsonResponse):
        for name, value in _common_headers(current):
            response.headers.setdefault(name, value)
    return registration.cors.apply(response, origin)


def _is_error_response(response: Response) -> bool:
    """Return whether a response has an `ErrorResponse` as its body."""
    body = response.get_json(silent=True) if not response.is_streamed else None
    return isinstance(body, dict) and isinstance(body.get("error"), str)


def _render_again(response: Response) -> None:
    """Replace the body of an error that the host's own handler rendered, for a crash for example.

    The handler has run: it, its log and its Sentry have seen the error.
    """
    error = default_exceptions.get(response.status_code, InternalServerError)()
    response.direct_passthrough = False
    response.data = json.dumps(_error_response(error, response.status_code))
    response.content_type = "application/json"


def _render_error(error: BakryptError) -> Response:
    """Turn an error of ours into its response; the log gets what the caller does not."""
    if error.status >= 500 or error.detail:
        is_fault = error.status >= 500 and not isinstance(error, UnavailableError)
        level = logging.ERROR if is_fault else logging.WARNING
        fields = {"route": request.endpoint, "request_id": _request_id(request.environ)}
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        _logger.log(level, "%s %s", error, line, extra={"fields": fields})
    headers = {} if error.retry_after is None else {"Retry-After": error.retry_after}
    return json_response(json.dumps(error.response), error.status, headers)


def render_http_error(error: HTTPException) -> ResponseReturnValue:
    """Turn an error of Flask's or of the app's into a response with an `ErrorResponse`.

    An app that wants this body everywhere registers it as its own handler of `HTTPException`.
    """
    response = error.get_response()
    if error.response is not None or error.code is None or error.code < 400:
        return response
    response.data = json.dumps(_error_response(error, error.code))
    response.content_type = "application/json"
    return response


def _error_response(error: HTTPException, status: int) -> ErrorResponse:
    default = "server_error" if status >= 500 else "invalid_request"
    body: ErrorResponse = {"error": _ERROR_BY_STATUS.get(status, default)}
    description = _too_many(error) if isinstance(error, TooManyRequests) else error.description
    if description:
        body["error_description"] = str(description)
    return body


def _too_many(error: TooManyRequests) -> str:
    """Return a sentence for a person. A limiter's own description is "10 per 1 minute"."""
    seconds = error.retry_after
    when = f"in {seconds} seconds" if isinstance(seconds, int) else "later"
    return f"Too many attempts. Try again {when}."


def json_response(
    text: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response whose body is JSON already."""
    response = JsonResponse(text, status, _common_headers(current_request()))
    if headers:
        response.headers.extend(headers)
    return response


def _common_headers(current: Request) -> list[tuple[str, str]]:
    return [*_COMMON_HEADERS, ("X-Request-ID", _request_id(current.environ))]


def request_id(current: Request) -> str:
    """Return the id of a request."""
    return _request_id(current.environ)


def _request_id(environ: "WSGIEnvironment") -> str:
    """Return the id that the caller or a proxy gave this request, or a new one."""
    if _REQUEST_ID_KEY not in environ:
        given = environ.get("HTTP_X_REQUEST_ID")
        valid = given is not None and _REQUEST_ID.fullmatch(given)
        environ[_REQUEST_ID_KEY] = given if valid else _new_request_id()
    return str(environ[_REQUEST_ID_KEY])


def _new_request_id() -> str:
    # Not from os.urandom, which releases the interpreter's lock: this thread would wait for it.
    return f"{random.getrandbits(128):032x}"
