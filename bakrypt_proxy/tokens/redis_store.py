"""One token for all processes, in Redis.

One process at a time has the lease and asks bakrypt; the others wait for what it stores. While
Redis cannot be used, each process goes on by itself.

A renewal connects, uses the connection, and closes it: renewals are hours apart, and after a
failover the name leads to another server.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from secrets import token_hex

from redis import Redis
from redis.exceptions import ResponseError

from ..errors import BakryptError
from ..upstream.masking import Masked
from .cached import CachedToken, Clock, Clocks, Moment
from .redis_connection import KEY_PREFIX, ROUND_TRIP, UnusableError, redis_errors, redis_options
from .redis_records import Found, Lease, Records
from .sealing import derive_key
from .shared import SHORTEST_FETCH, Fetch, Outcome, Renewal

_logger = logging.getLogger(__name__)

_LEASE_MARGIN = 0.25  # seconds that a lease outlives the call that it covers
_POLL = 0.05  # seconds between looks at what the owner of the lease has done
_LAYOUT = 2  # of what is stored; processes of another version have keys of their own
_LATE = "each lease that it gives ends at another time than it was to"
_PROBE = CachedToken(
    {"access_token": "", "expires_in": 1, "token_type": "", "scope": ""}, 1, Moment(0, 0)
)


def _key_prefix(secret: str, account: str) -> str:
    """Return a prefix for each account and network. It tells nothing of the secret."""
    return f"{KEY_PREFIX}:{derive_key(secret, f'name {account}').hex()[:32]}"


class RedisTokenStore:
    """Shares the token of one account, at one upstream, among all who know its secret.

    :param redis_url: the address of Redis 6.2 or later.
    :param secret: what bakrypt exchanges for the account's tokens.
    :param upstream: the origin of bakrypt.
    :param timeout: of one call to bakrypt, in seconds. A lease is longer.
    :param clock: a monotonic clock, in seconds.
    :param wall_clock: a clock that goes on while the machine sleeps, in seconds.
    :param sleep: waits for so many seconds.
    """

    def __init__(  # noqa: PLR0913 - all but the address are named
        self,
        redis_url: str,
        *,
        secret: str,
        upstream: str,
        timeout: float,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._redis_url, self._options = Masked(redis_url), redis_options(redis_url)
        self._lease_seconds = timeout + _LEASE_MARGIN
        self._clocks = Clocks(clock, wall_clock)
        self._sleep, self._outages = sleep, _Outages()
        account = f"{_LAYOUT} {upstream}"
        name = _key_prefix(secret, account)
        create = partial(Records, Masked(secret), self._lease_seconds, self._clocks)
        self._records = create(name, account)
        # With new keys each time: what somebody has written to known ones would fool the probe.
        self._create_probe: Callable[[], Records] = lambda: create(
            f"{name}:probe:{token_hex(8)}", f"{account} probe"
        )

    def renew(self, renewal: Renewal, fetch: Fetch) -> Outcome:
        """Return a token from Redis or by `fetch`; while Redis cannot be used, by `fetch` only."""
        with self._connect() as redis:
            try:
                with redis_errors(self._redis_url):
                    found = self._find_or_lease(redis, renewal)
            except UnusableError as error:
                self._outages.note_outage(error, wrote=False)
                found = None
            if isinstance(found, CachedToken):
                self._outages.note_return(wrote=False)
                return found
            if found is None:
                return fetch(renewal.deadline - self._clocks.monotonic())
            return self._fetch_and_publish(redis, found, renewal, fetch)

    def problem(self) -> str | None:
        """Return why Redis cannot be used right now, or None if all that a renewal does works."""
        try:
            with self._connect() as redis, redis_errors(self._redis_url):
                tries = (_is_late(redis, self._records, self._create_probe()) for _ in range(2))
                # Once may be this process's own fault, which stood still.
                return _LATE if all(tries) else None
        except UnusableError as error:
            return str(error)

    def _connect(self) -> "Redis":
        return Redis.from_url(self._redis_url.reveal(), **self._options)

    def _find_or_lease(self, redis: "Redis", renewal: Renewal) -> CachedToken | Lease | None:
        """Return a token to use, or the lease to ask for one, or None if each asks for itself.

        :raises BakryptError: the error that another process met just now.
        """
        give_up_at = renewal.deadline - SHORTEST_FETCH - ROUND_TRIP
        lease, was_late = None, False
        while True:
            try:
                with redis_errors(self._redis_url):
                    found = self._records.look(redis, lease)
            except UnusableError as error:
                if lease is None:
                    raise
                # Redis may have given the lease, and nobody else would release it.
                self._outages.note_outage(error, wrote=True)
                return Lease(lease, found)
            chosen = _choose(found, renewal, self._clocks.now())
            if found.is_mine and lease is not None:
                if chosen is None and not found.is_unshared and not found.is_late:
                    return Lease(lease, found)
                # Its last owner left an outcome between the two looks, or this process stood still.
                self._finish(redis, Lease(lease, found), last_try_at=give_up_at)
            if isinstance(chosen, BakryptError):
                raise chosen
            if chosen is not None or found.is_unshared:
                return chosen
            if was_late and found.is_late:
                self._outages.note_outage(UnusableError(_LATE), wrote=True)
                return None
            was_late = was_late or found.is_late
            if self._clocks.monotonic() >= give_up_at:
                return None
            lease = None if found.is_leased else self._records.create_lease(found)
            if lease is None:
                self._sleep(_POLL)

    def _fetch_and_publish(
        self, redis: "Redis", lease: Lease, renewal: Renewal, fetch: Fetch
    ) -> Outcome:
        finish = partial(self._finish, redis, lease, last_try_at=renewal.deadline - 2 * ROUND_TRIP)
        end, now = renewal.deadline - ROUND_TRIP, self._clocks.monotonic()
        lease_end = lease.found.asked.monotonic + self._lease_seconds
        if lease_end - now >= SHORTEST_FETCH:  # else Redis took too long to give it
            end = min(end, lease_end)
        try:
            outcome = fetch(end - now)
        except BakryptError as error:
            finish(error)
            if token := _last_resort(lease.found.token, renewal, self._clocks.now()):
                return token
            raise
        except BaseException:
            finish(None)
            raise
        finish(outcome, is_forced=_is_forced(renewal, lease.found.token))
        return outcome

    def _finish(
        self,
        redis: "Redis",
        lease: Lease,
        outcome: Outcome | BakryptError | None = None,
        *,
        is_forced: bool = False,
        last_try_at: float,
    ) -> None:
        for is_last in (False, True):
            try:
                with redis_errors(self._redis_url):
                    wrote = self._records.finish(redis, lease, outcome, is_forced=is_forced)
            except UnusableError as error:
                # Others wait for the lease. After a failover the name leads to the new primary.
                if is_last or self._clocks.monotonic() > last_try_at:
                    self._outages.note_outage(error, wrote=True)
                    return
            else:
                self._outages.note_return(wrote=wrote and outcome is not None)
                return


def _is_late(redis: "Redis", records: Records, probe: Records) -> bool:
    """Do all that a renewal does, with keys of a probe, and return whether its lease was late."""
    found = records.look(redis)
    lease = Lease(probe.create_lease(found), found)
    is_late = probe.look(redis, lease.value).is_late
    probe.finish(redis, lease, _PROBE)
    return is_late


class _Outages:
    """Warns once when Redis cannot be used, and says when it can again.

    It may be away, or refuse what is written. Then a look that succeeds is no return.
    """

    def __init__(self) -> None:
        self._kinds: set[str] = set()

    def note_outage(self, error: UnusableError, *, wrote: bool) -> None:
        is_answer = isinstance(error.__cause__, ResponseError | None)
        kind = "refuses" if wrote and is_answer else "is away"
        if kind not in self._kinds:
            _logger.warning("Redis cannot be used, this process gets its own token: %s", error)
        self._kinds.add(kind)

    def note_return(self, *, wrote: bool) -> None:
        ended = self._kinds & ({"is away", "refuses"} if wrote else {"is away"})
        self._kinds -= ended
        if ended and not self._kinds:
            _logger.info("Redis is back, the token is shared again")


def _choose(found: Found, renewal: Renewal, now: Moment) -> CachedToken | BakryptError | None:
    """Return what another process has left for this renewal; None if there is nothing."""
    token = found.token
    if token is not None:
        left = token.left(*now)
        if renewal.is_refused(token.access_token):
            # Renewed just now by another process: this report comes too soon.
            is_good = found.was_forced and not renewal.at_once and left > token.advisory
        else:
            is_good = left > token.mandatory and token.is_newer(renewal.held, now)
        if is_good:
            return token
    if found.error is None:
        return None
    return _last_resort(token, renewal, now) or found.error


def _is_forced(renewal: Renewal, token: CachedToken | None) -> bool:
    """Return whether a report caused a renewal: of the process's own token, or of the fleet's."""
    is_fleets = token is not None and token.access_token == renewal.rejected.reveal()
    return renewal.is_forced or is_fleets


def _last_resort(token: CachedToken | None, renewal: Renewal, now: Moment) -> CachedToken | None:
    """Return a token that should be renewed but still lives, to use in place of an error."""
    if token is None or renewal.is_refused(token.access_token) or token.left(*now) <= 0:
        return None
    return token
