"""Remembered failures: while one is remembered, nobody asks bakrypt again."""

import math
from collections.abc import Callable

from ..errors import BakryptError, CredentialsRefusedError
from ..upstream.responses import retry_after_seconds

Clock = Callable[[], float]

_FIRST_COOLDOWN = 1.0  # seconds after a first failure; twice as long after each further one
_CREDENTIALS_COOLDOWN = 30.0
_LONGEST_RETRY_AFTER = 3600.0


class Backoff:
    """Remembers the last failure for a while, so that a bakrypt in trouble, or a wrong secret, is not hammered."""

    def __init__(self, clock: Clock, jitter: Callable[[float, float], float]) -> None:
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._error: BakryptError | None = None
        self._until = -math.inf

    def note(self, error: BakryptError) -> None:
        """Remember an error until its `cooldown` seconds have passed."""
        self._failures += 1
        self._error = error
        self._until = self._clock() + (error.cooldown or 0)

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
        growing = min(_FIRST_COOLDOWN * 2 ** min(self._failures, 10), longest)
        own = self._jitter(0.5, 1.5) * (
            _CREDENTIALS_COOLDOWN if isinstance(error, CredentialsRefusedError) else growing
        )
        asked_for = retry_after_seconds(error.retry_after)
        return own if asked_for is None else max(own, min(asked_for, _LONGEST_RETRY_AFTER))
