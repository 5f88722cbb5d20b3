"""What one registration of a blueprint works with, kept with the app that it is registered in."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from flask import Blueprint, Request, current_app, request
from flask.sansio.app import App

from ..account import Account, Probe
from ..cli import Finding, settings_error_explained
from ..settings import Settings, unknown_settings
from ..upstream.client import BakryptClient
from ..upstream.relay import Relay
from ..upstream.transport import Transport
from .access import API, Access, Authorize, Opening
from .cors import Cors
from .receipts import Receipts, Visitor
from .uploads import Uploads

_logger = logging.getLogger(__name__)

_EXTENSION = "bakrypt_proxy"
_NO_KEY = Finding(
    "receipts",
    "off",
    "BAKRYPT_COOKIE_KEY is not set: a new BAKRYPT_TOKEN makes open transactions unreachable",
)


class Options(NamedTuple):
    """What a blueprint was created with."""

    settings: Settings | None
    client: BakryptClient | None
    authorize: Authorize | None
    opening: Opening
    visitor: Visitor | None = None


class Api(NamedTuple):
    """What a blueprint of the API works with besides."""

    relay: Relay
    receipts: Receipts
    uploads: Uploads


class Registration(NamedTuple):
    """One blueprint in one app: its settings, its account, and who may call it."""

    blueprint: Blueprint
    settings: Settings
    account: Account
    access: Access
    cors: Cors
    maybe_api: Api | None

    @property
    def api(self) -> Api:
        """What a blueprint of the API works with besides."""
        if self.maybe_api is None:
            raise TypeError("this blueprint has no API")
        return self.maybe_api


@dataclass
class _State:
    """All registrations of one app, by endpoint, so that no app or blueprint sees another's."""

    by_endpoint: dict[str | None, Registration] = field(default_factory=dict)
    accounts: list[Account] = field(default_factory=list)

    def account(self, settings: Settings, client: BakryptClient | None) -> Account:
        """Return the app's account with these settings, made if it is the first."""
        for account in self.accounts:
            if account.serves(settings, client):
                return account
        self.accounts.append(Account(settings, client))
        return self.accounts[-1]


def register(app: App, blueprint: Blueprint, endpoints: Iterable[str], options: Options) -> None:
    """Build what a blueprint works with and keep it for the blueprint's endpoints in this app.

    :raises SettingsError: if the app's settings are wrong.
    """
    _warn_of_unknown_settings()
    settings, client = options.settings, options.client
    if settings is None:
        settings = read_settings(app) if client is None else client.settings
    state = _state(app)
    account = state.account(settings, client)
    with settings_error_explained():
        is_api = options.opening is API
        api = _create_api(settings, account, options) if is_api else None
    registration = Registration(
        blueprint,
        settings,
        account,
        Access(settings, options.opening, options.authorize),
        Cors(settings.allowed_origins),
        api,
    )
    state.by_endpoint.update(dict.fromkeys(endpoints, registration))


def _create_api(settings: Settings, account: Account, options: Options) -> Api:
    transport = account.client.open_transport()
    if not isinstance(transport, Transport):
        raise TypeError("create_api_blueprint cannot use a client with a session of its own")
    return Api(
        Relay(transport, settings),
        Receipts(settings, options.visitor),
        Uploads(settings.uploads),
    )


@cache
def _warn_of_unknown_settings() -> None:
    if found := unknown_settings(os.environ):
        _logger.warning("%s", "; ".join(found))


def read_settings(app: App) -> Settings:
    """Read the settings from `app.config` and then from the environment.

    Under the `flask` command a problem becomes a message instead of a traceback.

    :raises SettingsError: with all problems together.
    """
    with settings_error_explained():
        return Settings.from_mapping(app.config, os.environ)


def current_request() -> Request:
    """Return the request itself. Each look through Flask's proxy costs half a microsecond."""
    current: Request = _behind(request)
    return current


def _behind(proxy: Any) -> Any:
    return proxy._get_current_object()  # noqa: SLF001 - documented by werkzeug


def find_registration(current: Request) -> Registration | None:
    """Return the registration that a request belongs to; None for a route that is not ours."""
    environ = current.environ
    if _EXTENSION not in environ:
        state: _State = _behind(current_app).extensions[_EXTENSION]
        environ[_EXTENSION] = state.by_endpoint.get(current.endpoint)
    found: Registration | None = environ[_EXTENSION]
    return found


def registration_of(current: Request) -> Registration:
    """Return the registration of a request in a view of ours: it was found before the view."""
    registration: Registration = current.environ[_EXTENSION]
    return registration


def find_for_commands(blueprint: Blueprint) -> tuple[Account, list[Finding]]:
    """Return a blueprint's account in the current app, and who may call its blueprints there."""
    registrations = list(dict.fromkeys(_state(current_app).by_endpoint.values()))
    account = next(found.account for found in registrations if found.blueprint is blueprint)
    own = [found for found in registrations if found.account is account]
    findings = [found.access.finding for found in own]
    findings += [_NO_KEY for found in own if found.maybe_api and _lacks_key(found.settings)]
    return account, findings


def _lacks_key(settings: Settings) -> bool:
    return settings.network == "mainnet" and settings.cookie_key is None


def readiness_problems() -> list[str]:
    """Return why the blueprints of the current app are not ready; an empty list if they are.

    They are ready if credentials are set and Redis answers where it is configured. Bakrypt is not
    asked.
    """
    return [problem for account in _state(current_app).accounts for problem in account.problems()]


def add_redis_probe(app: App, probe: Probe) -> None:
    """Have `check` and `readiness_problems` look at a use that the app makes of Redis.

    :param probe: says why Redis cannot be used right now, or None if it can.
    """
    for account in _state(app).accounts:
        account.add_redis_probe(probe)


def _state(app: App) -> _State:
    extensions = app.extensions
    if _EXTENSION not in extensions:
        extensions[_EXTENSION] = _State()
    state: _State = extensions[_EXTENSION]
    return state
