"""One token for all callers of a process: fetched once, renewed before anybody waits."""

import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast

import pytest
from conftest import Clock, create_app
from hypothesis import given
from hypothesis import strategies as st
from misbehaving import Upstream, replying
from processes import wait_until

from bakrypt_proxy import (
    AccessToken,
    BakryptClient,
    BakryptError,
    CredentialsRefusedError,
    Settings,
    UpstreamFailedError,
)
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.tokens.shared import Fetch, Outcome, Renewal, SharedToken

LIFE = 36000


class Bakrypt:
    """Hands out numbered tokens, or raises what it is told to; counts the calls."""

    def __init__(self, expires_in: object = LIFE) -> None:
        self.expires_in = expires_in
        self.error: BakryptError | None = None
        self.calls = 0

    def __call__(self, seconds: float) -> AccessToken:
        """Answer a call that may take so many seconds."""
        self.calls += 1
        if self.error is not None:
            raise self.error.again()
        token = {
            "access_token": f"token-{self.calls}",
            "token_type": "Bearer",
            "refresh_token": f"refresh-{self.calls}",
        }
        if self.expires_in is not None:
            token["expires_in"] = cast("str", self.expires_in)
        return cast("AccessToken", token)


@pytest.fixture
def bakrypt_calls() -> Bakrypt:
    """An upstream of numbered tokens."""
    return Bakrypt()


def share(fetch: Callable[[float], AccessToken], clock: Clock) -> SharedToken:
    """A shared token on a clock that a test turns, without chance."""
    return SharedToken(
        fetch,
        timeout=5,
        clock=clock,
        wall_clock=clock,
        jitter=lambda low, high: (low + high) / 2,
    )


def settle() -> None:
    """Wait for renewals in the background."""
    for thread in threading.enumerate():
        if thread.name == "bakrypt-renewal":
            thread.join()


