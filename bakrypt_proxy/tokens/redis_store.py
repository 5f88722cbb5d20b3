"""One token for all processes, in Redis.

What is stored there is sealed with a key derived from `BAKRYPT_TOKEN`, so that a reader of Redis holds nothing; and it ends
by Redis' own clock, so that no two machines' clocks have to agree. While Redis is away each process goes on by itself.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from redis.retry import Retry

from ..errors import (
    BakryptError,
    CredentialsRefusedError,
    UpstreamFailedError,
    UpstreamRefusedError,
)
from ..types import AccessToken
from .backoff import Clock
from .cached import CachedToken
from .sealing import Seal, derive_key
from .shared import FORCED_APART, SHORTEST_FETCH, Fetch, Outcome

if TYPE_CHECKING:
    from redis.client import Pipeline

logger = logging.getLogger(__name__)

_REDIS_TIMEOUT = 0.25  # seconds for one command; Redis is near, and callers wait
REDIS_OPTIONS: dict[str, Any] = {
    "socket_timeout": _REDIS_TIMEOUT,
    "socket_connect_timeout": _REDIS_TIMEOUT,
    "retry": Retry(NoBackoff(), 0),  # a lease whose answer was lost would be taken for another's
}
_LEASE_MARGIN = 0.25  # seconds that a lease outlives the call that it covers
_POLL = 0.05  # seconds between looks at what the lease's owner has done
_NOT_SHARED_FOR = 2.0  # seconds for which a token without a life is taken for the rule
_LAYOUT = 1  # of what lies in Redis; processes of another version have keys of their own
_KINDS = {
    kind.__name__: kind
    for kind in (UpstreamRefusedError, CredentialsRefusedError, UpstreamFailedError)
}
_NOT_SHARED = "not shared"


@dataclass(frozen=True)
class _Found:
    """What lies in Redis, and its time of day in seconds.

    `was_forced` says that a caller has had the token renewed just now, `not_shared` that bakrypt's tokens have no life.
    """

    held: CachedToken | None
    error: BakryptError | None
    was_forced: bool
    not_shared: bool
    server_time: float


@dataclass(frozen=True)
class _Lease:
    """The right to ask bakrypt, until `expires_at` of the monotonic clock, and what was found when it was taken."""

    lock: Lock
    expires_at: float
    found: _Found


class RedisTokenStore:
    """Shares the token of one account, at one upstream, among all who know its secret.

    `timeout` is that of one call to bakrypt, in seconds. The lease of the one who asks bakrypt is longer, and is
    released only by its owner (redis-py's lock).
    """

    def __init__(  # noqa: PLR0913 - all but the address are named
        self,
        redis_url: str,
        *,
        secret: str,
        upstream: str,
        timeout: float,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._redis = Redis.from_url(redis_url, **REDIS_OPTIONS)
        self._lease_seconds = timeout + _LEASE_MARGIN
        self._clock = clock
        self._sleep = sleep
        self._seal = Seal(secret)
        # Accounts and networks that share a Redis do not meet, and the name shows nothing of the secret.
        prefix = (
            f"bakrypt_proxy:{_LAYOUT}:{derive_key(secret, b'name ' + upstream.encode()).hex()[:32]}"
        )
        self._token_key, self._error_key = f"{prefix}:token", f"{prefix}:error"
        self._forced_key, self._lease_key = f"{prefix}:forced", f"{prefix}:lease"
        self._is_away = False

    def renew(self, stale: str | None, fetch: Fetch, *, deadline: float) -> Outcome:
        """Return a token to use instead of `stale`, from Redis or by `fetch`; without Redis, by `fetch` alone."""
        try:
            found = self._find_or_lease(stale, deadline)
        except RedisError as error:
            self._note_outage(error)
            found = None
        if isinstance(found, CachedToken):
            return found
        if found is None:
            return fetch(self._left(deadline))
        return self._fetch_and_publish(found, stale, fetch, deadline)

    def _find_or_lease(self, stale: str | None, deadline: float) -> CachedToken | _Lease | None:
        """Return a token to use, or the lease to ask for one, or None if each asks for itself."""
        lock = self._redis.lock(self._lease_key, timeout=self._lease_seconds, thread_local=False)
        while True:
            expires_at = self._clock() + self._lease_seconds
            is_mine = lock.acquire(blocking=False)
            try:
                # Also with the lease: its last owner may have left a token.
                found = self._look()
                held = self._choose(found, stale)
            except BaseException:
                if is_mine:
                    self._release(lock)
                raise
            if is_mine and held is None and not found.not_shared:
                return _Lease(lock, expires_at, found)
            if is_mine:
                self._release(lock)
            if held is not None or found.not_shared:
                return held
            if self._clock() >= deadline:
                raise UpstreamFailedError(
                    "bakrypt did not answer in time", detail="another process has the lease"
                )
            self._sleep(_POLL)

    def _look(self) -> _Found:
        asked_at = self._clock()
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(self._token_key)
            pipe.pttl(self._token_key)
            pipe.get(self._error_key)
            pipe.pttl(self._error_key)
            pipe.exists(self._forced_key)
            pipe.time()
            token, token_ttl, error, error_ttl, forced, (seconds, microseconds) = pipe.execute()
        failure = self._seal.open(error)
        not_shared = failure is not None and failure["kind"] == _NOT_SHARED
        return _Found(
            self._open_token(token, asked_at + token_ttl / 1000),
            None if failure is None or not_shared else _to_error(failure, error_ttl / 1000),
            bool(forced),
            not_shared,
            seconds + microseconds / 1_000_000,
        )

    def _choose(self, found: _Found, stale: str | None) -> CachedToken | None:
        """Return what was found if it will do, and raise the error that was found instead."""
        held, now = found.held, self._clock()
        if held is not None and held.access_token != stale and now < held.mandatory_at:
            return held
        if (
            held is not None
            and held.access_token == stale
            and now < held.advisory_at
            and found.was_forced
        ):
            return held
        if found.error is None:
            return None
        return self._last_resort(found, stale, found.error)

    def _last_resort(self, found: _Found, stale: str | None, error: BakryptError) -> CachedToken:
        """Return what was found if it still lives, though it should be renewed; else raise the error."""
        held = found.held
        if held is None or held.access_token == stale or held.left(self._clock()) == 0:
            raise error
        return held

    def _fetch_and_publish(
        self, lease: _Lease, stale: str | None, fetch: Fetch, deadline: float
    ) -> Outcome:
        try:
            outcome = fetch(min(self._left(deadline), lease.expires_at - self._clock()))
        except BakryptError as error:
            self._publish(lease, partial(self._set_error, error=error))
            return self._last_resort(lease.found, stale, error)
        except BaseException:
            self._release(lease.lock)
            raise
        self._publish(lease, partial(self._set_outcome, outcome=outcome, found=lease.found))
        return outcome

    def _left(self, deadline: float) -> float:
        return max(deadline - self._clock(), SHORTEST_FETCH)

    def _publish(self, lease: _Lease, write: Callable[["Pipeline"], None]) -> None:
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                write(pipe)
                pipe.execute()
        except RedisError as error:
            # The lease ends by itself; a Redis that hangs is not waited for once more.
            self._note_outage(error)
        else:
            self._release(lease.lock)

    def _set_outcome(self, pipe: "Pipeline", *, outcome: Outcome, found: _Found) -> None:
        if not isinstance(outcome, CachedToken):
            self._set_failure(pipe, {"kind": _NOT_SHARED}, _NOT_SHARED_FOR)
            return
        # The life began after the server's time was read, so that in Redis it ends no later than upstream.
        expires_at = int((found.server_time + outcome.lifetime) * 1000)
        sealed = self._seal.close({"token": outcome.token, "lifetime": outcome.lifetime})
        pipe.set(self._token_key, sealed, pxat=expires_at)
        pipe.delete(self._error_key)
        if found.held is not None and self._clock() < found.held.advisory_at:
            # It was renewed before its time: a caller had reported it.
            pipe.set(self._forced_key, 1, px=int(FORCED_APART * 1000))

    def _set_error(self, pipe: "Pipeline", *, error: BakryptError) -> None:
        if type(error).__name__ in _KINDS and error.cooldown:
            members = ("description", "status", "error", "detail", "retry_after")
            body = {
                "kind": type(error).__name__,
                **{name: getattr(error, name) for name in members},
            }
            self._set_failure(pipe, body, error.cooldown)

    def _set_failure(self, pipe: "Pipeline", body: dict[str, object], seconds: float) -> None:
        pipe.set(self._error_key, self._seal.close(body), px=max(1, int(seconds * 1000)))

    def _open_token(self, sealed: bytes | None, expires_at: float) -> CachedToken | None:
        body = self._seal.open(sealed)
        return (
            None
            if body is None
            else CachedToken(cast("AccessToken", body["token"]), body["lifetime"], expires_at)
        )

    def _release(self, lock: Lock) -> None:
        try:
            lock.release()
        except LockError:
            pass  # it ran out, and may be another's by now
        except RedisError as error:
            self._note_outage(error)
        else:
            self._note_return()

    def _note_outage(self, error: RedisError) -> None:
        if not self._is_away:
            logger.warning("Redis is away, this process gets its own token: %s", error)
        self._is_away = True

    def _note_return(self) -> None:
        """Note that Redis takes and gives: a lease was taken, written under, and released."""
        if self._is_away:
            logger.info("Redis is back, the token is shared again")
        self._is_away = False


def redis_problem(redis_url: str) -> str | None:
    """Return why a Redis cannot be used right now, or None if it takes and gives."""
    with (
        Redis.from_url(redis_url, **REDIS_OPTIONS) as redis,
        redis.pipeline(transaction=True) as pipe,
    ):
        pipe.set("bakrypt_proxy:probe", 1, pxat=int(time.time() * 1000) + 1000)
        pipe.delete("bakrypt_proxy:probe")
        try:
            pipe.execute()
        except RedisError as error:
            return str(error)
    return None


def _to_error(body: dict[str, Any], seconds: float) -> BakryptError:
    error = _KINDS[body.pop("kind")](body.pop("description"), **body)
    error.cooldown = seconds
    return error
