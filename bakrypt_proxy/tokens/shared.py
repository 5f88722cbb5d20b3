"""One access token for many callers: fetched once, shared while it lives, renewed before anybody waits."""

import json
import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..errors import BakryptError, UpstreamFailedError
from ..telemetry.calls import outcome_of
from ..telemetry.signals import notify, shared_token_renewed, shared_token_served
from ..types import AccessToken
from .backoff import Backoff, Clock
from .cached import CachedToken, cache_token

logger = logging.getLogger(__name__)

FORCED_APART = 5.0  # seconds between renewals that callers ask for
SHORTEST_FETCH = (
    0.3  # seconds to fetch that are left even to one who has waited for others all the time
)
_GRACE = 0.7  # seconds that a caller waits beyond the timeout, for a lease whose owner was lost
_LONGEST_COOLDOWN = 10.0  # seconds
_LONGEST_COOLDOWN_WITHOUT_TOKEN = 2.0  # while callers get the error

Outcome = (
    CachedToken | AccessToken
)  # a bare AccessToken does not say for how long it lives, and is not shared
Fetch = Callable[[float], Outcome]


class TokenStore(Protocol):
    """What the processes of a fleet share; `redis_store.py` has the one on Redis."""

    def renew(self, stale: str | None, fetch: Fetch, *, deadline: float) -> Outcome:
        """Return a token to use instead of `stale`, found or by `fetch(seconds)`. Raise the error that fetching met.

        It may be `stale` itself, if callers had it renewed only just now.
        """


class _Written(NamedTuple):
    """A token as JSON, which is right up to `until`: then a second less is left of it."""

    held: CachedToken
    until: float
    text: str


class _Renewal:
    """One renewal, and all who wait for it. `leader` is the thread that carries it out, if it is one of theirs."""

    def __init__(
        self, stale: str | None, deadline: float, *, forced: bool = False, leader: int | None = None
    ) -> None:
        self.stale = stale
        self.deadline = deadline
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
        return UpstreamFailedError(
            "bakrypt did not answer in time", detail="waited for another caller's renewal"
        )


