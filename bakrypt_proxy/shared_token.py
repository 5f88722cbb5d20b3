"""One access token for many callers: asked for once, shared while it lives, renewed before anybody waits.

The two windows are those of botocore's refreshable credentials: in the advisory one a renewal goes on behind the
callers' backs, in the mandatory one they wait for it.
"""

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self, cast

from .errors import BakryptError, CredentialsRefusedError, UpstreamFailedError
from .observation import outcome_of, shared_token_renewed, shared_token_served
from .replies import retry_after_seconds
from .types import AccessToken

logger = logging.getLogger(__name__)

Clock = Callable[[], float]

FORCED_APART = 5.0  # seconds between renewals that callers ask for
SHORTEST_ASK = 0.3  # seconds to ask bakrypt for one who has waited for others all the time
_GRACE = 0.7  # seconds that a caller waits beyond the timeout, for a lease whose owner was lost
_ADVISORY = (0.10, 60.0)  # a share of the life, and at least so many seconds
_MANDATORY = (0.02, 10.0)
_BACKOFF = (1.0, 10.0)  # seconds after a first failure, and at most after several
_CREDENTIALS_BACKOFF = 30.0
_LONGEST_RETRY_AFTER = 3600.0


@dataclass(frozen=True)
class Held:
    """A token that is being shared. `life` is in seconds, `ends_at` in seconds of the monotonic clock."""

    token: AccessToken
    life: float
    ends_at: float

    @property
    def access_token(self) -> str:
        """What the callers are after."""
        return self.token["access_token"]

    @cached_property
    def advisory_at(self) -> float:
        """From when a renewal goes on behind the callers' backs."""
        return self.ends_at - _window(self.life, *_ADVISORY)

    @cached_property
    def mandatory_at(self) -> float:
        """From when callers wait for the renewal."""
        return self.ends_at - _window(self.life, *_MANDATORY)

    def left(self, now: float) -> int:
        """Return what is left of the life, in whole seconds."""
        return max(0, math.floor(self.ends_at - now))

    def reply(self, now: float) -> AccessToken:
        """Return the token as a caller gets it: `expires_in` is what is left."""
        return cast("AccessToken", {**self.token, "expires_in": self.left(now)})


def _window(life: float, share: float, floor: float) -> float:
    """Return a window's length in seconds. A life of less than twice the advisory floor goes by the shares alone."""
    return life * share if life < 2 * _ADVISORY[1] else max(life * share, floor)


def hold(token: AccessToken, asked_at: float) -> Held | None:
    """Return a reply as a token to share, or None if it does not say sensibly for how long.

    `asked_at` is the clock before the request. The refresh token is left out: whoever used it would revoke the access
    token of all.
    """
    life = _seconds(token.get("expires_in"))
    if life is None:
        return None
    shared = {name: value for name, value in token.items() if name != "refresh_token"}
    return Held(cast("AccessToken", shared), life, asked_at + life)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 1 <= seconds < math.inf else None  # less than a second cannot be said in whole seconds


Outcome = Held | AccessToken  # a bare AccessToken does not say for how long it lives, and is not shared
Ask = Callable[[float], Outcome]


class Fleet(Protocol):
    """What the processes of a fleet share; `fleet.py` has the one on Redis."""

    def renew(self, stale: str | None, ask: Ask, *, give_up_at: float) -> Outcome:
        """Return a token other than `stale`, found or by `ask(seconds)`. Raise the error that asking met."""


class Backoff:
    """Remembers the last failure for a while, so that a bakrypt in trouble, or a wrong secret, is not hammered."""

    def __init__(self, clock: Clock, jitter: Callable[[float, float], float]) -> None:
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._error: BakryptError | None = None
        self._until = -math.inf

    def note(self, error: BakryptError) -> None:
        """Remember an error until its `try_again_in` seconds have passed."""
        self._failures += 1
        self._error = error
        self._until = self._clock() + (error.try_again_in or 0)

    def forget(self) -> None:
        """All is well again."""
        self._failures, self._error = 0, None

    def error(self) -> BakryptError | None:
        """Return the remembered error as long as it is too soon to ask again."""
        left = self._until - self._clock()
        if self._error is None or left <= 0:
            return None
        error = self._error.again()
        if error.retry_after is not None:
            error.retry_after = str(math.ceil(left))
        return error

    def seconds(self, error: BakryptError) -> float:
        """Return how long nobody should ask again after this error. `Retry-After` is obeyed."""
        asked_for = retry_after_seconds(error.retry_after)
        if asked_for is not None:
            return min(asked_for, _LONGEST_RETRY_AFTER)
        first, longest = _BACKOFF
        growing = min(first * 2**self._failures, longest)
        return self._jitter(0.5, 1.5) * (
            _CREDENTIALS_BACKOFF if isinstance(error, CredentialsRefusedError) else growing
        )


class _Renewal:
    """One renewal, and all who wait for it."""

    def __init__(self, stale: str | None, started: float, *, forced: bool) -> None:
        self.stale = stale
        self.started = started
        self.forced = forced
        self._done = threading.Event()
        self._result: Outcome | BakryptError | None = None

    def finish(self, result: Outcome | BakryptError) -> Self:
        """Give the result to all who wait."""
        self._result = result
        self._done.set()
        return self

    def wait(self, seconds: float) -> Outcome | BakryptError:
        """Return the result, or an error of its own if there is none after so many seconds."""
        if self._done.wait(seconds) and self._result is not None:
            return self._result
        return UpstreamFailedError("bakrypt did not answer in time", detail="waited for another caller's renewal")


