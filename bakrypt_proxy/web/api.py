"""`create_api_blueprint`: calls to bakrypt's API from a page that holds no token."""

import json
import re
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from flask import Blueprint, Request, Response
from flask.blueprints import BlueprintSetupState

from .._parsers import NETWORKS
from ..cli import add_commands
from ..errors import (
    AccessDeniedError,
    CredentialsRefusedError,
    InvalidRequestError,
    UnavailableError,
)
from ..settings import Settings
from ..upstream.api_responses import ApiResponse
from ..upstream.client import BakryptClient
from ..upstream.masking import Masked
from ..upstream.relay import ApiRequest
from . import documents
from .access import API, Authorize
from .assets import made_transactions, read_assets, texts_in
from .contract import (
    View,
    add_catch_all,
    add_route,
    endpoint_of,
    json_response,
    keep_contract,
    request_id,
    unknown_path,
)
from .receipts import Visitor
from .registration import (
    Api,
    Options,
    Registration,
    current_request,
    find_for_commands,
    register,
    registration_of,
)
from .uploads import MAX_REPEATED, check_length, parts


class Call(NamedTuple):
    """One row of the allow-list. A path that is not in it is a 404.

    :param path: the path, here below the blueprint's prefix and at bakrypt.
    :param owned: whether only the visitor who made the transaction may call.
    """

    name: str
    method: str
    path: str
    owned: bool


CALLS = (
    Call("files", "POST", "/v1/files/", owned=False),
    Call("assets", "POST", "/v1/assets/", owned=False),
    Call("transactions", "GET", "/v1/transactions/<uuid:transaction>/", owned=True),
    Call("mint", "POST", "/v1/transactions/<uuid:transaction>/mint/", owned=True),
    Call("refund", "POST", "/v1/transactions/<uuid:transaction>/refund/", owned=True),
)
_UUID = "<uuid:transaction>"
_UNKNOWN = "there is no such transaction, or another browser made it"
_HEADER = re.compile(r"[\x20-\x7e]{1,500}")  # what may go upstream of a caller's header


def create_api_blueprint(
    *,
    name: str = "bakrypt_api",
    settings: Settings | None = None,
    client: BakryptClient | None = None,
    authorize: Authorize | None = None,
    visitor: Visitor | None = None,
) -> Blueprint:
    """Return a new blueprint with bakrypt's API under `/bakrypt`, for pages without a token.

    The account's shared token is attached here. Each visitor reaches only the transactions that
    this visitor made: signed cookies prove it. Registering the blueprint raises `SettingsError` if
    the settings are wrong or have no `BAKRYPT_TOKEN`.

    :param name: the blueprint's name, and that of its commands.
    :param settings: the settings; by default those of `client`, or else they are read from
        `app.config` and then from the environment when the blueprint is registered.
    :param client: the client whose connections are used; by default a new one with the settings.
    :param authorize: called without arguments in each request. Returning true lets the caller in.
    :param visitor: called without arguments. Returns the name of the signed-in visitor, or an empty
        string or None.
    :raises TypeError: on registration, if `authorize` or `visitor` is not callable, or is async, or
        if `client` has a session of its own.
    """
    blueprint = Blueprint(name, "bakrypt_proxy", url_prefix="/bakrypt")
    keep_contract(blueprint)
    names = _add_routes(blueprint)
    options = Options(settings, client, authorize, API, visitor)

    def set_up(state: BlueprintSetupState) -> None:
        register(state.app, blueprint, [endpoint_of(state, name) for name in names], options)

    blueprint.record(set_up)
    add_commands(blueprint.cli, lambda: find_for_commands(blueprint))
    return blueprint


def _add_routes(blueprint: Blueprint) -> list[str]:
    """Add all routes and return their names."""
    for path in ("/v1/files/", "/v1/assets/"):  # bakrypt's lists of what everybody made
        blueprint.add_url_rule(
            path,
            "lists",
            unknown_path,
            strict_slashes=False,
            merge_slashes=False,
            provide_automatic_options=False,
        )
    for call in CALLS:
        add_route(blueprint, call.path, _create_view(call), call.method, head=False)
    add_route(blueprint, "/receipts/", receipts, "GET", head=False)
    add_route(blueprint, "/passthrough.js", passthrough, "GET")
    add_route(blueprint, "/openapi.json", openapi, "GET")
    add_catch_all(blueprint, "/v1", "unknown")
    names = [call.name for call in CALLS]
    return [*names, "receipts", "passthrough", "openapi", "lists", "unknown"]


def receipts() -> Response:
    """`GET /bakrypt/receipts/`: the transactions that this browser made, newest first."""
    current = current_request()
    _, api = _let_in(current)
    found = [str(transaction) for transaction in api.receipts.transactions(current)]
    return json_response(json.dumps({"transactions": found}))


