"""A token that is shared while it lives, and the two windows in which it is renewed.

The windows are those of botocore's refreshable credentials: in the advisory window a renewal runs in
the background, in the mandatory window callers wait for it.
"""

import math
from typing import cast

from ..types import AccessToken

_ADVISORY = (0.10, 60.0)  # a share of the lifetime, and at least so many seconds
_MANDATORY = (0.02, 10.0)
_LONGEST_LIFETIME = 366 * 86400.0  # seconds; what Redis and the arithmetic of clocks can hold


class CachedToken:
    """A token that is being shared. `lifetime` is in seconds, all times are in seconds of the monotonic clock.

    From `advisory_at` on, a renewal runs in the background; from `mandatory_at` on, callers wait for it.
    """

    __slots__ = ("access_token", "advisory_at", "expires_at", "lifetime", "mandatory_at", "token")

    def __init__(self, token: AccessToken, lifetime: float, expires_at: float) -> None:
        self.token = token
        self.access_token = token["access_token"]
        self.lifetime = lifetime
        self.expires_at = expires_at
        self.advisory_at = expires_at - _window(lifetime, *_ADVISORY)
        self.mandatory_at = expires_at - _window(lifetime, *_MANDATORY)

    def left(self, now: float) -> int:
        """Return what is left of the lifetime, in whole seconds."""
        return max(0, math.floor(self.expires_at - now))

    def reply(self, now: float) -> AccessToken:
        """Return the token as a caller gets it: `expires_in` is what is left."""
        return cast("AccessToken", {**self.token, "expires_in": self.left(now)})


def _window(lifetime: float, share: float, floor: float) -> float:
    """Return a window's length in seconds. A lifetime of less than twice the advisory floor goes by the shares alone."""
    return lifetime * share if lifetime < 2 * _ADVISORY[1] else max(lifetime * share, floor)


def cache_token(token: AccessToken, asked_at: float) -> CachedToken | None:
    """Return a reply as a token to share, or None if it does not say sensibly for how long.

    `asked_at` is the clock before the request. The refresh token is left out: whoever used it would revoke the access
    token of all.
    """
    lifetime = _seconds(token.get("expires_in"))
    if lifetime is None:
        return None
    lifetime = min(lifetime, _LONGEST_LIFETIME)
    shared = {name: value for name, value in token.items() if name != "refresh_token"}
    return CachedToken(cast("AccessToken", shared), lifetime, asked_at + lifetime)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return (
        seconds if 1 <= seconds < math.inf else None
    )  # less than a second cannot be said in whole seconds