class SharedToken:
    """Serves one token to all callers of a process and, through a `fleet`, of others.

    `fetch(seconds)` asks bakrypt for a token and takes no longer than that. No caller waits longer than a second beyond
    `timeout`, which is in seconds.
    """

    def __init__(  # noqa: PLR0913 - all but the first are named
        self,
        fetch: Callable[[float], AccessToken],
        *,
        timeout: float,
        network: str = "",
        fleet: Fleet | None = None,
        clock: Clock = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._network = network
        self._fleet = fleet
        self._clock = clock
        self._backoff = Backoff(clock, jitter)
        self._held: Held | None = None
        self._forced_at = -math.inf
        self._start_anew()

    def get(self, rejected: str | None = None) -> AccessToken:
        """Return the token with what is left of its life, renewed first if it must be.

        `rejected` is an access token that bakrypt did not take from the caller: if it is the one being shared, it is
        renewed. Raises the `BakryptError` that a renewal met, unless the old token still lives.
        """
        if self._pid != os.getpid():
            self._start_anew()
        held, now = self._held, self._clock()
        if held is not None and self._serves(held, rejected, now):
            if now >= held.advisory_at:
                self._renew_behind(held)
            if shared_token_served.receivers:
                shared_token_served.send(network=self._network)
            return held.reply(now)
        renewal, mine = self._join(rejected)
        if mine:
            self._carry_out(renewal)
        return self._answer(renewal.wait(self._timeout + _GRACE), rejected, mine=mine)

    def _start_anew(self) -> None:
        """Begin with a lock of one's own: one that was copied by a fork may be held by a thread that was not."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._renewal: _Renewal | None = None

    def _serves(self, held: Held, rejected: str | None, now: float) -> bool:
        refused = held.access_token == rejected and now >= self._forced_at + FORCED_APART
        return now < held.mandatory_at and not refused

    def _join(self, rejected: str | None) -> tuple[_Renewal, bool]:
        """Return the renewal to wait for, and whether the caller is the one to carry it out."""
        with self._lock:
            # Looked at again: it may have been renewed while the caller waited for the lock.
            held, now = self._held, self._clock()
            if held is not None and self._serves(held, rejected, now):
                return _Renewal(None, now, forced=False).finish(held), False
            if (running := self._running(now)) is not None:
                return running, False
            if (error := self._backoff.error()) is not None:
                return _Renewal(None, now, forced=False).finish(error), False
            forced = rejected is not None and (held is None or now < held.mandatory_at)
            stale = rejected if held is None else held.access_token
            self._renewal = _Renewal(stale, now, forced=forced)
            return self._renewal, True

    def _renew_behind(self, held: Held) -> None:
        """Renew in a thread of its own, so that not even one caller waits for it."""
        with self._lock:
            now = self._clock()
            if self._held is not held or self._running(now) is not None or self._backoff.error() is not None:
                return
            self._renewal = renewal = _Renewal(held.access_token, now, forced=False)
        threading.Thread(target=self._carry_out, args=(renewal,), name="bakrypt-renewal", daemon=True).start()

    def _running(self, now: float) -> _Renewal | None:
        """Return the renewal under way; one whose thread was lost is not waited for."""
        renewal = self._renewal
        return None if renewal is None or now > renewal.started + self._timeout + _GRACE else renewal

    def _carry_out(self, renewal: _Renewal) -> None:
        result: Outcome | BakryptError = UpstreamFailedError("the renewal broke off")
        try:
            result = self._obtain(renewal)
        except BakryptError as error:
            result = error
        finally:
            # Whatever was raised: those who wait must not wait in vain.
            self._take_in(renewal, result)
            renewal.finish(result)

    def _obtain(self, renewal: _Renewal) -> Outcome:
        if self._fleet is None:
            return self._ask(self._timeout)
        return self._fleet.renew(renewal.stale, self._ask, give_up_at=renewal.started + self._timeout + _GRACE)

    def _ask(self, seconds: float) -> Outcome:
        asked_at = self._clock()
        try:
            token = self._fetch(min(seconds, self._timeout))
        except BakryptError as error:
            error.try_again_in = self._backoff.seconds(error)
            raise
        return hold(token, asked_at) or token

    def _take_in(self, renewal: _Renewal, result: Outcome | BakryptError) -> None:
        with self._lock:
            if self._renewal is not renewal:  # given up, and another has taken its place
                return
            self._renewal = None
            if isinstance(result, BakryptError):
                self._backoff.note(result)
            else:
                self._backoff.forget()
            if isinstance(result, Held):
                self._held = result
                self._forced_at = self._clock() if renewal.forced else self._forced_at
        outcome = outcome_of(result) if isinstance(result, BakryptError) else "success"
        shared_token_renewed.send(network=self._network, outcome=outcome)
        if isinstance(result, BakryptError) and self._held is not None:
            left = self._held.left(self._clock())
            logger.warning("the shared token, with %d s left, was not renewed: %s", left, result.explain())

    def _answer(self, result: Outcome | BakryptError, rejected: str | None, *, mine: bool) -> AccessToken:
        held, now = self._held, self._clock()
        if isinstance(result, BakryptError):
            if held is not None and held.left(now) > 0 and held.access_token != rejected:
                return held.reply(now)
            raise result.again()
        if not isinstance(result, Held):
            return result if mine else self._fetch(self._timeout)
        if result.access_token == rejected and not mine and not self._serves(result, rejected, now):
            # It was renewed for another reason than this caller's, and found in the fleet as it was.
            return self.get(rejected)
        return result.reply(now)
