"""The blueprint: two routes, and the one place that turns errors into replies."""

import json
import logging

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from flask.sansio.app import App
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from .cli import add_commands
from .client import BakryptClient
from .errors import BakryptError, InvalidRequestError
from .gate import Authorize
from .parameters import read_parameters
from .proxy import Proxy
from .settings import Settings
from .types import AccessToken, ErrorResponse

logger = logging.getLogger(__name__)

_METHODS = ["POST", "OPTIONS"]
_ERROR_BY_STATUS = {401: "access_denied", 403: "access_denied", 429: "too_many_requests"}


def create_blueprint(
    *,
    name: str = "bakrypt",
    settings: Settings | None = None,
    client: BakryptClient | None = None,
    authorize: Authorize | None = None,
) -> Blueprint:
    """Return a new blueprint with `POST /auth/exchange/`, `POST /auth/token/` and the commands `flask <name> ...`.

    Unless `settings`, or a `client` with its own, are passed in, they are read from `app.config` and then from the
    environment when the blueprint is registered; registering raises `SettingsError` if they are wrong.
    `authorize` is called without arguments in each request for an exchange, and lets it in by returning true.
    """
    blueprint = Blueprint(name, __name__, url_prefix="/auth")
    views = {"exchange": exchange, "token": token}

    def set_up(state: BlueprintSetupState) -> None:
        full_name = f"{state.name_prefix}.{state.name}".lstrip(".")
        proxy = Proxy.create(state.app, blueprint, settings=settings, client=client, authorize=authorize)
        proxy.store(state.app, full_name)
        for endpoint in views:
            _match_every_method(state.app, f"{full_name}.{endpoint}")

    for endpoint, view in views.items():
        # Both spellings answer: a redirect to the slash would end a browser's preflight.
        blueprint.add_url_rule(
            f"/{endpoint}/",
            endpoint,
            view,
            methods=_METHODS,
            strict_slashes=False,
            provide_automatic_options=False,
        )
    blueprint.before_request(check_request)
    blueprint.after_request(finish_reply)
    blueprint.register_error_handler(BakryptError, render_error)
    blueprint.register_error_handler(HTTPException, render_http_error)
    blueprint.record(set_up)
    add_commands(blueprint)
    return blueprint


def exchange() -> Response:
    """`POST /auth/exchange/`: the account's access token, for those whom the app lets in."""
    proxy = _proxy()
    proxy.gate.check_exchange()
    # Without sharing each call gets a fresh token, so a rejected one needs nothing more than being well-formed.
    read_parameters(request).get("rejected_token")
    return _reply(proxy.client.exchange())


def token() -> Response:
    """`POST /auth/token/`: a user's access token, by password or by refresh token."""
    client = _proxy().client
    parameters = read_parameters(request)
    match parameters.get("grant_type"):
        case None | "password":
            return _reply(client.password(parameters.require("username"), parameters.require("password")))
        case "refresh_token":
            return _reply(client.refresh(parameters.require("refresh_token")))
        case _:
            raise InvalidRequestError("use password or refresh_token", error="unsupported_grant_type")


def check_request() -> Response | None:
    """Before each view: answer a preflight, refuse other methods and pages of other sites."""
    if request.method == "OPTIONS":
        return Response(status=204, headers={"Allow": ", ".join(_METHODS)})
    if request.method != "POST":
        raise MethodNotAllowed(_METHODS)
    _proxy().gate.check_page(request)
    return None


def finish_reply(response: Response) -> Response:
    """After each view or error: no cache keeps it (RFC 6749 section 5.1), and allowed pages may read it."""
    response.headers["Cache-Control"] = "no-store"
    response.headers["Pragma"] = "no-cache"
    return _proxy().gate.add_cors_headers(response)


def render_error(error: BakryptError) -> Response:
    """Turn an error of ours into its reply; the log gets what the caller does not."""
    if error.status >= 500:
        logger.error("%s: %s (%s)", request.endpoint, error, error.detail or "no detail")
    headers = {} if error.retry_after is None else {"Retry-After": error.retry_after}
    return _reply(error.response, error.status, headers)


def render_http_error(error: HTTPException) -> ResponseReturnValue:
    """Give an error of Flask's, or of the host app's, the body that every error of these routes has."""
    if error.response is not None or error.code is None or error.code < 400:
        return error
    code = _ERROR_BY_STATUS.get(error.code, "server_error" if error.code >= 500 else "invalid_request")
    body: ErrorResponse = {"error": code}
    if error.description:
        body["error_description"] = error.description
    response = error.get_response()
    response.data = json.dumps(body)
    response.content_type = "application/json"
    return response


def _proxy() -> Proxy:
    return Proxy.load(request.blueprint or "")


def _reply(body: AccessToken | ErrorResponse, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status, headers, mimetype="application/json")


class _EveryMethod(set[str]):
    """A rule's methods as tools list them, yet every method matches: Flask's own 405 knows no `ErrorResponse`."""

    def __contains__(self, method: object) -> bool:
        return True


def _match_every_method(app: App, endpoint: str) -> None:
    for rule in app.url_map.iter_rules(endpoint):
        rule.methods = _EveryMethod(rule.methods or ())
