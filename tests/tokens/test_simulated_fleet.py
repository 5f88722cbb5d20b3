"""A fleet on a Redis of memory: machines that sleep, answers that are lost."""

import pickle
import traceback
from collections.abc import Callable

import pytest
from conftest import Clock
from simulated_redis import SimulatedRedis

from bakrypt_proxy import AccessToken, UpstreamFailedError
from bakrypt_proxy.tokens.redis_store import RedisTokenStore
from bakrypt_proxy.tokens.shared import SharedToken

LIFE = 36000
TIMEOUT = 5.0


class Bakrypt:
    """Hands out numbered tokens."""

    calls = 0
    life = LIFE

    def __call__(self, seconds: float) -> AccessToken:
        """Answer a call that may take so many seconds."""
        self.calls += 1
        name = f"token-{self.calls}"
        return {"access_token": name, "expires_in": self.life, "token_type": "", "scope": ""}


class Machine:
    """One machine of the fleet, with its two clocks."""

    def __init__(self, redis: SimulatedRedis, fetch: Callable[[float], AccessToken]) -> None:
        self.monotonic, self.wall = Clock(), Clock()
        store = RedisTokenStore(
            "redis://simulated",
            secret="secret",
            upstream="https://bakrypt.example",
            timeout=TIMEOUT,
            clock=self.monotonic,
            wall_clock=self.wall,
            sleep=self.pass_time,
        )
        vars(store)["_connect"] = lambda: redis
        self.shared = SharedToken(
            fetch,
            timeout=TIMEOUT,
            store=store,
            clock=self.monotonic,
            wall_clock=self.wall,
            jitter=lambda low, high: low,
        )

    def pass_time(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.monotonic.now += seconds
        self.wall.now += seconds

    def token(self) -> str:
        """Get the shared token."""
        return self.shared.get()["access_token"]


def test_a_machine_that_slept_takes_the_token_of_the_others() -> None:
    """Its own token is dead by the wall clock only. The fleet's serves: no call is needed."""
    now, bakrypt = Clock(), Bakrypt()
    redis = SimulatedRedis(now)
    sleeper, other = Machine(redis, bakrypt), Machine(redis, bakrypt)
    assert sleeper.token() == other.token() == "token-1"
    other.pass_time(LIFE)
    now.now += LIFE
    assert other.token() == "token-2"
    now.now += 1000
    sleeper.wall.now += LIFE + 1000
    assert sleeper.token() == "token-2"
    assert bakrypt.calls == 2


class LossyRedis(SimulatedRedis):
    """Does what it is told, and the answer to the first lease is lost."""

    loses = True

    def write(self, key: str, value: object, end: float) -> None:
        """Write a value."""
        super().write(key, value, end)
        if key.endswith(":lease") and self.loses:
            self.loses = False
            raise TimeoutError("timed out")


def test_the_answer_to_a_lease_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """Its owner does not know that it has it, and releases it: nobody waits for it to run out."""
    now, bakrypt = Clock(), Bakrypt()
    redis = LossyRedis(now)
    first, second = Machine(redis, bakrypt), Machine(redis, bakrypt)
    assert first.token() == second.token() == "token-1"
    assert second.monotonic.now == Clock().now
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


class PausedRedis(SimulatedRedis):
    """The process stands still before its second look, so that it takes its lease late."""

    during_lease: Callable[[], None] | None = None

    def write(self, key: str, value: object, end: float) -> None:
        """Write a value."""
        happen, self.during_lease = self.during_lease, None
        if key.endswith(":lease") and happen is not None:
            happen()
            end += 0.7
        super().write(key, value, end)


def test_a_process_that_stood_still_before_it_took_the_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others would not believe it: it takes another one, and all share its token."""
    now, bakrypt = Clock(), Bakrypt()
    redis = PausedRedis(now)
    first, second = Machine(redis, bakrypt), Machine(redis, bakrypt)

    def stand_still() -> None:
        now.now += 0.7

    redis.during_lease = stand_still
    assert first.token() == second.token() == "token-1"
    assert not caplog.records


class LostWrites(SimulatedRedis):
    """Loses what is written, while it is told to."""

    loses = False
    wait: Callable[[float], None] = staticmethod(lambda _: None)

    def check(self, *, writes: bool) -> None:
        """Fail if nothing can be written."""
        super().check(writes=writes)
        if writes and self.loses:
            self.wait(0.3)
            raise TimeoutError("timed out")


def test_a_bakrypt_that_hangs_while_redis_takes_no_lease(caplog: pytest.LogCaptureFixture) -> None:
    """It has nearly its whole time: its failure is remembered, as any other."""
    now = Clock()
    redis = LostWrites(now)
    calls: list[float] = []

    def hang(seconds: float) -> AccessToken:
        calls.append(seconds)
        machine.pass_time(seconds)
        raise UpstreamFailedError("bakrypt did not answer in time")

    machine = Machine(redis, hang)
    redis.loses, redis.wait = True, machine.pass_time
    for _ in range(3):
        with pytest.raises(UpstreamFailedError):
            machine.token()
    assert len(calls) == 1
    assert "Redis is back" not in caplog.text


def test_an_outage_that_follows_a_lost_write(caplog: pytest.LogCaptureFixture) -> None:
    """A process that only reads meanwhile says that Redis is back, and warns of the next outage."""
    now, bakrypt = Clock(), Bakrypt()
    redis = LostWrites(now)
    first, second = Machine(redis, bakrypt), Machine(redis, bakrypt)
    with caplog.at_level("INFO"):
        redis.loses = True
        assert first.token() == "token-1"
        redis.loses = False
        for machine in (first, second):
            machine.pass_time(LIFE)
        now.now += LIFE
        assert second.token() == first.token() == "token-2"
        redis.fault = "away"
        first.pass_time(LIFE)
        now.now += LIFE
        assert first.token() == "token-3"
    levels = [record.levelname for record in caplog.records if "Redis" in record.getMessage()]
    assert levels == ["WARNING", "INFO", "WARNING"]


def test_a_token_that_ends_while_redis_takes_it() -> None:
    """It is dead, and not served. The next caller has a new one."""
    now, bakrypt = Clock(), Bakrypt()
    redis = SlowRedis(now)
    machine = Machine(redis, bakrypt)
    redis.during_publication = lambda: machine.pass_time(LIFE)
    with pytest.raises(UpstreamFailedError, match="ended before"):
        machine.token()
    redis.during_publication = None
    now.now += LIFE
    assert machine.token() == "token-2"


class SlowRedis(SimulatedRedis):
    """Takes its time to store a token."""

    during_publication: Callable[[], None] | None = None

    def write(self, key: str, value: object, end: float) -> None:
        """Write a value."""
        super().write(key, value, end)
        if key.endswith(":token") and self.during_publication is not None:
            self.during_publication()


def test_what_the_server_saw_refused_is_renewed_at_once() -> None:
    """Though a report caused a renewal just now: the five seconds are those of reports."""
    bakrypt = Bakrypt()
    machine = Machine(SimulatedRedis(Clock()), bakrypt)
    machine.token()
    assert machine.shared.get("token-1")["access_token"] == "token-2"
    assert machine.shared.get("token-2", at_once=True)["access_token"] == "token-3"


def test_a_report_to_a_machine_whose_own_token_has_ended() -> None:
    """The token of the others is the one that is reported: it must not come back."""
    now, bakrypt = Clock(), Bakrypt()
    redis = SimulatedRedis(now)
    idle, busy = Machine(redis, bakrypt), Machine(redis, bakrypt)
    assert idle.token() == "token-1"

    def pass_time(seconds: float) -> None:
        now.now += seconds
        for machine in (idle, busy):
            machine.pass_time(seconds)

    pass_time(LIFE)
    assert busy.token() == "token-2"
    pass_time(1)
    assert idle.shared.get("token-2")["access_token"] == "token-3"
    assert busy.shared.get("token-2")["access_token"] == "token-3"
    assert busy.shared.get("token-3")["access_token"] == "token-3"  # just now renewed
    assert bakrypt.calls == 3


def test_a_fleet_takes_a_new_token_that_lives_shorter() -> None:
    """One report on each machine, and one call: what is left does not say which is newer."""
    now, bakrypt = Clock(), Bakrypt()
    redis = SimulatedRedis(now)
    machines = [Machine(redis, bakrypt) for _ in range(5)]
    assert {machine.token() for machine in machines} == {"token-1"}
    bakrypt.life = LIFE // 10
    now.now += 1
    for machine in machines:
        machine.pass_time(1)
    reports = {machine.shared.get("token-1")["access_token"] for machine in machines}
    assert reports == {"token-2"}
    assert bakrypt.calls == 2


def test_no_frame_of_a_renewal_shows_the_password_of_redis() -> None:
    """A crash reporter takes the `repr` of each local variable, or pickles it."""

    def die(seconds: float) -> AccessToken:
        raise SystemExit

    store = RedisTokenStore(
        "redis://:planted@127.0.0.1:1/0", secret="s", upstream="https://b", timeout=TIMEOUT
    )
    with pytest.raises(SystemExit) as caught:
        SharedToken(die, timeout=TIMEOUT, store=store).get()
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    seen = "".join(repr(value) for frame in frames for value in frame.f_locals.values())
    assert "redis.client.Redis" in seen
    assert "planted" not in seen + repr(vars(store))
    with pytest.raises(TypeError):
        pickle.dumps(store)
