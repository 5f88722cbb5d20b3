"""One access token for many callers: asked for once, shared while it lives, renewed before anybody waits.

The two windows are those of botocore's refreshable credentials: in the advisory one a renewal goes on behind the
callers' backs, in the mandatory one they wait for it.
"""

import json
import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from .errors import BakryptError, CredentialsRefusedError, UpstreamFailedError
from .observation import notify, outcome_of, shared_token_renewed, shared_token_served
from .replies import retry_after_seconds
from .types import AccessToken

logger = logging.getLogger(__name__)

Clock = Callable[[], float]

FORCED_APART = 5.0  # seconds between renewals that callers ask for
SHORTEST_ASK = 0.3  # seconds to ask bakrypt that are left even to one who has waited for others all the time
_GRACE = 0.7  # seconds that a caller waits beyond the timeout, for a lease whose owner was lost
_ADVISORY = (0.10, 60.0)  # a share of the life, and at least so many seconds
_MANDATORY = (0.02, 10.0)
_LONGEST_LIFE = 366 * 86400.0  # what Redis and the arithmetic of clocks can hold for certain
_BACKOFF = 1.0  # seconds after a first failure; twice as long after each further one
_LONGEST_BACKOFF = 10.0
_LONGEST_BACKOFF_WITHOUT_TOKEN = 2.0  # while callers get the error
_CREDENTIALS_BACKOFF = 30.0
_LONGEST_RETRY_AFTER = 3600.0


class Held:
    """A token that is being shared. `life` is in seconds, all times are in seconds of the monotonic clock.

    From `advisory_at` on, a renewal goes on behind the callers' backs; from `mandatory_at` on, they wait for it.
    """

    __slots__ = ("access_token", "advisory_at", "ends_at", "life", "mandatory_at", "token")

    def __init__(self, token: AccessToken, life: float, ends_at: float) -> None:
        self.token = token
        self.access_token = token["access_token"]
        self.life = life
        self.ends_at = ends_at
        self.advisory_at = ends_at - _window(life, *_ADVISORY)
        self.mandatory_at = ends_at - _window(life, *_MANDATORY)

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
    life = min(life, _LONGEST_LIFE)
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
        """Return a token to use instead of `stale`, found or by `ask(seconds)`. Raise the error that asking met.

        It may be `stale` itself, if callers had it renewed only just now.
        """


class _Written(NamedTuple):
    """A token as JSON, which is right up to `until`: then a second less is left of it."""

    held: Held
    until: float
    text: str


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

    def seconds(self, error: BakryptError, longest: float) -> float:
        """Return how long nobody should ask again after this error. `Retry-After` is obeyed."""
        growing = min(_BACKOFF * 2 ** min(self._failures, 10), longest)
        own = self._jitter(0.5, 1.5) * (_CREDENTIALS_BACKOFF if isinstance(error, CredentialsRefusedError) else growing)
        asked_for = retry_after_seconds(error.retry_after)
        return own if asked_for is None else max(own, min(asked_for, _LONGEST_RETRY_AFTER))


class _Renewal:
    """One renewal, and all who wait for it. `leader` is the thread that carries it out, if it is one of theirs."""

    def __init__(
        self, stale: str | None, give_up_at: float, *, forced: bool = False, leader: int | None = None
    ) -> None:
        self.stale = stale
        self.give_up_at = give_up_at
        self.forced = forced
        self.leader = leader
        self._done = threading.Event()
        self._result: Outcome | BakryptError | None = None

    def finish(self, result: Outcome | BakryptError) -> None:
        """Give the result to all who wait."""
        self._result = result
        self._done.set()

    def wait(self, seconds: float) -> Outcome | BakryptError:
        """Return the result, or an error of its own if there is none after so many seconds."""
        if self._done.wait(max(0, seconds)) and self._result is not None:
            return self._result
        return UpstreamFailedError("bakrypt did not answer in time", detail="waited for another caller's renewal")


