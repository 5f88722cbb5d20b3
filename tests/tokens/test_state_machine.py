"""The sentences of the contract on the shared token, kept whatever happens in whatever order.

A fleet of two processes, each with two clocks of its own, a bakrypt, a Redis, and somebody who
can write to it. A sample here; `make fuzz` runs more.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulated_redis import SimulatedRedis

from bakrypt_proxy import (
    AccessToken,
    BakryptError,
    CredentialsRefusedError,
    UpstreamFailedError,
    UpstreamRefusedError,
)
from bakrypt_proxy.tokens import shared
from bakrypt_proxy.tokens.redis_store import RedisTokenStore
from bakrypt_proxy.tokens.shared import SharedToken

TIMEOUT = 2.0
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
LIFETIMES = st.sampled_from([1, 3, 10, 119, 120, 600, 36000, None])
SECONDS = st.one_of(st.floats(0, 3), st.floats(0, 700), st.floats(0, 80_000))


class World:
    """The true time, and bakrypt."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.redis_shift = 0.0
        self.lifetime: float | None = 36000
        self.latency = 0.0
        self.error: BakryptError | None = None
        self.during_call: Callable[[], None] | None = None
        self.ends: dict[str, tuple[float, float]] = {}  # true end and lifetime of each token
        self.own: set[str] = set()  # tokens that a process had for itself, and reported ones
        self.unshared_until = 0.0  # for 2 s after a token without a lifetime
        self.is_pristine = True  # neither an attack nor an outage of Redis nor a clock that lies
        self.clocks_lie = False
        self.ttl_lies = False  # somebody gave a token in Redis another TTL
        self.calls = 0
        self.sleeps = 0  # during a call: a token that died meanwhile costs another call
        self.in_flight = 0

    def fetch(self, seconds: float) -> AccessToken:
        """Answer an exchange that may take so many seconds."""
        assert 0 < seconds <= TIMEOUT
        assert self.in_flight == 0
        self.calls += 1
        asked_at, number = self.now, self.calls
        self.in_flight += 1
        try:
            self.now += min(self.latency, seconds)
            if self.during_call is not None:
                self.during_call()
        finally:
            self.in_flight -= 1
        if self.latency > seconds:
            raise UpstreamFailedError("bakrypt did not answer in time")
        if self.error is not None:
            raise self.error.again()
        token: dict[str, Any] = {
            "access_token": f"token-{number}",
            "token_type": "Bearer",
            "refresh_token": "planted",
        }
        if self.lifetime is not None:
            token["expires_in"] = self.lifetime
            self.ends[token["access_token"]] = (asked_at + self.lifetime, self.lifetime)
            if asked_at < self.unshared_until:
                self.own.add(token["access_token"])
        else:
            self.unshared_until = self.now + 2
        return token  # type: ignore[return-value]