def at_once(number: int, work: Callable[[], Any]) -> list[Any]:
    """Do something in many threads that start together, and return the results or errors."""
    results: list[Any] = []
    barrier = threading.Barrier(number)

    def run() -> None:
        barrier.wait()
        try:
            results.append(work())
        except BakryptError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_the_life_counts_down(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """In whole seconds, from before the request, and without the refresh token."""
    token = share(bakrypt_calls, clock)
    assert token.get() == {"access_token": "token-1", "token_type": "Bearer", "expires_in": LIFE}
    clock.now += 0.1
    assert token.get()["expires_in"] == LIFE - 1
    clock.now += 99.9
    assert token.get()["expires_in"] == LIFE - 100
    assert bakrypt_calls.calls == 1


def test_time_that_the_call_took_is_counted(clock: Clock) -> None:
    """A reply that was long on its way has less left."""

    def slow(seconds: float) -> AccessToken:
        clock.now += 4.5
        return Bakrypt(expires_in=100)(seconds)

    assert share(slow, clock).get()["expires_in"] == 95


def test_the_advisory_window(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """In the last tenth all are served the old token until the new one is there."""
    token = share(bakrypt_calls, clock)
    token.get()
    clock.now += LIFE * 0.9 - 1
    assert token.get()["access_token"] == "token-1"
    settle()
    assert bakrypt_calls.calls == 1
    clock.now += 1
    assert token.get()["access_token"] == "token-1"
    settle()
    assert token.get() == {"access_token": "token-2", "token_type": "Bearer", "expires_in": LIFE}
    assert bakrypt_calls.calls == 2


def test_nobody_waits_in_the_advisory_window(clock: Clock) -> None:
    """However slow bakrypt is."""
    going_on, may_answer = threading.Event(), threading.Event()
    numbered = Bakrypt()

    def slow(seconds: float) -> AccessToken:
        if numbered.calls:
            going_on.set()
            may_answer.wait(5)
        return numbered(seconds)

    token = share(slow, clock)
    token.get()
    clock.now += LIFE * 0.95
    assert [token.get()["access_token"] for _ in range(10)] == ["token-1"] * 10
    assert going_on.wait(5)
    may_answer.set()
    settle()
    assert token.get()["access_token"] == "token-2"
    assert numbered.calls == 2


def test_the_mandatory_window(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """The last fiftieth: callers wait for the new token."""
    token = share(bakrypt_calls, clock)
    token.get()
    clock.now += LIFE * 0.98
    assert token.get() == {"access_token": "token-2", "token_type": "Bearer", "expires_in": LIFE}


@pytest.mark.parametrize(
    ("life", "advisory", "mandatory"),
    [
        (36000, 3600, 720),
        (600, 60, 12),
        (300, 60, 10),
        (120, 60, 10),
        (119, 11.9, 2.38),
        (10, 1, 0.2),
        (1, 0.1, 0.02),
    ],
)
def test_the_length_of_the_windows(
    clock: Clock, life: int, advisory: float, mandatory: float
) -> None:
    """At least 60 and 10 seconds, unless the life is too short for that."""
    bakrypt = Bakrypt(life)
    token = share(bakrypt, clock)
    token.get()
    clock.now += life - advisory - 0.001
    assert token.get()["access_token"] == "token-1"
    settle()
    assert bakrypt.calls == 1
    clock.now = 1000 + life - mandatory - 0.001
    assert token.get()["access_token"] == "token-1"
    settle()
    assert bakrypt.calls == 2
    assert token.get()["access_token"] == "token-2"
    clock.now += life - mandatory + 0.001
    assert token.get()["access_token"] == "token-3"


def test_bakrypt_away_for_the_whole_advisory_window(
    clock: Clock, bakrypt_calls: Bakrypt, caplog: pytest.LogCaptureFixture
) -> None:
    """No reply fails, none claims too much, and bakrypt is asked ever more rarely."""
    token = share(bakrypt_calls, clock)
    token.get()
    ends_at = clock.now + LIFE
    bakrypt_calls.error = UpstreamFailedError("away", detail="no route")
    clock.now += LIFE * 0.9
    lives = []
    while clock.now < ends_at - 1:
        reply = token.get()
        settle()
        assert reply["access_token"] == "token-1"
        assert reply["expires_in"] <= ends_at - clock.now
        lives.append(reply["expires_in"])
        clock.now += 1
    assert lives == sorted(lives, reverse=True)
    assert len(lives) == 3599
    # At most one call in ten seconds, once the back-off has grown to that.
    assert 3599 / 15 < bakrypt_calls.calls < 3599 / 10 + 10
    assert "was not renewed: server_error: away (no route)" in caplog.text
    clock.now += 1
    with pytest.raises(UpstreamFailedError):
        token.get()
    bakrypt_calls.error = None
    clock.now += 15
    assert token.get()["expires_in"] == LIFE


@pytest.mark.parametrize("life", [10, 30, 100, 119, 120, 600, LIFE])
def test_a_failure_is_not_remembered_long_after_the_token(clock: Clock, life: int) -> None:
    """Callers had the old token meanwhile; without it they wait for three seconds at most."""
    bakrypt = Bakrypt(life)
    for delay in range(40):
        bakrypt.error = None
        token = SharedToken(
            bakrypt, timeout=5, clock=clock, wall_clock=clock, jitter=lambda low, high: high
        )
        token.get()
        end = clock.now + life
        bakrypt.error = UpstreamFailedError("away")
        clock.now = max(clock.now, end - 70) + delay / 4
        while clock.now < end:
            token.get()
            settle()
            clock.now += 0.25
        bakrypt.error = None
        clock.now = end + 3
        assert token.get()["expires_in"] == life


def test_a_herd_makes_one_call(sandbox: Sandbox) -> None:
    """A thousand cold callers, through the app and over a real socket to bakrypt."""
    sandbox.delay = 0.2
    app = create_app(sandbox.environ)
    replies = at_once(1000, lambda: app.test_client().post("/auth/exchange/"))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json["access_token"] for reply in replies}) == 1
    assert sandbox.calls == {"/auth/exchange/": 1}


def test_a_herd_shares_its_error(sandbox: Sandbox, bakrypt: BakryptClient, clock: Clock) -> None:
    """One call, one error for all; a caller after the back-off tries again."""
    sandbox.delay, sandbox.fail = 0.2, 503
    token = share(lambda seconds: bakrypt.exchange(timeout=seconds), clock)
    errors = at_once(200, token.get)
    assert {error.description for error in errors} == {"bakrypt failed (status 503)"}
    assert len({id(error) for error in errors}) == 200
    assert sandbox.calls == {"/auth/exchange/": 1}
    sandbox.fail = None
    with pytest.raises(UpstreamFailedError):
        token.get()
    assert sandbox.calls == {"/auth/exchange/": 1}
    clock.now += 1
    assert token.get()["expires_in"] == LIFE
    assert sandbox.calls == {"/auth/exchange/": 2}


def test_refused_credentials_are_remembered(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """A broken secret is tried twice a minute, not with each caller."""
    token = share(bakrypt_calls, clock)
    bakrypt_calls.error = CredentialsRefusedError("refused")
    for _ in range(60):
        with pytest.raises(CredentialsRefusedError):
            token.get()
        clock.now += 1
    assert bakrypt_calls.calls == 2


@pytest.mark.parametrize(("asked_for", "seconds"), [("7", 7), ("0", 1), ("999999", 3600)])
def test_retry_after_is_obeyed(
    clock: Clock, bakrypt_calls: Bakrypt, asked_for: str, seconds: int
) -> None:
    """And counts down in the replies meanwhile."""
    token = share(bakrypt_calls, clock)
    bakrypt_calls.error = UpstreamFailedError("slow down", retry_after=asked_for)
    with pytest.raises(UpstreamFailedError):
        token.get()
    clock.now += seconds - 0.5
    with pytest.raises(UpstreamFailedError) as caught:
        token.get()
    assert caught.value.retry_after == "1"
    assert bakrypt_calls.calls == 1
    clock.now += 0.5
    bakrypt_calls.error = None
    assert token.get()["expires_in"] == LIFE


@pytest.mark.parametrize(
    "expires_in",
    [None, 0, -1, 0.9, "", "soon", "nan", "inf", "-5", True, False, [36000], {}, 1e400, 10**400],
)
def test_a_senseless_life_is_not_shared(clock: Clock, expires_in: object) -> None:
    """Each caller gets a reply of its own, whole, as without sharing."""
    bakrypt = Bakrypt(expires_in)
    token = share(bakrypt, clock)
    first, second = token.get(), token.get()
    assert (first["access_token"], second["access_token"]) == ("token-1", "token-2")
    assert first["refresh_token"] == "refresh-1"
    assert first.get("expires_in") == expires_in
    replies = at_once(20, token.get)
    assert len({reply["access_token"] for reply in replies}) == 20


@pytest.mark.parametrize(
    ("expires_in", "left"),
    [("36000", 36000), (1.9, 1), ("2.5", 2), (" 60 ", 60), (1e300, 366 * 86400)],
)
def test_an_odd_life_is_understood(clock: Clock, expires_in: object, left: int) -> None:
    """A number in quotes, or with a fraction."""
    token = share(Bakrypt(expires_in), clock)
    assert token.get()["expires_in"] == left


def test_fifty_tabs_report_the_same_dead_token(sandbox: Sandbox) -> None:
    """One call, fifty good tokens."""
    app = create_app(sandbox.environ)
    client = app.test_client()
    dead = client.post("/auth/exchange/").get_json()["access_token"]
    sandbox.revoke(dead)
    sandbox.delay = 0.1
    replies = at_once(
        50, lambda: app.test_client().post("/auth/exchange/", json={"rejected_token": dead})
    )
    assert {sandbox.store.owner(reply.json["access_token"]) for reply in replies} == {"account"}
    assert sandbox.calls == {"/auth/exchange/": 2}
    # The fifty-first comes late.
    late = client.post("/auth/exchange", json={"rejected_token": dead}).get_json()
    assert sandbox.store.owner(late["access_token"]) == "account"
    assert sandbox.calls == {"/auth/exchange/": 2}


def test_only_the_shared_token_can_be_rejected(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """An older or an invented one changes nothing."""
    token = share(bakrypt_calls, clock)
    token.get()
    assert token.get("token-0")["access_token"] == "token-1"
    assert bakrypt_calls.calls == 1


def test_forced_renewals_are_apart(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """Who reports each new token gets no more than one in five seconds."""
    token = share(bakrypt_calls, clock)
    assert token.get("token-0")["access_token"] == "token-1"
    clock.now += 5
    assert token.get("token-1")["access_token"] == "token-2"
    clock.now += 4.9
    assert token.get("token-2")["access_token"] == "token-2"
    clock.now += 0.2
    assert token.get("token-2")["access_token"] == "token-3"


def test_a_forced_renewal_that_fails(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """Who reported the token is told; the others keep it, for the report may be wrong."""
    token = share(bakrypt_calls, clock)
    token.get()
    bakrypt_calls.error = UpstreamFailedError("away")
    with pytest.raises(UpstreamFailedError):
        token.get("token-1")
    assert token.get()["access_token"] == "token-1"


def test_without_sharing(sandbox: Sandbox) -> None:
    """One call for each request, and each reply whole, as documented."""
    client = create_app({**sandbox.environ, "BAKRYPT_SHARE_TOKEN": "false"}).test_client()
    replies = [client.post("/auth/exchange/").get_json() for _ in range(3)]
    assert sandbox.calls == {"/auth/exchange/": 3}
    assert len({reply["access_token"] for reply in replies}) == 3
    assert all(reply["refresh_token"] and reply["expires_in"] == LIFE for reply in replies)


def test_a_fault_in_the_renewal_leaves_nobody_waiting(clock: Clock) -> None:
    """A programming error is raised where it happened, and the others get an answer."""
    may_fail = threading.Event()

    def faulty(seconds: float) -> AccessToken:
        may_fail.wait(5)
        raise RuntimeError("a fault")

    token = share(faulty, clock)
    results: list[object] = []

    def get() -> None:
        try:
            results.append(token.get())
        except (RuntimeError, BakryptError) as error:
            results.append(type(error).__name__)

    threads = [threading.Thread(target=get) for _ in range(5)]
    for thread in threads:
        thread.start()
    may_fail.set()
    for thread in threads:
        thread.join(5)
    assert "RuntimeError" in results
    assert set(results) <= {"RuntimeError", "UpstreamFailedError"}
    assert len(results) == 5


def test_nobody_waits_longer_than_the_timeout() -> None:
    """A caller whose leader never comes back gets an error, and a later one takes over."""
    release = threading.Event()
    numbered = Bakrypt()

    def hang_once(seconds: float) -> AccessToken:
        reply = numbered(seconds)
        if numbered.calls == 1:
            release.wait(10)
        return reply

    token = SharedToken(hang_once, timeout=0.1)
    leader = threading.Thread(target=token.get)
    leader.start()
    while not numbered.calls:
        time.sleep(0.001)
    with pytest.raises(UpstreamFailedError, match="did not answer in time"):
        token.get()
    assert token.get()["access_token"] == "token-2"
    release.set()
    leader.join()
    assert token.get()["access_token"] == "token-2"


def test_a_token_without_a_life_in_the_advisory_window(
    clock: Clock, bakrypt_calls: Bakrypt
) -> None:
    """Nobody could use it, so it counts as a failure, and the old token is served to its end."""
    token = share(bakrypt_calls, clock)
    token.get()
    clock.now += LIFE * 0.9
    bakrypt_calls.expires_in = None
    for _ in range(50):
        assert token.get()["access_token"] == "token-1"
        settle()
    assert bakrypt_calls.calls == 2


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # the fault is meant
def test_a_fault_behind_the_callers_is_not_repeated_at_once(
    clock: Clock, bakrypt_calls: Bakrypt
) -> None:
    """The old token is served; the fault is tried again after the back-off alone."""
    faults: list[int] = []

    def faulty(seconds: float) -> AccessToken:
        if not bakrypt_calls.calls:
            return bakrypt_calls(seconds)
        faults.append(1)
        raise RuntimeError("a fault")

    token = share(faulty, clock)
    token.get()
    clock.now += LIFE * 0.9
    for _ in range(50):
        token.get()
        settle()
    assert len(faults) == 1


def test_a_token_that_ended_on_its_way(clock: Clock) -> None:
    """It is no use to anybody."""

    def slow(seconds: float) -> AccessToken:
        clock.now += 3
        return Bakrypt(expires_in=2)(seconds)

    with pytest.raises(UpstreamFailedError, match="ended before it was here"):
        share(slow, clock).get()


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b"down"), (429, b"{}"), (401, b"{}")],
    ids=["down", "throttled", "refused"],
)
@pytest.mark.parametrize("asked_for", ["60", None])
def test_retry_after_of_any_failure(
    upstream: Upstream, clock: Clock, status: int, body: bytes, asked_for: str | None
) -> None:
    """Through the real client: a date too, and one that no clock knows is as none."""
    value = asked_for or "Mon, 01 Jan 99999999999 00:00:00 GMT"
    upstream.behave = replying(status, body, f"Retry-After: {value}")
    client = BakryptClient(Settings.from_mapping(upstream.environ))
    token = share(lambda seconds: client.exchange(timeout=seconds), clock)
    for _ in range(59):
        with pytest.raises(BakryptError):
            token.get()
        clock.now += 1
    assert (len(upstream.requests) == 1) == (asked_for is not None)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_renewal(clock: Clock) -> None:
    """The child has a lock of its own, and does not wait for a thread that it does not have."""
    started, release = threading.Event(), threading.Event()

    def slow(seconds: float) -> AccessToken:
        started.set()
        release.wait(10)
        return Bakrypt()(seconds)

    token = share(slow, clock)
    thread = threading.Thread(target=token.get)
    thread.start()
    started.wait(5)
    with token._flight.lock:  # noqa: SLF001 - held by another thread at the moment of the fork
        child = os.fork()
        if child == 0:
            release.set()
            os._exit(0 if token.get()["access_token"] == "token-1" else 1)
    release.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


class Clocks:
    """The two clocks of a machine, which a test turns. Both tell seconds."""

    def __init__(self) -> None:
        self.monotonic, self.wall = Clock(), Clock()
        self.wall.now = 1_700_000_000.0

    def pass_time(self, seconds: float) -> None:
        """Let time pass on both."""
        self.monotonic.now += seconds
        self.wall.now += seconds

    def share(self, fetch: Callable[[float], AccessToken], timeout: float = 5) -> SharedToken:
        """A shared token on these clocks."""
        return SharedToken(
            fetch,
            timeout=timeout,
            clock=self.monotonic,
            wall_clock=self.wall,
            jitter=lambda low, high: low,
        )


def test_a_machine_that_slept() -> None:
    """The monotonic clock stood still for 7 s, the token lived 6 s: it is dead, and not served."""
    clocks, bakrypt = Clocks(), Bakrypt(6)
    token = clocks.share(bakrypt)
    assert token.get()["access_token"] == "token-1"
    clocks.wall.now += 7
    assert token.get() == {"access_token": "token-2", "token_type": "Bearer", "expires_in": 6}


def test_a_machine_that_slept_for_a_part_of_the_lifetime() -> None:
    """What is left is what the earlier of the two ends leaves, in JSON, too."""
    clocks, bakrypt = Clocks(), Bakrypt(100)
    token = clocks.share(bakrypt)
    token.get()
    clocks.pass_time(10)
    clocks.wall.now += 30
    assert token.get()["expires_in"] == 60
    assert json.loads(token.get_json())["expires_in"] == 60
    assert bakrypt.calls == 1


@pytest.mark.parametrize("jump", [7, 1e6])
def test_a_machine_that_slept_during_the_call(jump: float) -> None:
    """Or a clock that was set forward: the token died on its way, which costs one call."""
    clocks, bakrypt = Clocks(), Bakrypt(6)

    def sleep_once(seconds: float) -> AccessToken:
        clocks.wall.now += jump if bakrypt.calls == 0 else 0
        return bakrypt(seconds)

    token = clocks.share(sleep_once)
    assert token.get() == {"access_token": "token-2", "token_type": "Bearer", "expires_in": 6}
    assert bakrypt.calls == 2


def test_a_machine_that_sleeps_during_each_call() -> None:
    """Nobody gets a dead token, and nobody asks for a third one."""
    clocks, bakrypt = Clocks(), Bakrypt(6)

    def sleep(seconds: float) -> AccessToken:
        clocks.wall.now += 7
        return bakrypt(seconds)

    with pytest.raises(UpstreamFailedError, match="ended before it was here"):
        clocks.share(sleep).get()
    assert bakrypt.calls == 2


def test_a_token_that_is_over_before_the_call_is() -> None:
    """Another call would bring the same."""
    clocks, bakrypt = Clocks(), Bakrypt(1)

    def slow(seconds: float) -> AccessToken:
        clocks.pass_time(1.5)
        return bakrypt(seconds)

    with pytest.raises(UpstreamFailedError, match="ended before it was here"):
        clocks.share(slow).get()
    assert bakrypt.calls == 1


def test_a_machine_that_slept_through_a_cooldown() -> None:
    """The error was for 8 s, and 10 are over."""
    clocks, bakrypt = Clocks(), Bakrypt()
    bakrypt.error = UpstreamFailedError("planted", retry_after="8")
    token = clocks.share(bakrypt)
    with pytest.raises(UpstreamFailedError):
        token.get()
    bakrypt.error = None
    clocks.wall.now += 7
    with pytest.raises(UpstreamFailedError) as caught:
        token.get()
    assert caught.value.retry_after == "1"
    clocks.wall.now += 3
    assert token.get()["access_token"] == "token-2"


def test_a_machine_that_slept_between_two_reports() -> None:
    """The second one comes 5 s after the first renewal, and is believed."""
    clocks, bakrypt = Clocks(), Bakrypt()
    token = clocks.share(bakrypt)
    token.get()
    assert token.get("token-1")["access_token"] == "token-2"
    assert token.get("token-2")["access_token"] == "token-2"
    clocks.wall.now += 6
    assert token.get("token-2")["access_token"] == "token-3"


@pytest.mark.parametrize("jump", [-1, -3600, -1e9])
def test_a_wall_clock_that_is_set_back(jump: float) -> None:
    """Nobody gets more than is left of the lifetime."""
    clocks, bakrypt = Clocks(), Bakrypt(100)
    token = clocks.share(bakrypt)
    token.get()
    clocks.wall.now += jump
    assert token.get()["expires_in"] == 100
    clocks.pass_time(50)
    assert token.get()["expires_in"] == 50
    clocks.pass_time(50)
    assert token.get()["access_token"] == "token-2"


def test_a_wall_clock_that_is_set_forward() -> None:
    """It costs one call, and nothing more when it is set right again."""
    clocks, bakrypt = Clocks(), Bakrypt(36000)
    token = clocks.share(bakrypt)
    token.get()
    clocks.wall.now += 1e6
    assert [token.get()["access_token"] for _ in range(3)] == ["token-2"] * 3
    clocks.wall.now -= 1e6
    assert token.get()["expires_in"] == 36000
    assert bakrypt.calls == 2


class GreenletExit(BaseException):
    """As gevent's."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("death", [SystemExit, KeyboardInterrupt, MemoryError, GreenletExit])
def test_the_leading_thread_dies(death: type[BaseException]) -> None:
    """The next caller who waits takes over, and all get its token; later callers, too."""
    numbered, leads, may_die = Bakrypt(), threading.Event(), threading.Event()

    def die_once(seconds: float) -> AccessToken:
        if not leads.is_set():
            leads.set()
            may_die.wait(5)
            raise death
        return numbered(seconds)

    token = SharedToken(die_once, timeout=5)
    leader = threading.Thread(target=token.get)
    leader.start()
    leads.wait(5)
    results: list[Any] = []
    waiting = [threading.Thread(target=lambda: results.append(token.get())) for _ in range(20)]
    for thread in waiting:
        thread.start()
    may_die.set()
    for thread in (leader, *waiting):
        thread.join(5)
    assert [reply["access_token"] for reply in results] == ["token-1"] * 20
    assert token.get()["access_token"] == "token-1"
    assert numbered.calls == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("death", [SystemExit, KeyboardInterrupt, MemoryError, GreenletExit])
def test_the_thread_in_the_background_dies(
    clock: Clock, bakrypt_calls: Bakrypt, death: type[BaseException]
) -> None:
    """The old token is served, and the next caller starts another renewal."""
    deaths: list[int] = []

    def die_once(seconds: float) -> AccessToken:
        if bakrypt_calls.calls and not deaths:
            deaths.append(1)
            raise death
        return bakrypt_calls(seconds)

    token = share(die_once, clock)
    token.get()
    clock.now += LIFE * 0.9
    assert token.get()["access_token"] == "token-1"
    settle()
    assert token.get()["access_token"] == "token-1"
    settle()
    assert token.get()["access_token"] == "token-2"


def test_the_system_gives_no_thread(
    clock: Clock, bakrypt_calls: Bakrypt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old token is served, and renewed once there are threads again."""
    token = share(bakrypt_calls, clock)
    token.get()
    clock.now += LIFE * 0.9

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert token.get()["access_token"] == "token-1"
    token.get()
    settle()
    assert token.get()["access_token"] == "token-2"


def test_one_warning_while_the_system_gives_no_thread(
    clock: Clock,
    bakrypt_calls: Bakrypt,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not one for each caller, and another one when it happens again."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    token = share(bakrypt_calls, clock)
    for outages in (1, 2):
        token.get()
        clock.now += LIFE * 0.9
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(10):
                token.get()
        assert len(caplog.records) == outages
        token.get()
        settle()


def test_a_token_that_lives_shorter_than_the_call() -> None:
    """Who waits keeps to its own deadline, and no two calls are in flight."""
    timeout, most, in_flight = 0.4, [0], [0]
    lock = threading.Lock()

    def slow(seconds: float) -> AccessToken:
        with lock:
            in_flight[0] += 1
            most[0] = max(most[0], in_flight[0])
        time.sleep(min(seconds, timeout * 0.9))
        with lock:
            in_flight[0] -= 1
        return Bakrypt(1)(seconds)

    # The lifetime that bakrypt gives is over when the token is here.
    wall = Clock()

    def slept() -> float:
        wall.now += 1
        return wall.now

    token = SharedToken(slow, timeout=timeout, wall_clock=slept)
    started = time.monotonic()
    results = at_once(10, token.get)
    assert time.monotonic() - started < timeout + 1
    assert {str(result) for result in results} <= {
        "server_error: bakrypt's token ended before it was here",
        "server_error: bakrypt did not answer in time",
    }
    assert most == [1]


def test_a_process_that_is_stopped_while_it_looks_for_a_token(clock: Clock) -> None:
    """No call is made without time for it; the next caller is served."""

    class Store:
        stops_for = 60.0

        def renew(self, renewal: Renewal, fetch: Fetch) -> Outcome:
            clock.now += self.stops_for
            return fetch(renewal.deadline - clock.now)

    bakrypt, store = Bakrypt(), Store()
    token = SharedToken(bakrypt, timeout=5, store=store, clock=clock, wall_clock=clock)
    with pytest.raises(UpstreamFailedError, match="in time"):
        token.get()
    assert bakrypt.calls == 0
    store.stops_for = 0
    assert token.get()["access_token"] == "token-1"


def test_a_caller_who_waits_for_two_leaders() -> None:
    """The first dies late and the second hangs: the caller's own deadline holds."""
    timeout, calls = 0.6, []
    may_end = threading.Event()

    def behave(seconds: float) -> AccessToken:
        calls.append(seconds)
        if len(calls) == 1:
            time.sleep(timeout * 0.9)
            raise SystemExit
        may_end.wait(10)
        return Bakrypt()(seconds)

    token = SharedToken(behave, timeout=timeout)
    waited: list[float] = []

    def wait() -> None:
        started = time.monotonic()
        with suppress(UpstreamFailedError, SystemExit):
            token.get()
        waited.append(time.monotonic() - started)

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(waited) == 4)
    may_end.set()
    for thread in threads:
        thread.join()
    assert sorted(waited)[3] < timeout + 1
    assert len(calls) <= 3
    assert all(0 < seconds <= timeout for seconds in calls)


class LateStore:
    """A store that lets nobody ask for a while: a killed process had the lease."""

    def __init__(self) -> None:
        self.free_at = time.monotonic() + 1.5

    def renew(self, renewal: Renewal, fetch: Fetch) -> Outcome:
        """Wait, and have bakrypt asked in the time that is left; the outcome is to be stored."""
        time.sleep(max(0, self.free_at - time.monotonic()))
        return fetch(renewal.deadline - 0.3 - time.monotonic())


def test_a_leader_whose_time_is_over_fails_alone() -> None:
    """Those who came later have time left for a call, and none of theirs is cut short."""
    asked: list[float] = []

    def slow(seconds: float) -> AccessToken:
        asked.append(seconds)
        time.sleep(min(seconds, 0.9))
        if seconds < 0.9:
            raise UpstreamFailedError("bakrypt did not answer in time")
        return Bakrypt()(seconds)

    def get(after: float) -> str:
        time.sleep(after)
        try:
            return token.get()["access_token"]
        except BakryptError as error:
            return str(error.description)

    token = SharedToken(slow, timeout=1, store=LateStore())
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(get, [0, 1.2, 1.4, 1.6, 1.9]))
    assert found == ["bakrypt did not answer in time", *["token-1"] * 4]
    assert len(asked) == 2
    settle()


def wait_for_leaders_who_die(deaths: int) -> str:
    """Wait for a leader whose thread dies late, and return the token that comes in the end."""
    numbered = Bakrypt()

    def die(seconds: float) -> AccessToken:
        reply = numbered(seconds)
        if numbered.calls <= deaths:
            time.sleep(1.2 if numbered.calls == 1 else 0)
            raise SystemExit
        return reply

    def lead() -> None:
        with suppress(SystemExit):
            token.get()

    token = SharedToken(die, timeout=1)
    leader = threading.Thread(target=lead)
    leader.start()
    wait_until(lambda: numbered.calls == 1)
    found = token.get()["access_token"]
    leader.join()
    settle()
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_leads_for_others_dies() -> None:
    """Who had it lead, leads: there is time left."""
    assert wait_for_leaders_who_die(2) == "token-3"


def test_a_leader_whose_time_is_over_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited leads, then."""

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "bakrypt-renewal":
            raise RuntimeError("can't start new thread")
        start(thread)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert wait_for_leaders_who_die(1) == "token-2"


def test_a_leader_who_is_overdue_is_replaced_by_one_who_waits() -> None:
    """A call that ignores its timeout is not waited for when time is left to ask again."""
    numbered, may_end = Bakrypt(), threading.Event()

    def hang_once(seconds: float) -> AccessToken:
        reply = numbered(seconds)
        if numbered.calls == 1:
            may_end.wait(10)
        return reply

    token = SharedToken(hang_once, timeout=0.2)
    leader = threading.Thread(target=token.get)
    leader.start()
    wait_until(lambda: numbered.calls == 1)
    time.sleep(0.6)  # so that this caller has time left when the leader is overdue
    assert token.get()["access_token"] == "token-2"
    may_end.set()
    leader.join()
    assert token.get()["access_token"] == "token-2"


def test_a_reported_token_that_a_renewal_brings_again(clock: Clock) -> None:
    """A caller who waits for a renewal that brings what it reports gets another token."""
    started, may_end = threading.Event(), threading.Event()
    numbered = Bakrypt()

    def slow(seconds: float) -> AccessToken:
        started.set()
        may_end.wait(5)
        return numbered(seconds)

    token = share(slow, clock)
    leader = threading.Thread(target=token.get)
    leader.start()
    started.wait(5)
    results: list[str] = []
    reporter = threading.Thread(target=lambda: results.append(token.get("token-1")["access_token"]))
    reporter.start()
    may_end.set()
    leader.join()
    reporter.join()
    assert results == ["token-2"]


def test_an_error_keeps_no_frames(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """What is remembered has no traceback, in whose frames secrets stand."""
    token = share(bakrypt_calls, clock)
    bakrypt_calls.error = UpstreamFailedError("away")
    with pytest.raises(UpstreamFailedError):
        token.get()
    for remembered in (token._flight._outcome, token._backoff._error):  # noqa: SLF001
        assert isinstance(remembered, BakryptError)
        assert remembered.__traceback__ is None


def test_a_system_without_fork(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, bakrypt_calls: Bakrypt
) -> None:
    """Windows: `os.register_at_fork` does not exist there."""
    monkeypatch.delattr(os, "register_at_fork")
    assert share(bakrypt_calls, clock).get()["access_token"] == "token-1"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_leaves_the_parent_alone(clock: Clock, bakrypt_calls: Bakrypt) -> None:
    """The child renews for itself, and the parent has its token and its lock as before."""
    token = share(bakrypt_calls, clock)
    token.get()
    lock = token._flight.lock  # noqa: SLF001
    child = os.fork()
    if child == 0:
        clock.now += LIFE
        os._exit(0 if token.get()["access_token"] == "token-2" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert token._flight.lock is lock  # noqa: SLF001
    assert token.get()["access_token"] == "token-1"


ODD_LIVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**6),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0.01, 10**6).map(str),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=1),
)
STEPS = st.lists(st.tuples(st.floats(0, 50_000), st.booleans(), st.booleans()), max_size=20)


@given(life=st.one_of(st.floats(1, 10**6), st.integers(1, 10**6)), steps=STEPS)
def test_no_reply_is_ever_wrong(life: float, steps: list[tuple[float, bool, bool]]) -> None:
    """Whatever the lifetime and the clock: what is served lives, and says how long."""
    clock, bakrypt = Clock(), Bakrypt(life)
    token = share(bakrypt, clock)
    issued_at: dict[str, float] = {}

    def fetch(seconds: float) -> AccessToken:
        reply = bakrypt(seconds)
        issued_at[reply["access_token"]] = clock.now
        return reply

    token = share(fetch, clock)
    for step, is_down, rejects in steps:
        clock.now += step
        bakrypt.error = UpstreamFailedError("away") if is_down else None
        last = max(issued_at, key=lambda name: issued_at[name], default=None)
        before = bakrypt.calls
        try:
            reply = token.get(last if rejects else None)
        except UpstreamFailedError:
            # It failed only because no living token was left, or it was refused.
            assert (
                rejects or last is None or clock.now > issued_at[last] + life - max(1, life * 0.02)
            )
        else:
            left = issued_at[reply["access_token"]] + life - clock.now
            assert 0 <= reply["expires_in"] <= max(left, 0)
            assert "refresh_token" not in reply
            assert left > 0
        settle()
        assert bakrypt.calls - before <= 2


@given(expires_in=ODD_LIVES)
def test_any_expires_in(expires_in: object) -> None:
    """Of any type: shared if it makes sense, handed on as it is if not."""
    clock = Clock()
    bakrypt = Bakrypt(expires_in)
    token = share(bakrypt, clock)
    first, second = token.get(), token.get()
    if bakrypt.calls == 1:
        assert isinstance(first["expires_in"], int)
        assert first["expires_in"] == second["expires_in"] >= 0
    else:
        assert "refresh_token" in first
        assert "refresh_token" in second


class LateFetch:
    """A first call whose thread dies late, so that a caller who waited asks with less time."""

    def __init__(self, clock: Clock, second: Callable[[float], AccessToken]) -> None:
        self.clock, self.second = clock, second
        self.calls: list[float] = []

    def renew(self, renewal: Renewal, fetch: Fetch) -> Outcome:
        """Stand in for a store that took 2 s to answer the first time."""
        if not self.calls:
            self.clock.now += 2
        return fetch(renewal.deadline - self.clock.now)

    def __call__(self, seconds: float) -> AccessToken:
        """Answer a call that may take so many seconds."""
        self.calls.append(seconds)
        return self.second(seconds)


@pytest.mark.parametrize(
    "error",
    [
        CredentialsRefusedError("refused"),
        UpstreamFailedError("throttled", retry_after="60"),
        UpstreamFailedError("bakrypt failed (status 503)"),
    ],
    ids=["refused", "throttled", "failed"],
)
def test_bakrypts_answer_to_a_late_caller_is_remembered(clock: Clock, error: BakryptError) -> None:
    """A call with less time than others that was answered in it says as much about bakrypt."""
    bakrypt = Bakrypt()
    bakrypt.error = error
    late = LateFetch(clock, bakrypt)
    token = SharedToken(late, timeout=5, store=late, clock=clock, wall_clock=clock)
    for _ in range(3):
        with pytest.raises(type(error)):
            token.get()
    assert len(late.calls) == 1
    assert late.calls[0] < 5


def test_a_call_that_was_cut_short_is_not_remembered(clock: Clock) -> None:
    """It had less time than others, and used it: the next caller asks again."""

    def hang(seconds: float) -> AccessToken:
        clock.now += seconds
        raise UpstreamFailedError("bakrypt did not answer in time")

    late = LateFetch(clock, hang)
    token = SharedToken(late, timeout=5, store=late, clock=clock, wall_clock=clock)
    with pytest.raises(UpstreamFailedError):
        token.get()
    with pytest.raises(UpstreamFailedError):
        token.get()
    assert len(late.calls) == 2


def test_what_the_server_saw_refused_opens_no_door_for_reports(
    clock: Clock, bakrypt_calls: Bakrypt
) -> None:
    """A second call that saw the old token refused leaves the five seconds as they are."""
    token = share(bakrypt_calls, clock)
    token.get()
    for _ in range(2):
        assert token.get("token-1", at_once=True)["access_token"] == "token-2"
    assert token.get("token-2")["access_token"] == "token-2"
    assert token.get("token-2", at_once=True)["access_token"] == "token-3"
    assert bakrypt_calls.calls == 3


def test_another_callers_token_that_is_not_shared_stands_in_no_frame(clock: Clock) -> None:
    """Who waited for it asks for one of its own; if that fails, a crash reporter sees neither."""
    started, may_end = threading.Event(), threading.Event()
    numbered = Bakrypt(expires_in=None)

    def fail_later(seconds: float) -> AccessToken:
        reply = numbered(seconds)
        started.set()
        may_end.wait(5)
        if numbered.calls > 1:
            raise UpstreamFailedError("away")
        return reply

    token = share(fail_later, clock)
    leader = threading.Thread(target=token.get)
    leader.start()
    started.wait(5)
    errors: list[BakryptError] = []

    def wait() -> None:
        try:
            token.get()
        except BakryptError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(lambda: bool(token._flight.lock._waiters))  # type: ignore[attr-defined]  # noqa: SLF001
    may_end.set()
    leader.join()
    waiter.join()
    frames = [frame for frame, _ in traceback.walk_tb(errors[0].__traceback__)]
    seen = [repr(frame.f_locals) for frame in frames if frame.f_code.co_filename != __file__]
    assert seen
    assert "token-1" not in "".join(seen)
