"""When bakrypt may be asked again: after a failure, and after a renewal that a caller asked for."""

import math
from collections.abc import Callable

from ..errors import BakryptError, CredentialsRefusedError
from ..upstream.responses import retry_after_seconds
from .cached import Clocks, Moment

_FIRST_COOLDOWN = 1.0  # seconds after a first failure; twice as long after each further one
_CREDENTIALS_COOLDOWN = 30.0
LONGEST_COOLDOWN = 3600.0  # seconds; a longer `Retry-After` is cut
FORCED_APART = 5.0  # seconds between renewals that callers ask for


class Backoff:
    """Remembers the last failure for a while, so that nobody hammers a bakrypt in trouble.

    :param clocks: the clocks of this machine. The time that it sleeps counts.
    :param jitter: returns a number between two others.
    """

    def __init__(self, clocks: Clocks, jitter: Callable[[float, float], float]) -> None:
        self._clocks = clocks
        self._jitter = jitter
        self._failures = 0
        self._error: BakryptError | None = None
        self._until = Moment(-math.inf, -math.inf)

    def note(self, error: BakryptError) -> None:
        """Remember an error until its `cooldown` seconds have passed."""
        self._failures += 1
        self._error = error
        self._until = self._clocks.now().after(min(error.cooldown or 0, LONGEST_COOLDOWN))

    def forget(self) -> None:
        """Forget the last error after a success."""
        self._failures, self._error = 0, None

    def error(self) -> BakryptError | None:
        """Return the remembered error, or None if bakrypt may be asked again."""
        left = -self._clocks.since(self._until)
        if self._error is None or left <= 0:
            return None
        error = self._error.again()
        if error.retry_after is not None:
            error.retry_after = str(math.ceil(left))
        return error

    def cooldown(self, error: BakryptError, longest: float) -> float:
        """Return for how many seconds nobody should ask again after an error.

        `Retry-After` is obeyed up to an hour.

        :param error: the error.
        :param longest: the bound of what grows with each failure in a row, in seconds.
        """
        growing = min(_FIRST_COOLDOWN * 2 ** min(self._failures, 10), longest)
        is_refused = isinstance(error, CredentialsRefusedError)
        own = self._jitter(0.5, 1.5) * (_CREDENTIALS_COOLDOWN if is_refused else growing)
        asked_for = retry_after_seconds(error.retry_after)
        return own if asked_for is None else max(own, min(asked_for, LONGEST_COOLDOWN))


class Reports:
    """Keeps renewals apart that callers ask for, by reporting the token as refused.

    :param clocks: the clocks of this machine. The time that it sleeps counts.
    """

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._renewed = Moment(-math.inf, -math.inf)

    def note(self) -> None:
        """Note that a report has caused a renewal."""
        self._renewed = self._clocks.now()

    def must_wait(self, *, at_once: bool, asked_at: float = math.inf) -> bool:
        """Return whether a report is ignored, because another one caused a renewal just now.

        :param at_once: it is to be believed all the same, unless that renewal came after it.
        :param asked_at: when the caller came, by the monotonic clock; by default, now.
        """
        if at_once and self._renewed.monotonic <= asked_at:
            return False
        return self._clocks.since(self._renewed) < FORCED_APART
