"""The blueprint: two routes, and the one place that turns errors into replies."""

import json
import logging
import random
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from flask import Blueprint, Request, Response, request
from flask.blueprints import BlueprintSetupState
from flask.sansio.app import App
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, MethodNotAllowed, default_exceptions

from .cli import add_commands, settings_error_explained
from .client import BakryptClient
from .errors import BakryptError, InvalidRequestError
from .gate import Authorize
from .observation import request_id
from .parameters import read_parameters
from .registration import Registration
from .settings import Settings
from .types import ErrorResponse

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # what can stand in a log line without doing harm
_REGISTRATION_KEY = "bakrypt_proxy.registration"  # in the WSGI environ, which is at hand everywhere
_REQUEST_ID_KEY = "bakrypt_proxy.request_id"
_OF_EVERY_REPLY = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("Pragma", "no-cache"),
    ("Vary", "Origin"),
]
_HARMLESS = {"GET", "HEAD"}  # nothing is given away there: a link from any page may lead to it
_ERROR_BY_STATUS = {401: "access_denied", 403: "access_denied", 429: "too_many_requests"}


def create_blueprint(
    *,
    name: str = "bakrypt",
    settings: Settings | None = None,
    client: BakryptClient | None = None,
    authorize: Authorize | None = None,
) -> Blueprint:
    """Return a new blueprint: the two routes, `GET /auth/openapi.json`, and the commands `flask <name> ...`.

    Unless `settings`, or a `client` with its own, are passed in, they are read from `app.config` and then from the
    environment when the blueprint is registered; registering raises `SettingsError` if they are wrong.
    `authorize` is called without arguments in each request for an exchange, and lets it in by returning true.
    """
    blueprint = Blueprint(name, __name__, url_prefix="/auth")

    def set_up(state: BlueprintSetupState) -> None:
        with settings_error_explained():
            registration = Registration.create(
                state.app, blueprint, settings=settings, client=client, authorize=authorize
            )
        endpoints = [f"{state.name_prefix}.{state.name}.{view.__name__}".lstrip(".") for view, _ in _ROUTES.values()]
        registration.store(state.app, endpoints)
        _match_every_method(state.app, endpoints, registration)

    for rule, (view, method) in _ROUTES.items():
        # Both spellings answer: a redirect to the slash would end a browser's preflight.
        blueprint.add_url_rule(
            rule,
            view_func=view,
            methods=[method, "OPTIONS"],
            strict_slashes=False,
            provide_automatic_options=False,
        )
    blueprint.before_request(check_request)
    blueprint.after_request(finish_reply)
    blueprint.register_error_handler(BakryptError, render_error)
    # One by one, too: Flask prefers a handler of the host's for a code to one of ours for them all.
    blueprint.register_error_handler(HTTPException, render_http_error)
    for code in default_exceptions:
        blueprint.register_error_handler(code, render_http_error)
    blueprint.record(set_up)
    add_commands(blueprint)
    return blueprint


def exchange() -> Response:
    """`POST /auth/exchange/`: the account's access token, for those whom the app lets in."""
    current = _current_request()
    registration = _registration(current)
    registration.gate.check_exchange()
    return JsonReply(current, registration.exchange(read_parameters(current).get("rejected_token")))


def token() -> Response:
    """`POST /auth/token/`: a user's access token, by password or by refresh token."""
    current = _current_request()
    client = _registration(current).client
    parameters = read_parameters(current)
    match parameters.get("grant_type"):
        case None | "password":
            answer = client.password(parameters.require("username"), parameters.require("password"))
        case "refresh_token":
            answer = client.refresh(parameters.require("refresh_token"))
        case _:
            raise InvalidRequestError("use password or refresh_token", error="unsupported_grant_type")
    return JsonReply(current, json.dumps(answer))


def openapi() -> Response:
    """`GET /auth/openapi.json`: these routes, described for machines (OpenAPI 3.1)."""
    document = json.loads(_read("openapi.json"))
    # Not "./": paths are appended to it, and two slashes are a redirect.
    document["servers"][0]["url"] = request.script_root + request.path.rstrip("/").removesuffix("/openapi.json")
    return Response(json.dumps(document), mimetype="application/json")


def script() -> Response:
    """`GET /auth/bakrypt.js`: the module that keeps a page's token alive."""
    response = Response(_read("browser/bakrypt.js"), mimetype="text/javascript")
    # Not the tokens' no-store: a browser may keep it, and asks whether it has changed.
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response


def check_request() -> Response | None:
    """Before each view of ours: answer a preflight, refuse other methods and pages of other sites."""
    current = _current_request()
    methods = current.url_rule.methods if current.url_rule is not None else None
    if not isinstance(methods, _EveryMethod):
        if Registration.find(current.endpoint) is None:  # a route that the host has added to the blueprint
            return None
        raise MethodNotAllowed(methods)
    current.environ[_REGISTRATION_KEY] = registration = methods.registration
    request_id.set(_request_id(current))
    if current.method not in methods.own:
        raise MethodNotAllowed(methods)
    if current.method not in _HARMLESS:
        registration.gate.check_page(current)
    if current.method == "OPTIONS":
        return Response(status=204, headers={"Allow": ", ".join(methods)})
    return None