class SharedToken:
    """Serves one token to all callers of a process and, through a `store`, of others.

    `fetch(seconds)` asks bakrypt for a token and takes no longer than that. Callers wait for about a second beyond
    `timeout`, in seconds, at the most.
    """

    def __init__(  # noqa: PLR0913 - all but the first are named
        self,
        fetch: Callable[[float], AccessToken],
        *,
        timeout: float,
        network: str = "",
        store: TokenStore | None = None,
        clock: Clock = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._network = network
        self._store = store
        self._clock = clock
        self._backoff = Backoff(clock, jitter)
        self._held: CachedToken | None = None
        self._written: _Written | None = None
        self._forced_at = -math.inf
        self._reset_after_fork()
        in_child = weakref.WeakMethod(self._reset_after_fork)
        os.register_at_fork(
            after_in_child=lambda: (reset_after_fork := in_child()) and reset_after_fork()
        )

    def get(self, rejected: str | None = None) -> AccessToken:
        """Return the token with what is left of its life, renewed first if it must be.

        `rejected` is an access token that bakrypt did not take from the caller: if it is the one being shared, it is
        renewed. Raises the `BakryptError` that a renewal met, unless the old token still lives.
        """
        found = self._find(rejected)
        return found.reply(self._clock()) if isinstance(found, CachedToken) else found

    def get_json(self, rejected: str | None = None) -> str:
        """Return the same as JSON, which is written once for all callers of the same second."""
        found = self._find(rejected)
        if not isinstance(found, CachedToken):
            return json.dumps(found)
        now = self._clock()
        written = self._written
        if written is None or written.held is not found or now > written.until:
            until = found.expires_at - found.left(now)
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

    def _reset_after_fork(self) -> None:
        """Begin with a lock of one's own: one that was copied by a fork may be held by a thread that was not."""
        self._lock = threading.Lock()
        self._renewal: _Renewal | None = None

    def _serves(self, held: CachedToken, rejected: str | None, now: float) -> bool:
        refused = held.access_token == rejected and now >= self._forced_at + FORCED_APART
        return now < held.mandatory_at and not refused

    def _get_renewed(self, rejected: str | None, deadline: float) -> Outcome:
        joined = self._join(rejected, deadline)
        if not isinstance(joined, _Renewal):
            return self._answer(joined, rejected)
        mine = joined.leader == threading.get_ident()
        if mine:
            self._carry_out(joined)
        result = joined.wait(deadline - self._clock())
        if (
            isinstance(result, CachedToken)
            and not mine
            and not self._serves(result, rejected, self._clock())
        ):
            # It was renewed for another reason than this caller's, and is the refused one, or ends too soon.
            return self._get_renewed(rejected, deadline)
        if isinstance(result, dict) and not mine:
            return self._fetch(max(SHORTEST_FETCH, min(self._timeout, deadline - self._clock())))
        return self._answer(result, rejected)

    def _join(self, rejected: str | None, deadline: float) -> _Renewal | CachedToken | BakryptError:
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
            self._renewal = _Renewal(stale, deadline, forced=forced, leader=threading.get_ident())
            return self._renewal

    def _renew_behind(self, held: CachedToken) -> None:
        """Renew in a thread of its own, so that not even one caller waits for it."""
        with self._lock:
            now = self._clock()
            if (
                self._held is not held
                or self._running(now) is not None
                or self._backoff.error() is not None
            ):
                return
            self._renewal = renewal = _Renewal(held.access_token, now + self._timeout + _GRACE)
        thread = threading.Thread(
            target=self._carry_out, args=(renewal,), name="bakrypt-renewal", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads are to be had; the next caller tries again
            logger.warning("the shared token is not being renewed: %s", error)
            self._renewal = None

    def _running(self, now: float) -> _Renewal | None:
        """Return the renewal under way; one whose thread was lost is not waited for."""
        renewal = self._renewal
        return None if renewal is None or now > renewal.deadline else renewal

    def _carry_out(self, renewal: _Renewal) -> None:
        broken_off = UpstreamFailedError("the renewal broke off")
        broken_off.cooldown = self._cooldown(broken_off)
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
        if self._store is None:
            return self._fetch_token(self._timeout)
        return self._store.renew(renewal.stale, self._fetch_token, deadline=renewal.deadline)

    def _fetch_token(self, seconds: float) -> Outcome:
        asked_at = self._clock()
        try:
            token = self._fetch(min(seconds, self._timeout))
        except BakryptError as error:
            # A call that was cut short because its caller had waited before says little about bakrypt.
            error.cooldown = self._cooldown(error) if seconds >= self._timeout else None
            raise
        return cache_token(token, asked_at) or token

    def _cooldown(self, error: BakryptError) -> float:
        held = self._held
        is_alive = held is not None and held.left(self._clock()) > 0
        return self._backoff.seconds(
            error, _LONGEST_COOLDOWN if is_alive else _LONGEST_COOLDOWN_WITHOUT_TOKEN
        )

    def _take_in(self, renewal: _Renewal, result: Outcome | BakryptError) -> None:
        with self._lock:
            is_current = self._renewal is renewal
            if is_current:
                self._renewal = None
            if isinstance(result, CachedToken) and (
                is_current or self._held is None or result.expires_at > self._held.expires_at
            ):
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
            logger.warning(
                "the shared token, with %d s left, was not renewed: %s", left, error.explain()
            )

    def _failure(self, renewal: _Renewal, result: Outcome | BakryptError) -> BakryptError | None:
        """Return a renewal's error. A token without a life is one, too, where no caller is there to get it."""
        if isinstance(result, BakryptError):
            return result
        if isinstance(result, CachedToken) or renewal.leader is not None:
            return None
        error = UpstreamFailedError("bakrypt's reply does not say how long the token lives")
        error.cooldown = self._cooldown(error)
        return error

    def _answer(self, result: Outcome | BakryptError, rejected: str | None) -> Outcome:
        held, now = self._held, self._clock()
        if isinstance(result, BakryptError):
            if held is not None and held.left(now) > 0 and held.access_token != rejected:
                return held
            raise result.again()
        if isinstance(result, CachedToken) and now >= result.expires_at:
            raise UpstreamFailedError("bakrypt's token ended before it was here")
        return result
