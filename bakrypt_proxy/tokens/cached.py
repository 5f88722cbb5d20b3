"""A token that is shared while it lives, and the two windows in which it is renewed.

The windows are those of botocore's refreshable credentials: in the advisory window a renewal runs
in the background, in the mandatory window callers wait for it.
"""

import json
import math
from collections.abc import Callable
from typing import NamedTuple, NoReturn, cast

from ..types import AccessToken

Clock = Callable[[], float]

_ADVISORY = (0.10, 60.0)  # a share of the lifetime, and at least so many seconds
_MANDATORY = (0.02, 10.0)
_LONGEST_LIFETIME = 366 * 86400.0  # seconds; what Redis and the arithmetic of clocks can hold


class Moment(NamedTuple):
    """A point in time on two clocks, in seconds: the monotonic one and the wall clock."""

    monotonic: float
    wall: float

    def after(self, seconds: float) -> "Moment":
        """Return the moment so many seconds later."""
        return Moment(self.monotonic + seconds, self.wall + seconds)


class Clocks(NamedTuple):
    """A monotonic clock and a wall clock. Both tell seconds."""

    monotonic: Clock
    wall: Clock

    def now(self) -> Moment:
        """Return the time on both."""
        return Moment(self.monotonic(), self.wall())

    def since(self, moment: Moment) -> float:
        """Return the seconds since a moment, the time included that the machine slept."""
        return max(self.monotonic() - moment.monotonic, self.wall() - moment.wall)


class CachedToken:
    """A token that is being shared.

    It ends at the earlier of its two ends. The monotonic clock stands still while a machine sleeps;
    the wall clock may be set back.

    :param token: the token as callers get it, but for `expires_in`.
    :param lifetime: the whole lifetime that bakrypt gave, in seconds.
    :param expires: when it ends.
    """

    __slots__ = (
        "_ends",
        "_ends_on_wall",
        "_written",
        "access_token",
        "advisory",
        "expires",
        "lifetime",
        "mandatory",
        "token",
    )

    def __init__(self, token: AccessToken, lifetime: float, expires: Moment) -> None:
        self.token: AccessToken = token
        self.access_token: str = token["access_token"]
        self.lifetime: float = lifetime
        self.expires: Moment = expires
        self._ends, self._ends_on_wall = expires
        self.advisory: float = _window(lifetime, *_ADVISORY)
        self.mandatory: float = _window(lifetime, *_MANDATORY)
        self._written: tuple[int | None, str] = (None, "")

    def __reduce__(self) -> NoReturn:
        # A crash reporter pickles the local variables of each frame, or takes their `repr`.
        raise TypeError("a shared token cannot be pickled or copied")

    def left(self, monotonic: float, wall: float) -> float:
        """Return how many seconds are left at a time of the two clocks; below 0 after the end."""
        left, left_on_wall = self._ends - monotonic, self._ends_on_wall - wall
        # Not min(): it is slower, and each exchange comes here.
        return left if left < left_on_wall else left_on_wall  # noqa: FURB136

    def outlives(self, other: "CachedToken | None", now: Moment) -> bool:
        """Return whether it has more left at a moment than another token, if there is one."""
        # On one clock alone a token that died while the machine slept would outlive a good one.
        return other is None or self.left(*now) > other.left(*now)

    def is_newer(self, other: "CachedToken | None", now: Moment) -> bool:
        """Return whether bakrypt gave it later than another token, if there is one.

        What is left says nothing about that once bakrypt gives shorter lifetimes.
        """
        if other is None:
            return True
        return self.lifetime - self.left(*now) < other.lifetime - other.left(*now)

    def reply(self, left: float) -> AccessToken:
        """Return the token as a caller gets it: `expires_in` is what is left, in whole seconds."""
        return cast("AccessToken", {**self.token, "expires_in": max(0, math.floor(left))})

    def to_json(self, left: float) -> str:
        """Return the same as JSON. It is written once for each second."""
        seconds = int(left)
        written = self._written
        if written[0] != seconds:
            self._written = written = (seconds, json.dumps(self.reply(left)))
        return written[1]


def _window(lifetime: float, share: float, floor: float) -> float:
    """Return a window's length in seconds; for a short lifetime only the share counts."""
    return lifetime * share if lifetime < 2 * _ADVISORY[1] else max(lifetime * share, floor)


def cache_token(token: AccessToken, asked: Moment) -> CachedToken | None:
    """Return a response as a token to share, or None if it does not say sensibly for how long.

    The refresh token is left out: using it would revoke the access token of all callers.

    :param token: the response of bakrypt.
    :param asked: the moment before the request.
    """
    lifetime = _seconds(token.get("expires_in"))
    if lifetime is None:
        return None
    lifetime = min(lifetime, _LONGEST_LIFETIME)
    shared = {name: value for name, value in token.items() if name != "refresh_token"}
    return CachedToken(cast("AccessToken", shared), lifetime, asked.after(lifetime))


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    # `expires_in` is in whole seconds, and cannot say less than one.
    return seconds if 1 <= seconds < math.inf else None
