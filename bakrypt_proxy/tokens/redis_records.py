"""The values of one account in Redis: its token, its last error, and the lease.

They are sealed with keys derived from `BAKRYPT_TOKEN`, and valid by Redis' own clock, so that no
two machines' clocks have to agree.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.exceptions import WatchError

from ..errors import (
    BakryptError,
    CredentialsRefusedError,
    UpstreamFailedError,
    UpstreamRefusedError,
)
from ..types import AccessToken
from ..upstream.masking import Masked
from .backoff import FORCED_APART
from .cached import CachedToken, Clocks, Moment
from .redis_connection import ROUND_TRIP, UnusableError
from .sealing import Opened, Seal
from .shared import Outcome

if TYPE_CHECKING:
    from redis.client import Pipeline

_SEAL_MARGIN = 1.0  # seconds that the seal of a lease outlives its key
_LATEST = 2 * ROUND_TRIP  # seconds from sealing a lease to its taking; its owner gives up sooner
_NOT_SHARED_FOR = 2.0  # seconds for which nobody waits for a token that has no lifetime
_LAST_BYTE = 512 * 1024 - 1  # of what is read; a token's response has at most 64 KiB
_TIME_FOR_ANOTHER = 0.05  # seconds; a use that took longer is not followed by another one
_KINDS = {
    kind.__name__: kind
    for kind in (UpstreamRefusedError, CredentialsRefusedError, UpstreamFailedError)
}
_NO_KEY = -2  # in place of the TTL (https://redis.io/docs/latest/commands/pttl/)
_NOT_SHARED = {"kind": "not shared"}


@dataclass(frozen=True)
class Found:
    """What is stored. Times are in seconds.

    `was_forced`: a caller had the token renewed just now. `is_unshared`: bakrypt's tokens have no
    lifetime. `is_leased`: a process asks bakrypt. `is_mine`: the lease was free, and was taken.
    `is_late`: it was taken so late that others do not believe it.
    `asked`: before the look, by the clocks of this machine. `server_time`: by Redis' clock.
    """

    token: CachedToken | None
    was_forced: bool
    error: BakryptError | None
    is_unshared: bool
    is_leased: bool
    is_mine: bool
    is_late: bool
    asked: Moment
    server_time: float


class Lease(NamedTuple):
    """The right to ask bakrypt, and what was found when it was taken."""

    value: bytes
    found: Found


class Records:
    """The three values of one account in Redis: its token, its last error, and the lease.

    :param secret: what the seals are derived from.
    :param lease_seconds: how long a lease is valid.
    :param clocks: the clocks of this machine.
    :param name: what the keys begin with.
    :param purpose: what the values are for.
    """

    def __init__(
        self, secret: Masked[str], lease_seconds: float, clocks: Clocks, name: str, purpose: str
    ) -> None:
        self._lease_seconds = lease_seconds
        self._clocks = clocks
        kinds = ("token", "error", "lease")
        self._token_key, self._error_key, self._lease_key = (f"{name}:{kind}" for kind in kinds)
        self._token_seal, self._error_seal, self._lease_seal = (
            Seal(secret.reveal(), f"{purpose} {kind}") for kind in kinds
        )

    def look(self, redis: "Redis", lease: bytes | None = None) -> Found:
        """Return what is stored, after taking the lease if one is given and it is free.

        :raises UnusableError: if a lease is there that no process of ours can have written, or none
            is there and none can be had.
        """
        asked = self._clocks.now()
        with redis.pipeline(transaction=True) as pipe, _losses_told():
            if lease is not None:
                _try_to_release(pipe, f"{self._lease_key}:unused")
                pipe.set(self._lease_key, lease, nx=True, px=int(self._lease_seconds * 1000))
            for key in (self._token_key, self._error_key, self._lease_key):
                pipe.getrange(key, 0, _LAST_BYTE)  # what is longer does not open
            pipe.pttl(self._lease_key)
            pipe.pttl(self._token_key)
            pipe.time()
            results = pipe.execute(raise_on_error=False)
        taken = None
        if lease is not None:
            released, taken, *results = results
            for result in (released, taken):
                if isinstance(result, Exception):
                    raise result
        is_mine = taken is True
        token, error, owner, lease_ttl, ttl, (seconds, microseconds) = results
        now = seconds + microseconds / 1_000_000
        is_leased = lease_ttl != _NO_KEY
        is_held = is_leased and _is_held(self._lease_seal.open(owner, now=now), lease_ttl)
        if is_leased and not (is_held or is_mine):
            raise UnusableError(f"no process of ours holds what is in {self._lease_key}")
        if lease is not None and not is_mine and not is_leased:
            raise UnusableError("it neither gives the lease nor has one")
        return Found(
            *self._open_token(token, ttl, now, asked),
            *_read_error(self._error_seal.open(error, now=now)),
            is_leased=is_leased,
            is_mine=is_mine,
            is_late=is_mine and not is_held,
            asked=asked,
            server_time=now,
        )

    def create_lease(self, found: Found) -> bytes:
        """Return a value for the lease. Nobody else has the same, and nobody can prolong it."""
        seconds = self._lease_seconds + _SEAL_MARGIN
        return self._lease_seal.close({}, now=found.server_time, seconds=seconds)

    def finish(
        self,
        redis: "Redis",
        lease: Lease,
        outcome: Outcome | BakryptError | None = None,
        *,
        is_forced: bool = False,
    ) -> bool:
        """Store the outcome and release the lease, unless it ran out and is another's by now.

        Long after the lease nothing is replaced: another process may have a newer token by then.

        :return: whether anything was written.
        """
        began = self._clocks.monotonic()
        with redis.pipeline(transaction=True) as pipe:
            try:
                with _losses_told():
                    pipe.watch(self._lease_key)  # type: ignore[no-untyped-call]
                    is_owner = pipe.getrange(self._lease_key, 0, _LAST_BYTE) == lease.value
                    is_late = not is_owner and self._is_over(lease)
                    pipe.multi()
                    self._write(pipe, lease.found, outcome, is_forced=is_forced, is_late=is_late)
                    if is_owner:
                        pipe.delete(self._lease_key)
                    return bool(pipe.execute())
            except WatchError:
                if self._clocks.monotonic() - began > _TIME_FOR_ANOTHER:
                    return False  # The caller's last second has no room for two slow uses.
                is_late = self._is_over(lease)
                self._write(pipe, lease.found, outcome, is_forced=is_forced, is_late=is_late)
                return bool(pipe.execute())

    def _is_over(self, lease: Lease) -> bool:
        return self._clocks.since(lease.found.asked) > self._lease_seconds + _LATEST

    def _write(
        self,
        pipe: "Pipeline",
        found: Found,
        outcome: Outcome | BakryptError | None,
        *,
        is_forced: bool,
        is_late: bool,
    ) -> None:
        now = found.server_time  # before the request: here a token ends no later than upstream
        elapsed = self._clocks.monotonic() - found.asked.monotonic
        if isinstance(outcome, CachedToken):
            forced_until = now + elapsed + FORCED_APART if is_forced else 0
            body = {
                "token": outcome.token,
                "lifetime": outcome.lifetime,
                "forced_until": forced_until,
            }
            sealed = self._token_seal.close(body, now=now, seconds=outcome.lifetime)
            end = int((now + outcome.lifetime) * 1000)
            pipe.set(self._token_key, sealed, pxat=end, nx=is_late)
            pipe.delete(self._error_key)
            return
        body, cooldown = _describe(outcome)
        if cooldown and not is_late:
            sealed = self._error_seal.close(body, now=now, seconds=elapsed + cooldown)
            pipe.set(self._error_key, sealed, px=max(1, int(cooldown * 1000)))

    def _open_token(
        self, sealed: object, ttl: int, now: float, asked: Moment
    ) -> tuple[CachedToken | None, bool]:
        """Return the token and whether a caller had it renewed just now."""
        opened = self._token_seal.open(sealed, now=now)
        if opened is None:
            return None, False
        left = opened.left if ttl < 0 else min(opened.left, ttl / 1000)
        token = cast("AccessToken", opened.body["token"])
        cached = CachedToken(token, opened.body["lifetime"], asked.after(left))
        return cached, now < opened.body["forced_until"]


def _read_error(opened: Opened | None) -> tuple[BakryptError | None, bool]:
    """Return the remembered error and whether bakrypt's tokens have no lifetime."""
    if opened is None:
        return None, False
    if opened.body == _NOT_SHARED:
        return None, True
    kind = _KINDS[opened.body.pop("kind")]
    error = kind(opened.body.pop("description"), **opened.body)
    error.cooldown = opened.left
    if error.retry_after is not None:
        error.retry_after = str(math.ceil(opened.left))
    return error, False