def finish_reply(response: Response) -> Response:
    """After each view or error of ours: no cache keeps it (RFC 6749 section 5.1), and allowed pages may read it."""
    current = _current_request()
    registration = current.environ.get(_REGISTRATION_KEY) or Registration.find(current.endpoint)
    if registration is None:
        return response
    request_id.set(None)  # what the thread does next, for a host's own view say, is not this request's
    origin = current.environ.get("HTTP_ORIGIN")
    if origin is None and isinstance(response, JsonReply) and response.is_untouched:
        registration.gate.leave_without_cors_headers(response)
        return response
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Pragma", "no-cache")
    response.headers["X-Request-ID"] = _request_id(current)
    return registration.gate.add_cors_headers(response, origin)


def render_error(error: BakryptError) -> Response:
    """Turn an error of ours into its reply; the log gets what the caller does not."""
    if error.status >= 500 or error.detail:
        level = logging.ERROR if error.status >= 500 else logging.WARNING
        fields = {"endpoint": request.endpoint, "request_id": _request_id(request)}
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        logger.log(level, "%s %s", error.explain(), line, extra={"fields": fields})
    headers = {} if error.retry_after is None else {"Retry-After": error.retry_after}
    return JsonReply(_current_request(), json.dumps(error.response), error.status, headers)


def render_http_error(error: HTTPException) -> ResponseReturnValue:
    """Give an error of Flask's, or of the host app's, the body that every error of these routes has."""
    if error.response is not None or error.code is None or error.code < 400:
        return error
    code = _ERROR_BY_STATUS.get(error.code, "server_error" if error.code >= 500 else "invalid_request")
    body: ErrorResponse = {"error": code}
    if error.description:
        body["error_description"] = str(error.description)
    response = error.get_response()
    response.data = json.dumps(body)
    response.content_type = "application/json"
    return response


@cache
def _read(path: str) -> bytes:
    """Return a file of this package, read once."""
    return resources.files(__package__).joinpath(path).read_bytes()


class _SoundHeaders(Headers):
    """Headers that are text without a line break to begin with; werkzeug would look at each, for two microseconds."""

    def __init__(self, sound: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self._list = [*sound]


class JsonReply(Response):
    """A reply of JSON that is whole from the start.

    werkzeug would look through its headers once more, copy them, and find nothing to mend: neither a Location nor a
    body of unknown length. That is a tenth of the cost of a shared exchange.
    """

    def __init__(
        self, current: Request, text: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        body = text.encode()
        own = [("X-Request-ID", _request_id(current)), ("Content-Length", str(len(body)))]
        super().__init__([body], status, _SoundHeaders(_OF_EVERY_REPLY + own))
        if headers:
            self.headers.extend(headers)
        self._count = len(self.headers)

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has added a header to it."""
        return len(self.headers) == self._count

    def get_wsgi_headers(self, environ: dict[str, Any]) -> Headers:  # noqa: ARG002 - werkzeug passes it
        """Return the headers as they are."""
        return self.headers


def _current_request() -> Request:
    """Return the request itself: looking at it through Flask's proxy costs a microsecond each time."""
    current: Request = request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 - werkzeug documents it
    return current


def _request_id(current: Request) -> str:
    """Return the id that the caller, or a proxy in front, has given this request, or a new one."""
    environ = current.environ
    if _REQUEST_ID_KEY not in environ:
        given = environ.get("HTTP_X_REQUEST_ID")
        environ[_REQUEST_ID_KEY] = given if given and _REQUEST_ID.fullmatch(given) else _new_request_id()
    return str(environ[_REQUEST_ID_KEY])


def _new_request_id() -> str:
    # Not of os.urandom, which lets go of the interpreter's lock: other threads take it, and this one waits.
    return f"{random.getrandbits(128):032x}"


def _registration(current: Request) -> Registration:
    registration: Registration = current.environ[_REGISTRATION_KEY]
    return registration


_ROUTES: dict[str, tuple[Callable[[], Response], str]] = {
    "/exchange/": (exchange, "POST"),
    "/token/": (token, "POST"),
    "/openapi.json": (openapi, "GET"),
    "/bakrypt.js": (script, "GET"),
}


class _EveryMethod(set[str]):
    """A rule's methods as tools list them, yet every method matches: Flask's own 405 knows no `ErrorResponse`.

    Another view at the same path is reached only if its rule was added before.
    """

    def __init__(self, own: Iterable[str], registration: Registration) -> None:
        super().__init__(own)
        self.own = frozenset(own)
        self.registration = registration

    def __contains__(self, method: object) -> bool:
        return True


def _match_every_method(app: App, endpoints: Iterable[str], registration: Registration) -> None:
    for endpoint in endpoints:
        for rule in app.url_map.iter_rules(endpoint):
            rule.methods = _EveryMethod(rule.methods or (), registration)
