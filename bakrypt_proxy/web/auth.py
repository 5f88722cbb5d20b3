"""`create_blueprint`: the two documented routes, the page's module and the OpenAPI document."""

import json

from flask import Blueprint, Response
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException

from ..cli import add_commands
from ..errors import InvalidRequestError
from ..settings import Settings
from ..upstream.client import BakryptClient
from . import documents
from .access import EXCHANGE, Authorize
from .contract import View, add_route, endpoint_of, json_response, keep_contract
from .parameters import keep_form, read_parameters
from .registration import (
    Options,
    current_request,
    find_for_commands,
    register,
    registration_of,
)


def create_blueprint(
    *,
    name: str = "bakrypt",
    settings: Settings | None = None,
    client: BakryptClient | None = None,
    authorize: Authorize | None = None,
) -> Blueprint:
    """Return a new blueprint with the routes under `/auth` and the commands `flask <name> ...`.

    Registering it raises `SettingsError` if the settings are wrong.

    :param name: the blueprint's name, and that of its commands.
    :param settings: the settings; by default those of `client`, or else they are read from
        `app.config` and then from the environment when the blueprint is registered.
    :param client: the client to use; by default a new one with the settings.
    :param authorize: called without arguments in each request for an exchange. Returning true
        lets the caller in.
    :raises TypeError: on registration, if `authorize` is not callable, or is async.
    """
    blueprint = Blueprint(name, "bakrypt_proxy", url_prefix="/auth")
    keep_contract(blueprint)
    for rule, (view, method) in _ROUTES.items():
        add_route(blueprint, rule, view, method)

    options = Options(settings, client, authorize, EXCHANGE)

    def set_up(state: BlueprintSetupState) -> None:
        endpoints = [endpoint_of(state, view.__name__) for view, _ in _ROUTES.values()]
        register(state.app, blueprint, endpoints, options)

    blueprint.record(set_up)
    blueprint.url_value_preprocessor(_keep_form)  # before the app's own hooks
    add_commands(blueprint.cli, lambda: find_for_commands(blueprint))
    return blueprint


def exchange() -> Response:
    """`POST /auth/exchange/`: the account's access token, for those whom the app lets in."""
    current = current_request()
    registration = registration_of(current)
    registration.access.check_caller(current)
    parameters, account = read_parameters(current), registration.account
    # Not kept in a variable: a crash reporter collects the local variables of each frame.
    if registration.settings.share_token:
        return json_response(account.shared_token.get_json(parameters.get("rejected_token")))
    parameters.get("rejected_token")  # it is not used, but a wrong type is an error here, too
    return json_response(json.dumps(account.client.exchange()))


def token() -> Response:
    """`POST /auth/token/`: a user's access token, by password or by refresh token."""
    current = current_request()
    client, parameters = registration_of(current).account.client, read_parameters(current)
    match parameters.get("grant_type"):
        case None | "password":
            access_token = client.password(
                parameters.require("username"),
                parameters.require("password"),
                scope=parameters.get("scope"),
            )
        case "refresh_token":
            access_token = client.refresh(
                parameters.require("refresh_token"), scope=parameters.get("scope")
            )
        case _:
            raise InvalidRequestError(
                "use password or refresh_token", error="unsupported_grant_type"
            )
    return json_response(json.dumps(access_token))


def openapi() -> Response:
    """`GET /auth/openapi.json`: these routes, described for machines (OpenAPI 3.1)."""
    return documents.openapi("openapi.json")


def script() -> Response:
    """`GET /auth/bakrypt.js`: the module that keeps a page's token alive."""
    return documents.script("bakrypt.js")


def _keep_form(endpoint: str | None, _: object) -> None:
    if endpoint is not None and endpoint.endswith(f".{token.__name__}"):
        keep_form(current_request())


_ROUTES: dict[str, tuple[View, str]] = {
    "/exchange/": (exchange, "POST"),
    "/token/": (token, "POST"),
    "/openapi.json": (openapi, "GET"),
    "/bakrypt.js": (script, "GET"),
}


def is_password_attempt() -> bool:
    """Return whether the current request sends a password to `token`, for the app's own limiter.

    A body that cannot be read counts as an attempt.
    """
    try:
        return read_parameters(current_request()).get("grant_type") != "refresh_token"
    except (InvalidRequestError, HTTPException):
        return True