class SharedToken:
    """Serves one token to all callers of a process and, through a `fleet`, of others.

    `fetch(seconds)` asks bakrypt for a token and takes no longer than that. Callers wait for about a second beyond
    `timeout`, in seconds, at the most.
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
        self._written: _Written | None = None
        self._forced_at = -math.inf
        self._start_anew()
        in_child = weakref.WeakMethod(self._start_anew)
        os.register_at_fork(after_in_child=lambda: (start_anew := in_child()) and start_anew())

    def get(self, rejected: str | None = None) -> AccessToken:
        """Return the token with what is left of its life, renewed first if it must be.

        `rejected` is an access token that bakrypt did not take from the caller: if it is the one being shared, it is
        renewed. Raises the `BakryptError` that a renewal met, unless the old token still lives.
        """
        found = self._find(rejected)
        return found.reply(self._clock()) if isinstance(found, Held) else found

    def get_json(self, rejected: str | None = None) -> str:
        """Return the same as JSON, which is written once for all callers of the same second."""
        found = self._find(rejected)
        if not isinstance(found, Held):
            return json.dumps(found)
        now = self._clock()
        written = self._written
        if written is None or written.held is not found or now > written.until:
            until = found.ends_at - found.left(now)
            self._written = written = _Written(found, until, json.dumps(found.reply(now)))
        return written.text

    def _find(self, rejected: str | None) -> Outcome:
        held, now = self._held, self._clock()
        if held is None or not self._serves(held, rejected, now):
            return self._get_renewed(rejected, now + self._timeout + _GRACE)
        if now >= held.advisory_at:
            self._renew_behind(held)
        notify(shared_token_served, network=self._network)
        return held

    def _start_anew(self) -> None:
        """Begin with a lock of one's own: one that was copied by a fork may be held by a thread that was not."""
        self._lock = threading.Lock()
        self._renewal: _Renewal | None = None

    def _serves(self, held: Held, rejected: str | None, now: float) -> bool:
        refused = held.access_token == rejected and now >= self._forced_at + FORCED_APART
        return now < held.mandatory_at and not refused

    def _get_renewed(self, rejected: str | None, give_up_at: float) -> Outcome:
        joined = self._join(rejected, give_up_at)
        if not isinstance(joined, _Renewal):
            return self._answer(joined, rejected)
        mine = joined.leader == threading.get_ident()
        if mine:
            self._carry_out(joined)
        result = joined.wait(give_up_at - self._clock())
        if isinstance(result, Held) and not mine and not self._serves(result, rejected, self._clock()):
            # It was renewed for another reason than this caller's, and is the refused one, or ends too soon.
            return self._get_renewed(rejected, give_up_at)
        if isinstance(result, dict) and not mine:
            return self._fetch(max(SHORTEST_ASK, min(self._timeout, give_up_at - self._clock())))
        return self._answer(result, rejected)

    def _join(self, rejected: str | None, give_up_at: float) -> _Renewal | Held | BakryptError:
        """Return the renewal to wait for, to be carried out if one's own thread leads it, or what makes it needless."""
        with self._lock:
            # Looked at again: it may have been renewed while the caller waited for the lock.
            held, now = self._held, self._clock()
            if held is not None and self._serves(held, rejected, now):
                return held
            if (running := self._running(now)) is not None:
                return running
            if (error := self._backoff.error()) is not None:
                return error
            forced = rejected is not None and (held is None or now < held.mandatory_at)
            stale = rejected if held is None else held.access_token
            self._renewal = _Renewal(stale, give_up_at, forced=forced, leader=threading.get_ident())
            return self._renewal

    def _renew_behind(self, held: Held) -> None:
        """Renew in a thread of its own, so that not even one caller waits for it."""
        with self._lock:
            now = self._clock()
            if self._held is not held or self._running(now) is not None or self._backoff.error() is not None:
                return
            self._renewal = renewal = _Renewal(held.access_token, now + self._timeout + _GRACE)
        thread = threading.Thread(target=self._carry_out, args=(renewal,), name="bakrypt-renewal", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads are to be had; the next caller tries again
            logger.warning("the shared token is not being renewed: %s", error)
            self._renewal = None

    def _running(self, now: float) -> _Renewal | None:
        """Return the renewal under way; one whose thread was lost is not waited for."""
        renewal = self._renewal
        return None if renewal is None or now > renewal.give_up_at else renewal

    def _carry_out(self, renewal: _Renewal) -> None:
        broken_off = UpstreamFailedError("the renewal broke off")
        broken_off.try_again_in = self._backoff_seconds(broken_off)
        result: Outcome | BakryptError = broken_off
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
        return self._fleet.renew(renewal.stale, self._ask, give_up_at=renewal.give_up_at)

    def _ask(self, seconds: float) -> Outcome:
        asked_at = self._clock()
        try:
            token = self._fetch(min(seconds, self._timeout))
        except BakryptError as error:
            # A call that was cut short because its caller had waited before says little about bakrypt.
            error.try_again_in = self._backoff_seconds(error) if seconds >= self._timeout else None
            raise
        return hold(token, asked_at) or token

    def _backoff_seconds(self, error: BakryptError) -> float:
        held = self._held
        is_alive = held is not None and held.left(self._clock()) > 0
        return self._backoff.seconds(error, _LONGEST_BACKOFF if is_alive else _LONGEST_BACKOFF_WITHOUT_TOKEN)

    def _take_in(self, renewal: _Renewal, result: Outcome | BakryptError) -> None:
        with self._lock:
            is_current = self._renewal is renewal
            if is_current:
                self._renewal = None
            if isinstance(result, Held) and (is_current or self._held is None or result.ends_at > self._held.ends_at):
                self._held = result
            if renewal.forced and not isinstance(result, BakryptError):
                self._forced_at = self._clock()
            error = self._failure(renewal, result)
            if error is None:
                self._backoff.forget()
            else:
                self._backoff.note(error)
            held = self._held
        outcome = "success" if error is None else outcome_of(error)
        notify(shared_token_renewed, network=self._network, outcome=outcome)
        if error is not None and held is not None:
            left = held.left(self._clock())
            logger.warning("the shared token, with %d s left, was not renewed: %s", left, error.explain())

    def _failure(self, renewal: _Renewal, result: Outcome | BakryptError) -> BakryptError | None:
        """Return a renewal's error. A token without a life is one, too, where no caller is there to get it."""
        if isinstance(result, BakryptError):
            return result
        if isinstance(result, Held) or renewal.leader is not None:
            return None
        error = UpstreamFailedError("bakrypt's reply does not say how long the token lives")
        error.try_again_in = self._backoff_seconds(error)
        return error

    def _answer(self, result: Outcome | BakryptError, rejected: str | None) -> Outcome:
        held, now = self._held, self._clock()
        if isinstance(result, BakryptError):
            if held is not None and held.left(now) > 0 and held.access_token != rejected:
                return held
            raise result.again()
        if isinstance(result, Held) and now >= result.ends_at:
            raise UpstreamFailedError("bakrypt's token ended before it was here")
        return result
