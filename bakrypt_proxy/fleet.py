"""One token for all processes of a fleet, by Redis.

What lies there is sealed with a key derived from `BAKRYPT_TOKEN`, so that a reader of Redis holds nothing; and it ends
by Redis' own clock, so that no two machines' clocks have to agree. While Redis is away each process goes on by itself.
"""

import base64
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from redis.retry import Retry

from .errors import BakryptError, CredentialsRefusedError, UpstreamFailedError, UpstreamRefusedError
from .shared_token import FORCED_APART, SHORTEST_ASK, Ask, Clock, Held, Outcome
from .types import AccessToken

logger = logging.getLogger(__name__)

_REDIS_TIMEOUT = 1.0  # seconds for one command; Redis is near
_LEASE_MARGIN = 0.25  # seconds that a lease outlives the call that it covers
_POLL = 0.05  # seconds between looks at what the lease's owner has done
_KINDS = {kind.__name__: kind for kind in (UpstreamRefusedError, CredentialsRefusedError, UpstreamFailedError)}


@dataclass(frozen=True)
class _Found:
    """What lies in Redis. `was_forced` says that a caller has had the token renewed just now."""

    held: Held | None
    error: BakryptError | None
    was_forced: bool


class RedisFleet:
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
        self._redis = Redis.from_url(
            redis_url,
            socket_timeout=_REDIS_TIMEOUT,
            socket_connect_timeout=_REDIS_TIMEOUT,
            retry=Retry(NoBackoff(), 1),  # for a connection that a restarted Redis has closed
        )
        self._lease_seconds = timeout + _LEASE_MARGIN
        self._clock = clock
        self._sleep = sleep
        self._seal = Fernet(base64.urlsafe_b64encode(_derive(secret, b"seal")))
        # Not the secret's own hash: who guesses at it would learn whether he is right.
        prefix = f"bakrypt_proxy:{_derive(secret, b'name ' + upstream.encode()).hex()[:32]}"
        self._token_key, self._error_key = f"{prefix}:token", f"{prefix}:error"
        self._forced_key, self._lease_key = f"{prefix}:forced", f"{prefix}:lease"
        self._is_away = False

    def problem(self) -> str | None:
        """Return why Redis cannot be used right now, or None if it answers."""
        try:
            self._redis.ping()
        except RedisError as error:
            return str(error)
        return None

    def renew(self, stale: str | None, ask: Ask, *, give_up_at: float) -> Outcome:
        """Return a token other than `stale`, from Redis or by `ask`; without Redis, by `ask` alone."""
        try:
            found = self._find_or_lease(stale, give_up_at)
            if isinstance(found, Held):
                return found
            lease, server_time, forced = found
        except RedisError as error:
            self._note_outage(error)
            return ask(self._left(give_up_at))
        try:
            return self._ask_and_publish(ask, give_up_at, server_time, forced=forced)
        finally:
            self._release(lease)

    def _find_or_lease(self, stale: str | None, give_up_at: float) -> Held | tuple[Lock, float, bool]:
        """Return a token to use, or the lease to ask for one with Redis' time and whether a caller forces it."""
        lease = self._redis.lock(self._lease_key, timeout=self._lease_seconds, thread_local=False)
        while not lease.acquire(blocking=False):
            if (held := self._usable(self._look(), stale)) is not None:
                return held
            if self._clock() >= give_up_at:
                raise UpstreamFailedError("bakrypt did not answer in time", detail="another process has the lease")
            self._sleep(_POLL)
        try:
            # Looked at again: the last owner may have left a token.
            found = self._look()
            held = self._usable(found, stale)
            if held is None:
                forced = found.held is not None and self._clock() < found.held.advisory_at
                return lease, self._server_time(), forced
        except BaseException:
            self._release(lease)
            raise
        self._release(lease)
        return held

    def _look(self) -> _Found:
        asked_at = self._clock()
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(self._token_key)
            pipe.pttl(self._token_key)
            pipe.get(self._error_key)
            pipe.pttl(self._error_key)
            pipe.exists(self._forced_key)
            token, token_ttl, error, error_ttl, forced = pipe.execute()
        self._note_return()
        return _Found(
            self._open_token(token, asked_at + token_ttl / 1000), self._open_error(error, error_ttl), bool(forced)
        )

    def _usable(self, found: _Found, stale: str | None) -> Held | None:
        """Return what was found if it will do, and raise the error that was found instead."""
        held, now = found.held, self._clock()
        is_good = held is not None and now < (held.mandatory_at if held.access_token != stale else held.advisory_at)
        if held is not None and is_good and (held.access_token != stale or found.was_forced):
            return held
        if found.error is not None:
            raise found.error
        return None

    def _server_time(self) -> float:
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1_000_000

    def _ask_and_publish(self, ask: Ask, give_up_at: float, server_time: float, *, forced: bool) -> Outcome:
        try:
            outcome = ask(self._left(give_up_at))
        except BakryptError as error:
            self._publish_error(error)
            raise
        if isinstance(outcome, Held):
            self._publish(outcome, server_time, forced=forced)
        return outcome

    def _left(self, give_up_at: float) -> float:
        return max(give_up_at - self._clock(), SHORTEST_ASK)

    def _publish(self, held: Held, server_time: float, *, forced: bool) -> None:
        # The life began after `server_time`, so that in Redis it ends no later than upstream.
        ends_at = int((server_time + held.life) * 1000)
        sealed = self._seal.encrypt(json.dumps({"token": held.token, "life": held.life}).encode())
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(self._token_key, sealed, pxat=ends_at)
                pipe.delete(self._error_key)
                if forced:
                    pipe.set(self._forced_key, 1, px=int(FORCED_APART * 1000))
                pipe.execute()
        except RedisError as error:
            self._note_outage(error)

    def _publish_error(self, error: BakryptError) -> None:
        if type(error).__name__ not in _KINDS or not error.try_again_in:
            return
        members = ("description", "status", "error", "detail", "retry_after")
        body = {"kind": type(error).__name__, **{name: getattr(error, name) for name in members}}
        try:
            self._redis.set(
                self._error_key,
                self._seal.encrypt(json.dumps(body).encode()),
                px=max(1, int(error.try_again_in * 1000)),
            )
        except RedisError as away:
            self._note_outage(away)

    def _open_token(self, sealed: bytes | None, ends_at: float) -> Held | None:
        body = self._open(sealed)
        return None if body is None else Held(cast("AccessToken", body["token"]), body["life"], ends_at)

    def _open_error(self, sealed: bytes | None, ttl: int) -> BakryptError | None:
        body = self._open(sealed)
        if body is None:
            return None
        error = _KINDS[body.pop("kind")](body.pop("description"), **body)
        error.try_again_in = ttl / 1000
        return error

    def _open(self, sealed: bytes | None) -> dict[str, Any] | None:
        try:
            return None if sealed is None else json.loads(self._seal.decrypt(sealed))
        except InvalidToken:
            return None  # not ours: written over by somebody without the secret

    def _release(self, lease: Lock) -> None:
        try:
            lease.release()
        except LockError:
            pass  # it ran out, and may be another's by now
        except RedisError as error:
            self._note_outage(error)

    def _note_outage(self, error: RedisError) -> None:
        if not self._is_away:
            logger.warning("Redis is away, this process gets its own token: %s", type(error).__name__)
        self._is_away = True

    def _note_return(self) -> None:
        if self._is_away:
            logger.info("Redis is back, the token is shared again")
        self._is_away = False


def _derive(secret: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"bakrypt_proxy " + purpose).derive(secret.encode())
