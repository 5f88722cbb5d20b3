"""One bakrypt account: its settings, its client and its shared token."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from .settings import Settings
from .tokens.shared import SharedToken
from .upstream.client import BakryptClient
from .upstream.masking import Masked

if TYPE_CHECKING:
    from .tokens.redis_store import RedisTokenStore

_IDENTITY = ("url", "token", "client_id", "client_secret", "timeout", "redis_url")

Probe = Callable[[], str | None]  # says why Redis cannot be used right now, or None if it can


class Account:
    """What all callers of one bakrypt account have in common.

    :param settings: the settings of the account.
    :param client: the client to use; by default a new one with these settings.
    """

    def __init__(self, settings: Settings, client: BakryptClient | None = None) -> None:
        self.settings = settings
        self._given_client = client
        self.client: BakryptClient = BakryptClient(settings) if client is None else client
        self._worked: Masked[str] = Masked("")  # the last token that bakrypt took
        self._refused: Masked[str] = Masked("")  # the one that it refused when it was new
        own = self.client.settings
        store = _create_store(own, settings.redis_url)
        self._redis_probes: list[Probe] = [] if store is None else [store.problem]
        self.shared_token: SharedToken = SharedToken(
            lambda seconds: self.client.exchange(timeout=seconds, shared=True),
            timeout=own.timeout,
            network=own.network,
            store=store,
        )

    def renewed_token(self, refused: Masked[str]) -> Masked[str]:
        """Return a token instead of one that bakrypt refused in a call of ours.

        A token that worked before is renewed at once. If it never worked, the next renewal is at
        least 5 s after the last one.
        """
        worked = self._worked.reveal() == refused.reveal()
        token = self.shared_token.get(refused.reveal(), at_once=worked)
        if token["access_token"] == refused.reveal():  # bakrypt has no other, or not yet
            self.note_refused(refused)
        return Masked(token["access_token"])

    def note_accepted(self, token: Masked[str]) -> None:
        """Note that bakrypt took a token in a call of ours."""
        if token.reveal() != self._refused.reveal():
            self._worked = token

    def note_refused(self, token: Masked[str]) -> None:
        """Note that bakrypt refused a new token: it counts as one that never worked.

        It may refuse each token in one call only, and that one would cause a renewal each time.
        """
        self._refused = token
        if self._worked.reveal() == token.reveal():
            self._worked = Masked("")  # in another call, at the same time

    @property
    def has_token(self) -> bool:
        """Whether the secret of exchange is set."""
        return self.client.settings.token is not None

    @property
    def has_client(self) -> bool:
        """Whether the OAuth client is set."""
        settings = self.client.settings
        return settings.client_id is not None and settings.client_secret is not None

    def serves(self, settings: Settings, client: BakryptClient | None) -> bool:
        """Return whether a blueprint with these settings and this client can use this account."""
        if client is not self._given_client:
            return False
        return all(getattr(settings, name) == getattr(self.settings, name) for name in _IDENTITY)

    def add_redis_probe(self, probe: Probe) -> None:
        """Have another use of the account's Redis looked at, too, such as a rate limiter's."""
        self._redis_probes.append(probe)

    def problems(self) -> list[str]:
        """Return what is missing: credentials, or a usable Redis. Bakrypt is not asked."""
        found = []
        if not (self.has_token or self.has_client):
            found.append("no credentials are set")
        if (problem := self.redis_problem()) is not None:
            found.append(f"Redis cannot be used: {problem}")
        return found

    @property
    def uses_redis(self) -> bool:
        """Whether anything uses Redis."""
        return bool(self._redis_probes)

    def redis_problem(self) -> str | None:
        """Return why Redis cannot be used right now, or None if it can or nothing uses it.

        Each use is tried as it happens in earnest.
        """
        found = [problem for probe in self._redis_probes if (problem := probe()) is not None]
        return "; ".join(dict.fromkeys(found)) or None


def _create_store(account: Settings, redis_url: str | None) -> "RedisTokenStore | None":
    if redis_url is None or account.token is None:
        return None
    from .tokens.redis_store import RedisTokenStore  # noqa: PLC0415 - redis is an extra

    return RedisTokenStore(
        redis_url, secret=account.token, upstream=account.url, timeout=account.timeout
    )
