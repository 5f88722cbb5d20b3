"""One access token for many callers: fetched once, shared, renewed ahead of its end.

The path of a renewal: `get` finds that the token does not serve. `_get_renewed` waits for the
caller who leads, or leads. `_carry_out` has the renewer fetch, `_settle` keeps the outcome and
wakes all who wait. Who has waited too long to lead has a thread lead.
"""

import json
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from ..errors import BakryptError, UpstreamFailedError
from ..telemetry.calls import outcome_of
from ..telemetry.signals import notify, shared_token_renewed, shared_token_served
from ..types import AccessToken
from ..upstream.masking import Masked
from .backoff import Backoff, Reports
from .cached import CachedToken, Clock, Clocks, Moment, cache_token

_logger = logging.getLogger(__name__)

SHORTEST_FETCH = 0.3  # seconds; with less time left, nobody asks bakrypt
_ROUNDING = 0.01  # seconds by which a timeout may be early
_ENOUGH = 0.8  # of the timeout: a call that had less, and ended by it, says nothing about bakrypt
_GRACE = 0.95  # seconds that a caller waits beyond the timeout, whatever happens
_LONGEST_COOLDOWN = 10.0  # seconds
_LONGEST_COOLDOWN_WITHOUT_TOKEN = 2.0  # seconds; callers get the error meanwhile

Outcome = CachedToken | AccessToken  # an AccessToken does not say how long it lives: not shared
Fetch = Callable[[float], Outcome]
Rejected = Masked[str | None]  # the token that a caller reports as refused, if any


@dataclass(frozen=True, eq=False)
class Renewal:
    """One renewal.

    `held` is the token to replace and `rejected` the one that the caller reports as refused.
    `deadline` is a time of the monotonic clock, in seconds. `at_once`: the report is to be believed
    even if another one caused a renewal just now.
    """

    held: CachedToken | None
    rejected: Rejected
    deadline: float
    at_once: bool = False
    in_background: bool = False

    def is_refused(self, access_token: str) -> bool:
        """Return whether a token must not come back: the one to replace, or the reported one."""
        held = None if self.held is None else self.held.access_token
        return access_token in {held, self.rejected.reveal()}

    @property
    def is_forced(self) -> bool:
        """Whether a caller reported the token that is held, or there is none to compare with."""
        rejected = self.rejected.reveal()
        return rejected is not None and (self.held is None or rejected == self.held.access_token)


class TooLateError(UpstreamFailedError):
    """A caller's own time is over. This says nothing about bakrypt: it is nobody else's error."""


class TokenStore(Protocol):
    """What the processes of a fleet share; `redis_store.py` has the one in Redis."""

    def renew(self, renewal: Renewal, fetch: Fetch) -> Outcome:
        """Return a token that is not refused: the one of another process, or a fetched one.

        It may be a refused one, if another process renewed it only just now.

        :param fetch: asks bakrypt; takes the seconds that this may last.
        :raises BakryptError: the error that fetching met, here or in another process.
        """


