"""What one registration of the blueprint works with."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flask import Blueprint, current_app
from flask.sansio.app import App

from .client import BakryptClient
from .gate import Authorize, Gate
from .settings import Settings

_EXTENSION = "bakrypt_proxy"


@dataclass(frozen=True)
class Registration:
    """Settings, client and gate of one blueprint in one app.

    They live in `app.extensions` under the endpoints that they are for, so that no app or blueprint sees another's.
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
            settings = Settings.from_mapping(app.config, os.environ) if client is None else client.settings
        if client is None:
            client = BakryptClient(settings)
        return cls(blueprint, settings, client, Gate(settings, authorize))

    def store(self, app: App, endpoints: Iterable[str]) -> None:
        """Keep this registration for its endpoints."""
        app.extensions.setdefault(_EXTENSION, {}).update(dict.fromkeys(endpoints, self))

    @classmethod
    def find(cls, endpoint: str | None) -> Self | None:
        """Return the registration that an endpoint of the current app belongs to, if it is one of ours."""
        registrations: dict[str | None, Self] = current_app.extensions[_EXTENSION]
        return registrations.get(endpoint)

    @classmethod
    def find_for(cls, blueprint: Blueprint) -> Self:
        """Return a blueprint's registration in the current app, under whatever name."""
        registrations: dict[str, Self] = current_app.extensions[_EXTENSION]
        return next(found for found in registrations.values() if found.blueprint is blueprint)
