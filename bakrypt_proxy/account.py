"""One bakrypt account: its settings, its client and its shared token."""

from .settings import Settings
from .tokens.shared import SharedToken, TokenStore
from .upstream.client import BakryptClient

_IDENTITY = ("url", "token", "client_id", "client_secret", "timeout", "redis_url")


class Account:
    """What all callers of one bakrypt account have in common.

    :param settings: the settings of the account.
    :param client: the client to use; by default a new one with these settings.
    """

    def __init__(self, settings: Settings, client: BakryptClient | None = None) -> None:
        self.settings = settings
        self._given_client = client
        self.client: BakryptClient = BakryptClient(settings) if client is None else client
        own = self.client.settings
        self.shared_token: SharedToken = SharedToken(
            lambda seconds: self.client.exchange(timeout=seconds, shared=True),
            timeout=own.timeout,
            network=own.network,
            store=_create_store(own, settings.redis_url),
        )

    def serves(self, settings: Settings, client: BakryptClient | None) -> bool:
        """Return whether a blueprint with these settings and this client can use this account."""
        if client is not self._given_client:
            return False
        return all(getattr(settings, name) == getattr(self.settings, name) for name in _IDENTITY)

    def problems(self) -> list[str]:
        """Return what is missing: credentials, or a Redis that answers. Bakrypt is not asked."""
        found = []
        if self.settings.token is None and self.settings.client_secret is None:
            found.append("no credentials are set")
        if (problem := self.redis_problem()) is not None:
            found.append(f"Redis does not answer: {problem}")
        return found

    def redis_problem(self) -> str | None:
        """Return why Redis cannot be used right now, or None if it can or is not configured."""
        if self.settings.redis_url is None:
            return None
        from .tokens.redis_store import redis_problem  # noqa: PLC0415 - redis is an extra

        return redis_problem(self.settings.redis_url)


def _create_store(account: Settings, redis_url: str | None) -> TokenStore | None:
    if redis_url is None or account.token is None:
        return None
    from .tokens.redis_store import RedisTokenStore  # noqa: PLC0415 - redis is an extra

    return RedisTokenStore(
        redis_url, secret=account.token, upstream=account.url, timeout=account.timeout
    )
