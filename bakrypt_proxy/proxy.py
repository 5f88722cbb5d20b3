"""What one registration of the blueprint works with."""

import os
from dataclasses import dataclass
from typing import Self

import click
from flask import Blueprint, current_app
from flask.sansio.app import App

from .client import BakryptClient
from .errors import SettingsError
from .gate import Authorize, Gate
from .settings import Settings

_EXTENSION = "bakrypt_proxy"


@dataclass(frozen=True)
class Proxy:
    """Settings, client and gate of one blueprint in one app.

    They live in `app.extensions` under the name that the blueprint has in that app, so that no app or blueprint sees
    another's.
    """

    blueprint: Blueprint
    settings: Settings
    client: BakryptClient
    gate: Gate

    @classmethod
    def create(
        cls,
        app: App,
        blueprint: Blueprint,
        *,
        settings: Settings | None,
        client: BakryptClient | None,
        authorize: Authorize | None,
    ) -> Self:
        """Build the parts that were not passed in, from the app's settings."""
        if settings is None:
            settings = read_settings(app) if client is None else client.settings
        if client is None:
            client = BakryptClient(settings)
        return cls(blueprint, settings, client, Gate(settings, authorize))

    def store(self, app: App, name: str) -> None:
        """Keep this proxy for the blueprint registered as `name`."""
        app.extensions.setdefault(_EXTENSION, {})[name] = self

    @classmethod
    def load(cls, name: str) -> Self:
        """Return the proxy of the blueprint registered as `name` in the current app."""
        proxy: Self = current_app.extensions[_EXTENSION][name]
        return proxy

    @classmethod
    def load_for(cls, blueprint: Blueprint) -> Self:
        """Return the proxy of a blueprint in the current app, whatever name it has there."""
        proxies: dict[str, Self] = current_app.extensions[_EXTENSION]
        return next(proxy for proxy in proxies.values() if proxy.blueprint is blueprint)


def read_settings(app: App) -> Settings:
    """Read the settings from `app.config` and the environment. Raises `SettingsError`."""
    try:
        return Settings.from_mapping(app.config, os.environ)
    except SettingsError as error:
        if click.get_current_context(silent=True) is None:
            raise
        # Under the flask command the list of problems is the message, and a traceback would bury it.
        raise click.ClickException("these settings need a change:\n" + "\n".join(error.problems)) from error