class _SingleFlight:
    """Lets one caller at a time renew, while the others wait for the outcome.

    `lock` is held around all calls but `reset_after_fork` and `deadline`.
    """

    def __init__(self, clocks: Clocks, timeout: float) -> None:
        self._clock, self._clocks, self._timeout = clocks.monotonic, clocks, timeout
        self._background = _Background()
        self._outcome: Outcome | BakryptError | None = None  # of the last renewal
        self.reset_after_fork()
        if hasattr(os, "register_at_fork"):  # not on Windows
            reset = weakref.WeakMethod(self.reset_after_fork)
            os.register_at_fork(after_in_child=lambda: (alive := reset()) and alive())

    def reset_after_fork(self) -> None:
        """Create a new lock: a copied one may be held by a thread that the child does not have."""
        self.lock = threading.Condition(threading.Lock())
        self._leader: Renewal | None = None

    def is_led(self) -> bool:
        """Return whether a renewal is running. One that is overdue does not count."""
        return self._leader is not None and self._clock() < self._leader.deadline

    def deadline(self) -> float:
        """Return when somebody who comes now gives up, by the monotonic clock."""
        return self._clock() + self._timeout + _GRACE

    def lead(self, renewal: Renewal) -> None:
        """Begin a renewal."""
        self._leader = renewal

    def have_led(self, renewal: Renewal, carry_out: Callable[[Renewal], object]) -> bool:
        """Have a new thread lead, with the time of a whole call. False: the system gives none."""
        self._leader = longer = replace(renewal, deadline=self.deadline())
        if not self._background.start(partial(carry_out, longer)):
            self._leader = None
        return self._leader is not None

    def wait(self, wanted: Renewal) -> Outcome | BakryptError | None:
        """Wait for the running renewal, until the deadline of the one that is wanted.

        :return: its outcome if it suits, or a `TooLateError` if the deadline has passed; None if no
            renewal is running any more.
        """
        seen, deadline = self._outcome, wanted.deadline
        while (leader := self._leader) is not None:
            end = min(leader.deadline, deadline)
            is_woken = self.lock.wait(max(0, end - self._clock()))
            outcome = self._outcome
            if outcome is not None and outcome is not seen and self._suits(outcome, wanted):
                return outcome
            if not is_woken and deadline < leader.deadline:
                return _too_late()
            if not is_woken and self._leader is leader:
                self._leader = None  # overdue: its thread was lost, or hangs
        return None

    def _suits(self, outcome: Outcome | BakryptError, wanted: Renewal) -> bool:
        """Return whether a renewal's outcome is one for a caller who waited for it."""
        if not isinstance(outcome, CachedToken):
            return True
        return _is_other(outcome, wanted.rejected) and outcome.left(*self._clocks.now()) > 0

    def finish(self, renewal: Renewal, outcome: Outcome | BakryptError | None) -> bool:
        """End a renewal and wake all who wait. None: its thread broke off, another may lead.

        :return: False if it was overdue, and does not count any more.
        """
        if self._leader is not renewal:
            return False
        self._leader = None
        if outcome is not None:
            self._outcome = outcome
        self.lock.notify_all()
        return True