class Process:
    """A process of the fleet. Its clocks begin anywhere and may differ from the true time."""

    def __init__(self, world: World, redis: SimulatedRedis, number: int) -> None:
        self.world = world
        self.monotonic_shift = -900_000.0 * number
        self.wall_shift = 7200.0 * number
        self.forced_at = float("-inf")
        self.fetched: list[tuple[float, str]] = []
        self.rejected: str | None = None
        self.asks_again_at = float("-inf")  # by the monotonic clock
        store = RedisTokenStore(
            "redis://simulated",
            secret="secret",
            upstream="https://bakrypt.example",
            timeout=TIMEOUT,
            clock=self.clock,
            wall_clock=self.wall_clock,
            sleep=self.sleep,
        )
        vars(store)["_connect"] = lambda: redis
        self.store = store
        self.token = SharedToken(
            self.fetch,
            timeout=TIMEOUT,
            store=store,
            clock=self.clock,
            wall_clock=self.wall_clock,
            jitter=lambda low, high: low,
        )

    def fetch(self, seconds: float) -> AccessToken:
        """Ask bakrypt, and look whether there is a reason to."""
        # An error may be in Redis only, where somebody can overwrite it.
        assert self.clock() >= self.asks_again_at or self.world.ttl_lies
        held = self.token._held  # noqa: SLF001
        is_told_truly = not (self.world.clocks_lie or self.world.ttl_lies)
        if held is not None and held.access_token != self.rejected and is_told_truly:
            self.assert_near_its_end(held.access_token)
        if self.world.is_pristine and self.rejected is None:
            for name in self.world.ends.keys() - self.world.own:
                self.assert_near_its_end(name)
        if self.rejected is not None:
            self.world.own.add(self.rejected)  # the fleet's is the one that follows
        try:
            return self.world.fetch(seconds)
        except BakryptError as error:
            was_answered = self.world.latency < seconds - 0.1
            if seconds >= TIMEOUT or was_answered:
                asked_for = min(float(error.retry_after or 0), 3600)
                self.asks_again_at = self.clock() + max(asked_for, 0.5)
            raise

    def assert_near_its_end(self, name: str) -> None:
        """A token is renewed once it has come to its advisory window, and not before."""
        end, lifetime = self.world.ends[name]
        advisory = lifetime * 0.1 if lifetime < 120 else max(60, lifetime * 0.1)
        # Its lifetime began before the request, and is told from Redis by the millisecond.
        assert end - self.world.now <= advisory + 2 * TIMEOUT + 0.002

    def clock(self) -> float:
        """The monotonic clock."""
        return self.world.now + self.monotonic_shift

    def wall_clock(self) -> float:
        """The wall clock."""
        return self.world.now + self.wall_shift

    def sleep(self, seconds: float) -> None:
        """Wait, for the lease of another process."""
        self.world.now += seconds


