"""What one registration of the blueprint works with."""

import json
import os
from collections.abc import Iterable
from typing import NamedTuple, Self

from flask import Blueprint, current_app
from flask.sansio.app import App

from .client import BakryptClient
from .gate import Authorize, Gate
from .settings import Settings
from .shared_token import Fleet, SharedToken

_EXTENSION = "bakrypt_proxy"


class Registration(NamedTuple):
    """Settings, client, gate and shared token of one blueprint in one app.

    They live in `app.extensions` under the endpoints that they are for, so that no app or blueprint sees another's.
    """

    blueprint: Blueprint
    settings: Settings
    client: BakryptClient
    gate: Gate
    shared_token: SharedToken | None

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
        shared_token = _share(client, settings) if settings.share_token else None
        return cls(blueprint, settings, client, Gate(settings, authorize), shared_token)

    def problems(self) -> list[str]:
        """Return what is not as it was asked for: no credentials at all, or a Redis that does not answer."""
        found = []
        if self.settings.token is None and self.settings.client_secret is None:
            found.append("no credentials are set")
        if (problem := self.redis_problem()) is not None:
            found.append(f"Redis does not answer: {problem}")
        return found

    def redis_problem(self) -> str | None:
        """Return why the Redis that the settings name cannot be used right now; None if it can, or none is named."""
        if self.settings.redis_url is None:
            return None
        from .fleet import redis_problem  # noqa: PLC0415 - redis is an extra

        return redis_problem(self.settings.redis_url)

    def exchange(self, rejected_token: str | None) -> str:
        """Return the account's token as JSON: the shared one, or with `BAKRYPT_SHARE_TOKEN=false` a new one, whole."""
        if self.shared_token is None:
            return json.dumps(self.client.exchange())
        return self.shared_token.get_json(rejected_token)

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


def _share(client: BakryptClient, settings: Settings) -> SharedToken:
    """Return the token of the client's account, shared in this process and, where a Redis is named, in the fleet."""
    account = client.settings
    return SharedToken(
        lambda seconds: client.exchange(timeout=seconds, shared=True),
        timeout=account.timeout,
        network=account.network,
        fleet=_create_fleet(account, settings.redis_url),
    )


def _create_fleet(account: Settings, redis_url: str | None) -> Fleet | None:
    if redis_url is None or account.token is None:
        return None
    from .fleet import RedisFleet  # noqa: PLC0415 - redis and cryptography are an extra

    return RedisFleet(redis_url, secret=account.token, upstream=account.url, timeout=account.timeout)