class SharedToken:
    """Serves one token to all callers. None waits longer than `timeout` and a second.

    :param fetch: asks bakrypt for a token; takes the seconds that this may last.
    :param timeout: of one call to bakrypt, in seconds.
    :param network: the network's name, for the signals.
    :param store: shares the token with other processes.
    :param clock: a monotonic clock, in seconds.
    :param wall_clock: a clock that goes on while the machine sleeps, in seconds.
    :param jitter: returns a number between two others.
    """

    def __init__(  # noqa: PLR0913 - all but the first are named
        self,
        fetch: Callable[[float], AccessToken],
        *,
        timeout: float,
        network: str = "",
        store: TokenStore | None = None,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock, self._wall_clock = clock, wall_clock
        self._clocks = Clocks(clock, wall_clock)
        self._timeout, self._network = timeout, network
        self._backoff = Backoff(self._clocks, jitter)
        self._renewer = _Renewer(fetch, timeout, store, self._clocks, self._backoff)
        self._flight = _SingleFlight(self._clocks, timeout)
        self._held: CachedToken | None = None
        self._reports = Reports(self._clocks)

    def get(self, rejected: str | None = None, *, at_once: bool = False) -> AccessToken:
        """Return the token with what is left of its lifetime, renewed first if it must be.

        :param rejected: an access token that bakrypt refused. If it is the shared one, it is
            renewed.
        :param at_once: renew it even if a report caused a renewal just now.
        :raises BakryptError: the error that the renewal met, unless the old token still lives.
        """
        reported = Masked(rejected)
        del rejected  # a crash reporter collects the local variables of each frame
        found, left = self._find(reported, at_once=at_once)
        return found.reply(left) if isinstance(found, CachedToken) else found

    def get_json(self, rejected: str | None = None) -> str:
        """Return the same as JSON, which is written once for all callers of the same second."""
        reported = Masked(rejected)
        del rejected  # as in `get`
        found, left = self._find(reported)
        return found.to_json(left) if isinstance(found, CachedToken) else json.dumps(found)

    def _find(self, rejected: Rejected, *, at_once: bool = False) -> tuple[Outcome, float]:
        """Return the token and the seconds that it has left. Most callers come no further."""
        held = self._held
        if held is not None and (
            _is_other(held, rejected) or self._reports.must_wait(at_once=at_once)
        ):
            left = held.left(self._clock(), self._wall_clock())
            if left > held.mandatory:
                if left <= held.advisory:
                    self._renew_in_background(held)
                if shared_token_served.receivers:  # asked here, too: this is the hot path
                    notify(shared_token_served, network=self._network)
                return held, left
        wanted = Renewal(held, rejected, self._flight.deadline(), at_once)
        found = self._get_renewed(wanted)
        return found, found.left(*self._clocks.now()) if isinstance(found, CachedToken) else 0

    def _get_renewed(self, wanted: Renewal) -> Outcome:
        """Return what the running renewal brings, or lead one."""
        with self._flight.lock:
            found = self._wait_or_lead(wanted)
        if isinstance(found, Renewal):
            found = self._carry_out(found)
        elif isinstance(found, dict):  # another caller's, and not to be shared
            del found  # a crash reporter collects it, if the fetch fails
            found = self._renewer.fetch_own(wanted.deadline)
        return _answer(found, self._held, wanted.rejected, self._clocks.now())

    def _wait_or_lead(self, wanted: Renewal) -> Outcome | BakryptError | Renewal:
        """Return what serves the caller, or the renewal that it leads from now on.

        The call of somebody who has waited would be cut short, and so would the next one's: then a
        thread leads, once for each caller.
        """
        may_have_led = True
        while (found := self._flight.wait(wanted) or self._look_again(wanted)) is None:
            renewal = replace(wanted, held=self._held)
            may_have_led &= wanted.deadline - self._clock() < self._timeout
            if not (may_have_led and self._flight.have_led(renewal, self._carry_out)):
                self._flight.lead(renewal)
                return renewal
            may_have_led = False
        return found

    def _look_again(self, wanted: Renewal) -> Outcome | BakryptError | None:
        """Return the current token or an error: no time, or a remembered one. None: renew."""
        held = self._held
        asked_at = wanted.deadline - self._timeout - _GRACE
        is_ignored = self._reports.must_wait(at_once=wanted.at_once, asked_at=asked_at)
        serves = held is not None and (is_ignored or _is_other(held, wanted.rejected))
        if held is not None and serves and held.left(*self._clocks.now()) > held.mandatory:
            return held
        if wanted.deadline - self._clock() < SHORTEST_FETCH:
            return _too_late()
        return self._backoff.error()

    def _renew_in_background(self, held: CachedToken) -> None:
        """Renew in a new thread, so that no caller waits."""
        with self._flight.lock:
            is_needed = self._held is held and not self._flight.is_led()
            if is_needed and self._backoff.error() is None:
                renewal = Renewal(held, Masked(None), self._flight.deadline(), in_background=True)
                self._flight.have_led(renewal, self._carry_out)

    def _carry_out(self, renewal: Renewal) -> Outcome | BakryptError:
        outcome: Outcome | BakryptError | None = None
        try:
            outcome = self._renewer.renew(renewal)
        except BakryptError as error:
            outcome = error.again()  # without its traceback, whose frames hold secrets
        except MemoryError:
            raise  # Like SystemExit it says nothing about bakrypt: the next caller leads.
        except Exception:
            outcome = self._renewer.broken_off(renewal)
            raise
        finally:
            self._settle(renewal, None if isinstance(outcome, TooLateError) else outcome)
        return outcome

    def _settle(self, renewal: Renewal, outcome: Outcome | BakryptError | None) -> None:
        """Keep the outcome and wake all who wait for it. None: the leader's thread broke off."""
        with self._flight.lock:
            counts = self._flight.finish(renewal, outcome)
            if counts and isinstance(outcome, BakryptError):
                self._backoff.note(outcome)
            elif counts and outcome is not None:
                self._backoff.forget()
                if renewal.is_forced:
                    self._reports.note()
            if isinstance(outcome, CachedToken) and (
                counts or outcome.outlives(self._held, self._clocks.now())
            ):
                self._held = outcome
            held = self._held
        if outcome is not None:
            left = None if held is None else held.left(*self._clocks.now())
            _report(outcome, self._network, left)


class _Renewer:
    """Gets a new token: from the store, or from bakrypt."""

    def __init__(
        self,
        fetch: Callable[[float], AccessToken],
        timeout: float,
        store: TokenStore | None,
        clocks: Clocks,
        backoff: Backoff,
    ) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._store = store
        self._clocks = clocks
        self._backoff = backoff

    def renew(self, renewal: Renewal) -> Outcome:
        """Return a new token.

        :raises BakryptError: with the `cooldown` after which bakrypt may be asked again.
        """
        fetch = partial(self._fetch_token, renewal)
        if self._store is None:
            outcome = fetch(renewal.deadline - self._clocks.monotonic())
        else:
            outcome = self._store.renew(renewal, fetch)
        if renewal.in_background and not isinstance(outcome, CachedToken):
            # Nobody waits who could use it. Without a cooldown each caller would cause a fetch.
            error = UpstreamFailedError("bakrypt's reply does not say how long the token lives")
            raise self._with_cooldown(error, renewal)
        return outcome

    def fetch_own(self, deadline: float) -> AccessToken:
        """Return a token that is not shared, for a caller who has waited."""
        left = deadline - self._clocks.monotonic()
        if left < SHORTEST_FETCH:
            raise _too_late()
        return self._fetch(min(left, self._timeout))

    def broken_off(self, renewal: Renewal) -> BakryptError:
        """Return the error of a renewal that a fault in the program ended."""
        return self._with_cooldown(UpstreamFailedError("the renewal broke off"), renewal)

    def _fetch_token(self, renewal: Renewal, seconds: float) -> Outcome:
        deadline = self._clocks.monotonic() + seconds
        outcome = self._ask(renewal, seconds)
        left = deadline - self._clocks.monotonic()
        if left >= SHORTEST_FETCH and _ended_on_wall_clock(outcome, self._clocks.now()):
            outcome = self._ask(renewal, left)
        if isinstance(outcome, CachedToken) and outcome.left(*self._clocks.now()) <= 0:
            raise _ended()
        return outcome

    def _ask(self, renewal: Renewal, seconds: float) -> Outcome:
        if seconds <= 0:
            raise _too_late()  # the process was stopped for a while
        asked = self._clocks.now()
        try:
            token = self._fetch(min(seconds, self._timeout))
        except BakryptError as error:
            used = self._clocks.monotonic() - asked.monotonic
            if seconds < self._timeout * _ENOUGH and used >= seconds - _ROUNDING:
                # It was cut short, because its caller had waited: this says little about bakrypt.
                raise TooLateError(error.description, detail=error.detail) from None
            self._with_cooldown(error, renewal)
            raise
        return cache_token(token, asked) or token

    def _with_cooldown(self, error: BakryptError, renewal: Renewal) -> BakryptError:
        held = renewal.held
        left = 0 if held is None else held.left(*self._clocks.now())
        # Jitter adds up to a half. An error that outlasts the token is what callers get then.
        bounded = min(_LONGEST_COOLDOWN, left * 2 / 3)
        longest = max(_LONGEST_COOLDOWN_WITHOUT_TOKEN, bounded)
        error.cooldown = self._backoff.cooldown(error, longest)
        return error


def _is_other(token: CachedToken, rejected: Rejected) -> bool:
    """Return whether a token is not the one that the caller reports."""
    return token.access_token != rejected.reveal()


def _ended_on_wall_clock(outcome: Outcome, now: Moment) -> bool:
    """Return whether the machine slept while bakrypt was asked, or its clock was set forward."""
    if not isinstance(outcome, CachedToken):
        return False
    return outcome.left(*now) <= 0 and outcome.expires.monotonic > now.monotonic


def _answer(
    found: Outcome | BakryptError, held: CachedToken | None, rejected: Rejected, now: Moment
) -> Outcome:
    """Return what was found, or in place of an error the old token while it lives."""
    if isinstance(found, CachedToken) and found.left(*now) <= 0:
        raise _ended()  # while the store took it
    if not isinstance(found, BakryptError):
        return found
    if held is not None and _is_other(held, rejected) and held.left(*now) > 0:
        return held
    raise found.again()


class _Background:
    """Starts the threads of renewals that nobody waits for."""

    _lacks_threads = False

    def start(self, work: Callable[[], object]) -> bool:
        """Start a thread. Return False if the system gives none."""
        try:
            threading.Thread(target=work, name="bakrypt-renewal", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            if not self._lacks_threads:  # else each caller would log it
                _logger.warning("no thread can be started to renew the shared token: %s", error)
            self._lacks_threads = True
            return False
        self._lacks_threads = False
        return True


def _report(outcome: Outcome | BakryptError, network: str, left: float | None) -> None:
    """Tell the log and the metrics; `left` is what the shared token has left, in seconds."""
    error = outcome if isinstance(outcome, BakryptError) else None
    word = "success" if error is None else outcome_of(error)
    notify(shared_token_renewed, network=network, outcome=word)
    if error is not None and left is not None:
        message = "the shared token, with %d s left, was not renewed: %s"
        _logger.warning(message, max(0, left), error)


def _too_late() -> TooLateError:
    return TooLateError("bakrypt did not answer in time", detail="no time was left to ask it")


def _ended() -> UpstreamFailedError:
    return UpstreamFailedError("bakrypt's token ended before it was here")