class Fleet(RuleBasedStateMachine):
    """What may happen, and what must hold all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.redis = SimulatedRedis(lambda: self.world.now + self.world.redis_shift)
        self.processes = [Process(self.world, self.redis, number) for number in range(2)]
        self.current = 0
        self.lies = ""
        self.is_attacked = False

        # Else a renewal in the background would turn the clocks while a reply is looked at.
        self.background: list[Callable[[], object]] = []
        self.patch = pytest.MonkeyPatch()
        start = lambda _, work: self.start_thread(work)  # noqa: E731
        self.patch.setattr(shared._Background, "start", start)  # noqa: SLF001

    def teardown(self) -> None:
        """Put things back."""
        self.patch.undo()

    def start_thread(self, work: Callable[[], object]) -> bool:
        """Take note of a renewal in the background."""
        self.background.append(work)
        return True

    def settle(self) -> None:
        """Have the renewals in the background happen."""
        while self.background:
            calls, sleeps = self.world.calls, self.world.sleeps
            with suppress(SystemExit, KeyboardInterrupt, MemoryError):
                self.background.pop()()
            assert self.world.calls - calls <= 1 + self.world.sleeps - sleeps

    @initialize(lies=st.sampled_from(["none", "sleep", "wall clock", "Redis' clock"]))
    def choose_lies(self, lies: str) -> None:
        """Only one of the clocks lies in one run: two that agree on a lie cannot be caught."""
        self.lies = lies
        self.world.clocks_lie = lies in {"wall clock", "Redis' clock"}
        self.world.is_pristine = lies in {"none", "sleep"}

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.world.now += seconds

    @precondition(lambda self: self.lies == "sleep")
    @rule(number=st.integers(0, 1), seconds=SECONDS)
    def sleep(self, number: int, seconds: float) -> None:
        """A machine sleeps: its monotonic clock stands still."""
        self.world.now += seconds
        self.processes[number].monotonic_shift -= seconds

    @precondition(lambda self: self.lies == "sleep")
    @rule(seconds=SECONDS)
    def sleep_in_the_next_call(self, seconds: float) -> None:
        """The machine that asks sleeps while bakrypt answers."""

        def happen() -> None:
            self.world.during_call = None
            self.world.sleeps += 1
            self.sleep(self.current, seconds)

        self.world.during_call = happen

    @precondition(lambda self: self.lies == "wall clock")
    @rule(number=st.integers(0, 1), seconds=st.floats(-100_000, 100_000))
    def set_wall_clock(self, number: int, seconds: float) -> None:
        """Somebody sets a machine's wall clock."""
        self.processes[number].wall_shift += seconds

    @precondition(lambda self: self.lies == "Redis' clock")
    @rule(seconds=st.floats(-100_000, 100_000))
    def set_redis_clock(self, seconds: float) -> None:
        """Somebody sets the clock of Redis, or a failover does."""
        self.world.redis_shift += seconds

    @rule(
        error=st.sampled_from(
            [
                None,
                UpstreamFailedError("away"),
                UpstreamFailedError("slow down", retry_after="30"),
                UpstreamRefusedError("throttled", status=429, retry_after="999999"),
                CredentialsRefusedError("refused"),
            ]
        )
    )
    def change_bakrypt(self, error: BakryptError | None) -> None:
        """Bakrypt fails, or works again."""
        self.world.error = error

    @rule(latency=st.sampled_from([0.0, 0.5, 1.9, 5.0]))
    def slow_bakrypt(self, latency: float) -> None:
        """Bakrypt takes its time."""
        self.world.latency = latency

    @rule(lifetime=LIFETIMES)
    def change_lifetime(self, lifetime: float | None) -> None:
        """New tokens live for longer or shorter."""
        self.world.lifetime = lifetime

    @rule(fault=st.sampled_from([None, None, "away", "read-only", "lying", "other"]))
    def break_redis(self, fault: str | None) -> None:
        """Redis fails, or works again."""
        self.redis.fault = fault
        self.world.is_pristine &= fault is None

    @rule(fault=st.sampled_from(["away", "read-only", "lying"]))
    def break_redis_in_the_next_call(self, fault: str) -> None:
        """It fails between the look and the publication, so that a lease is left there."""

        def happen() -> None:
            self.world.during_call = None
            self.redis.fault = fault
            self.world.is_pristine = False

        self.world.during_call = happen

    def note_attack(self, kind: str) -> None:
        """From now on, less is promised."""
        self.is_attacked, self.world.is_pristine = True, False
        self.world.ttl_lies |= kind == "token"

    @rule(
        data=st.data(),
        kind=st.sampled_from(["token", "error", "lease"]),
        ttl=st.sampled_from([0.5, 20, 1e6, float("inf")]),
    )
    def attack(self, data: st.DataObject, kind: str, ttl: float) -> None:
        """Somebody writes to Redis: nonsense, or a sealed value of any time, under any key."""
        self.note_attack(kind)
        nonsense: list[Any] = [b"", b"x", b"x" * 600_000, ["a list"]]
        value = data.draw(st.sampled_from([*nonsense, *self.redis.history[-20:]]))
        key = getattr(self.processes[0].store._records, f"_{kind}_key")  # noqa: SLF001
        self.redis.write(key, value, self.redis.clock() + ttl)

    @rule(kind=st.sampled_from(["token", "error", "lease"]), ttl=st.sampled_from([0, 1.0, 1e9]))
    def change_ttl(self, kind: str, ttl: float) -> None:
        """Somebody deletes a value, or gives it another TTL."""
        self.note_attack(kind)
        key = getattr(self.processes[0].store._records, f"_{kind}_key")  # noqa: SLF001
        if self.redis.read(key) is not None:
            self.redis.write(key, self.redis.read(key), self.redis.clock() + ttl)

    @rule(number=st.integers(0, 1))
    def restart(self, number: int) -> None:
        """A process is replaced by a new one, and a caller asks it."""
        self.processes[number] = Process(self.world, self.redis, number)
        self.get(number, "nothing")

    @rule(number=st.integers(0, 1), reports=st.sampled_from(["nothing", "last", "old", "invented"]))
    def report(self, number: int, reports: str) -> None:
        """A caller asks for the token, and may report one as refused."""
        self.get(number, reports)

    @rule()
    def all_ask(self) -> None:
        """Callers of all processes ask for the token."""
        for number in range(len(self.processes)):
            self.get(number, "nothing")

    @rule(number=st.integers(0, 1), seconds=st.floats(0, 2))
    def report_again(self, number: int, seconds: float) -> None:
        """A caller reports a token and soon the next one, too."""
        self.get(number, "last")
        self.world.now += seconds
        self.get(number, "last")

    @rule(number=st.integers(0, 1), seconds=SECONDS)
    def ask_later(self, number: int, seconds: float) -> None:
        """A caller asks after a while."""
        self.world.now += seconds
        self.get(number, "nothing")

    def get(self, number: int, reports: str) -> None:
        """Get the token, and look at what comes."""
        process, self.current = self.processes[number], number
        last = process.fetched[-1][1] if process.fetched else None
        old = process.fetched[0][1] if process.fetched else None
        rejected = {"nothing": None, "last": last, "old": old, "invented": "invented"}[reports]
        process.rejected = rejected
        calls, sleeps, started = self.world.calls, self.world.sleeps, process.clock()
        try:
            reply = process.token.get(rejected)
        except BakryptError:
            self.check_error(process, rejected)
        else:
            # Else the other token was there already: the report caused no renewal.
            was_asked = self.world.calls > calls
            self.check_reply(process, reply, rejected if was_asked else None)
        assert process.clock() - started <= TIMEOUT + 1
        assert self.world.calls - calls <= 1 + self.world.sleeps - sleeps
        process.rejected = None
        self.settle()

    def check_reply(self, process: Process, reply: AccessToken, rejected: str | None) -> None:
        """What is served lives, and says so truly."""
        name = reply["access_token"]
        if name not in self.world.ends:
            assert reply["refresh_token"] == "planted"  # not shared, so it is handed on whole
            return
        end, lifetime = self.world.ends[name]
        assert "refresh_token" not in reply
        assert isinstance(reply["expires_in"], int)
        assert 0 <= reply["expires_in"] <= lifetime
        if self.lies != "Redis' clock":
            assert self.world.now < end
            assert reply["expires_in"] <= end - self.world.now + 1e-6  # of rounding
        known = [token for _, token in process.fetched]
        if not known or known[-1] != name:
            self.check_renewal(process, name, rejected, known)

    def check_renewal(
        self, process: Process, name: str, rejected: str | None, known: list[str]
    ) -> None:
        """Renewals that a caller asks for are five seconds apart."""
        if known and rejected == known[-1]:
            last_end, last_lifetime = self.world.ends[known[-1]]
            was_alive = last_end - self.world.now > max(10, last_lifetime * 0.02) + TIMEOUT
            if was_alive and self.lies == "none":
                assert process.clock() - process.forced_at >= 5 - TIMEOUT
            process.forced_at = process.clock()
        process.fetched.append((self.world.now, name))

    def check_error(self, process: Process, rejected: str | None) -> None:
        """A caller gets an error only if no living token is there, or it reported the one."""
        if self.lies in {"none", "sleep"} and process.fetched and not self.world.ttl_lies:
            _, name = process.fetched[-1]
            end, _ = self.world.ends[name]
            assert rejected == name or self.world.now >= end - 0.001

    @rule(
        number=st.integers(0, 1), how=st.sampled_from([SystemExit, KeyboardInterrupt, MemoryError])
    )
    def kill_the_leader(self, number: int, how: type[BaseException]) -> None:
        """The thread that renews dies: the next caller is served as if nothing had happened."""
        process, self.current = self.processes[number], number

        def die() -> None:
            self.world.during_call = None
            raise how

        self.world.during_call = die
        with suppress(BakryptError, how):
            process.token.get()
        self.settle()
        self.world.during_call = None

    @rule(number=st.integers(0, 1))
    def fork(self, number: int) -> None:
        """A process forks while its lock is held: the child has a lock of its own, and a token."""
        self.get(number, "nothing")
        with self.processes[number].token._flight.lock:  # noqa: SLF001
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    self.get(number, "nothing")
                    status = 0
                finally:
                    os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    @rule(number=st.integers(0, 1))
    def probe(self, number: int) -> None:
        """The probe says that Redis works exactly when nothing is wrong with it."""
        problem = self.processes[number].store.problem()
        if self.redis.fault is not None:
            assert problem is not None
        elif not self.is_attacked and self.lies != "Redis' clock":
            assert problem is None

    @invariant()
    def nobody_is_left_behind(self) -> None:
        """Nobody leads any more."""
        assert all(p.token._flight._leader is None for p in self.processes)  # noqa: SLF001


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