def passthrough() -> Response:
    """`GET /bakrypt/passthrough.js`: leads the calls of a page's components here.

    The network is filled in here: an attribute in the page could contradict the settings.
    """
    url = registration_of(current_request()).settings.url
    urls = [url] if url in NETWORKS.values() else NETWORKS.values()
    hosts = " ".join(urlsplit(url).netloc for url in urls)
    return documents.script("passthrough.js", {"BAKRYPT_HOSTS": hosts})


def openapi() -> Response:
    """`GET /bakrypt/openapi.json`: these routes, described for machines (OpenAPI 3.1)."""
    return documents.openapi("openapi_api.json")


def _create_view(call: Call) -> View:
    handle = {"files": _send_file, "assets": _create_assets}.get(call.name, _send_empty)

    def view(transaction: UUID | None = None) -> Response:
        current = current_request()
        registration, api = _let_in(current)
        if call.name not in registration.settings.api_calls:
            raise AccessDeniedError(f"{call.name} is switched off here: see BAKRYPT_API_CALLS")
        if call.owned and not (transaction and api.receipts.owns(current, transaction)):
            # As an unknown one: that it exists is nobody's business.
            raise InvalidRequestError(_UNKNOWN, status=404, error="not_found")
        path = call.path.replace(_UUID, str(transaction))  # canonical, whatever matched
        return handle(current, registration, api, call._replace(path=path))

    view.__name__ = call.name
    return view


def _let_in(current: Request) -> tuple[Registration, Api]:
    """Check the page, the app's `authorize` and what no call has. GETs are checked, too."""
    registration = registration_of(current)
    api = registration.api
    registration.access.check_origin(current)
    api.receipts.check_cookies(current)
    registration.access.check_caller(current)
    if current.query_string:
        raise InvalidRequestError("no call takes a query")
    return registration, api


def _send_file(current: Request, registration: Registration, api: Api, call: Call) -> Response:
    length = check_length(current, registration.settings.max_upload)
    headers = _headers(current, "Content-Type", "Accept-Language")
    with api.uploads.slot():
        body = parts(current, length)
        repeatable = length <= MAX_REPEATED
        api_request = ApiRequest(
            call.name,
            call.method,
            call.path,
            headers,
            tuple(body) if repeatable else body,
            length,
        )
        found = _send(registration, api, api_request, repeatable=repeatable)
    return json_response(found.text, found.status)


def _create_assets(current: Request, registration: Registration, api: Api, call: Call) -> Response:
    body = read_assets(current)
    visitor = api.receipts.name()
    headers = _headers(current, "Accept-Language") | {"Content-Type": "application/json"}

    def said() -> list[str]:
        return [*texts_in(body), *headers.values()]

    api_request = ApiRequest(call.name, call.method, call.path, headers, (body,), len(body), said)
    found = _send(registration, api, api_request)
    response = json_response(found.text, found.status)
    api.receipts.add(current, response, made_transactions(found.content), visitor)
    return response


def _send_empty(current: Request, registration: Registration, api: Api, call: Call) -> Response:
    """Ask for a transaction or act on it. A body of the caller's is ignored."""
    headers = _headers(current, "Accept-Language")
    _, _, _, transaction, *_ = call.path.split("/")  # the only word of the caller's in the path
    said = [transaction, transaction.replace("-", ""), *headers.values()]
    api_request = ApiRequest(call.name, call.method, call.path, headers, said=lambda: said)
    found = _send(registration, api, api_request)
    return json_response(found.text, found.status)


def _send(
    registration: Registration, api: Api, api_request: ApiRequest, *, repeatable: bool = True
) -> ApiResponse:
    """Send a request with the shared token, and once more if bakrypt refuses the token.

    Nothing is repeated after anything but a 401: bakrypt may have taken it.
    """
    account = registration.account
    token = Masked(account.shared_token.get()["access_token"])
    refused: CredentialsRefusedError | None = None
    try:
        found = api.relay.send(api_request, token)
    except CredentialsRefusedError as error:
        refused = error
    else:
        account.note_accepted(token)
        return found
    renewed = account.renewed_token(token)
    if renewed.reveal() == token.reveal():  # it was renewed just now
        raise refused
    if not repeatable:
        raise UnavailableError("the server renewed its token: send the file again", retry_after="1")
    try:
        found = api.relay.send(api_request, renewed)
    except CredentialsRefusedError:
        account.note_refused(renewed)
        raise
    account.note_accepted(renewed)
    return found


def _headers(current: Request, *names: str) -> dict[str, str]:
    """Return those of the caller's headers that go upstream."""
    found = {}
    for name in (*names, "X-Request-ID"):
        value = request_id(current) if name == "X-Request-ID" else current.headers.get(name)
        if value:  # for an absent Content-Type, a WSGI server may set an empty one (PEP 3333)
            if not _HEADER.fullmatch(value):
                raise InvalidRequestError(f"the header {name} is not valid")
            found[name] = value
    return found
