"""What one registration of a blueprint works with, kept with the app that it is registered in."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from flask import Blueprint, Request, current_app, request
from flask.sansio.app import App

from ..account import Account, Probe
from ..cli import settings_error_explained
from ..settings import Settings, unknown_settings
from ..upstream.client import BakryptClient
from .access import Access, Authorize
from .cors import Cors

logger = logging.getLogger(__name__)

_EXTENSION = "bakrypt_proxy"


class Registration(NamedTuple):
    """One blueprint in one app: its settings, its account, and who may call it."""

    blueprint: Blueprint
    settings: Settings
    account: Account
    access: Access
    cors: Cors


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


def register(  # noqa: PLR0913 - most are named
    app: App,
    blueprint: Blueprint,
    endpoints: Iterable[str],
    *,
    settings: Settings | None,
    client: BakryptClient | None,
    authorize: Authorize | None,
) -> None:
    """Build what a blueprint works with and keep it for the blueprint's endpoints in this app.

    :raises SettingsError: if the app's settings are wrong.
    """
    _warn_of_unknown_settings()
    if settings is None:
        settings = read_settings(app) if client is None else client.settings
    state = _state(app)
    registration = Registration(
        blueprint,
        settings,
        state.account(settings, client),
        Access(settings, authorize),
        Cors(settings.allowed_origins),
    )
    state.by_endpoint.update(dict.fromkeys(endpoints, registration))


@cache
def _warn_of_unknown_settings() -> None:
    if found := unknown_settings(os.environ):
        logger.warning("%s", "; ".join(found))


def read_settings(app: App) -> Settings:
    """Read the settings from `app.config` and then from the environment.

    Under the `flask` command a problem becomes a message instead of a traceback.

    :raises SettingsError: with all problems together.
    """
    with settings_error_explained():
        return Settings.from_mapping(app.config, os.environ)


def current_request() -> Request:
    """Return the request itself. Each look through Flask's proxy costs half a microsecond."""
    current: Request = request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 - documented by werkzeug
    return current


def find_registration(current: Request) -> Registration | None:
    """Return the registration that a request belongs to; None for a route that is not ours."""
    environ = current.environ
    if _EXTENSION not in environ:
        environ[_EXTENSION] = _state(current_app).by_endpoint.get(current.endpoint)
    found: Registration | None = environ[_EXTENSION]
    return found


def current_registration() -> Registration:
    """Return the registration of the current request, in a view of ours."""
    registration: Registration = current_request().environ[_EXTENSION]  # found before the view
    return registration


def registration_of(blueprint: Blueprint) -> Registration:
    """Return a blueprint's registration in the current app, whatever its name is there."""
    registrations = _state(current_app).by_endpoint.values()
    return next(found for found in registrations if found.blueprint is blueprint)


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
    if _EXTENSION not in app.extensions:
        app.extensions[_EXTENSION] = _State()
    state: _State = app.extensions[_EXTENSION]
    return state