@contextmanager
def _losses_told() -> Iterator[None]:
    """Raise the error of a lost connection, of which redis-py makes a `WatchError`.

    That means that another process has taken the lease. Here it may still be ours.
    """
    try:
        yield
    except WatchError as error:
        lost = error.__context__
        if isinstance(lost, RedisConnectionError | RedisTimeoutError):
            raise lost from None
        raise


def _is_held(lease: Opened | None, ttl: int) -> bool:
    """Return whether somebody can hold a lease: it is ours, and was taken in time.

    A Redis that stalls gives it after its owner has gone on without, who cannot release it.
    Somebody may also have put it back.

    :param ttl: what Redis says of it, in milliseconds.
    """
    return lease is not None and 0 <= ttl / 1000 <= lease.left - _SEAL_MARGIN + _LATEST


def _describe(outcome: AccessToken | BakryptError | None) -> tuple[dict[str, Any], float]:
    """Return what to store of an outcome that is no token to share, and for how many seconds."""
    if outcome is None:
        return {}, 0
    if not isinstance(outcome, BakryptError):
        return _NOT_SHARED, _NOT_SHARED_FOR
    kind = type(outcome).__name__
    if kind not in _KINDS:
        return {}, 0
    members = ("description", "status", "error", "detail", "retry_after")
    body = {name: getattr(outcome, name) for name in members}
    return {"kind": kind, **body}, outcome.cooldown or 0


def _try_to_release(pipe: "Pipeline", unused: str) -> None:
    """Use the rights that `finish` needs: without them the lease would stay for its whole time.

    Nothing is stored under this key, so the watch never fails.
    """
    pipe.watch(unused)  # type: ignore[no-untyped-call]
    pipe.multi()
    pipe.delete(unused)
