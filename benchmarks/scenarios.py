"""What is measured, and what the goals are. A scenario starts its servers and drives them in turn, round by round."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from contestants import DELAY, Contestants, Server, python_seconds
from wrk import EXCHANGE, TOKEN, TOKEN_FORM, Drive, Request, drive

WARM_UP = 3  # seconds, which node's compiler needs to get going; no more than a measurement takes

OURS = "ours"
BARE = "bare Flask view"
EXPRESS = "Express, one process"
CLUSTER = "Express, cluster of two"
DIRECT = "instant upstream"

RATE = "requests a second"
MEAN = "mean, ms"
P50 = "median, ms"
P99 = "99th percentile, ms"
WORKERS = "workers, MiB"
WITH_PARENT = "with their parent, MiB"
IMPORT = "import, ms"

LIBRARIES = "flask, requests"
PACKAGE = "bakrypt_proxy beyond them"

Round = dict[str, dict[str, float]]  # figures by contestant
Ratio = Callable[[Round], float]


@dataclass(frozen=True)
class Goal:
    """A ratio that every round yields, and where it should lie. `label` is its short name in the picture."""

    text: str
    label: str
    ratio: Ratio
    limit: float
    at_least: bool = True

    def is_met_by(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@dataclass
class Bench:
    """One run of the benchmark: its servers, its length, and which requests failed in it."""

    contestants: Contestants
    rounds: int
    seconds: int
    failures: list[str] = field(default_factory=list)

    def in_turn(
        self,
        racers: Sequence[tuple[Server, Request]],
        *,
        connections: int,
        seconds: int | None = None,
        pause: float = 0,
    ) -> list[Round]:
        """Warm everybody up, then drive each once a round. `pause` is in seconds, after each."""
        for server, request in racers:
            self.drive(server, request, connections=connections, seconds=min(WARM_UP, self.seconds))
            time.sleep(pause)
        rounds: list[Round] = []
        for _ in range(self.rounds):
            figures: Round = {}
            for server, request in racers:
                result = self.drive(server, request, connections=connections, seconds=seconds)
                figures[server.name] = {
                    RATE: result.rate,
                    MEAN: result.mean,
                    P50: result.p50,
                    P99: result.p99,
                }
                time.sleep(pause)
            rounds.append(figures)
        return rounds

    def drive(
        self, server: Server, request: Request, *, connections: int, seconds: int | None = None
    ) -> Drive:
        """Drive a server, and take note if a request failed."""
        result = drive(server, request, connections=connections, seconds=seconds or self.seconds)
        if result.errors:
            counts = ", ".join(f"{count} {kind}" for kind, count in result.errors.items())
            said = server.log.read_text(errors="replace").strip()[-300:]
            self.failures.append(
                f"{server.name}, {request.path}, {connections} connections: {counts}. {said}".strip()
            )
        return result


def exchange(bench: Bench) -> list[Round]:
    """Many callers of an exchange: ours answers from the shared token, the others ask the instant upstream."""
    made = bench.contestants
    with ExitStack() as stack:
        start = stack.enter_context
        upstream = start(made.instant_upstream())
        servers = [
            start(one(upstream))
            for one in (made.ours, made.express_cluster, made.express, made.floor)
        ]
        servers.append(start(made.bare()))
        return bench.in_turn([(server, EXCHANGE) for server in servers], connections=32)


def token(bench: Bench) -> list[Round]:
    """Many users at an upstream that costs next to nothing."""
    made = bench.contestants
    with ExitStack() as stack:
        start = stack.enter_context
        upstream = start(made.instant_upstream())
        racers = [
            (start(one(upstream)), TOKEN) for one in (made.ours, made.express_cluster, made.express)
        ]
        racers.append((start(made.floor(upstream)), TOKEN_FORM))
        return bench.in_turn(racers, connections=32)


def slow(bench: Bench) -> list[Round]:
    """Many users at an upstream that takes half a second.

    Twice as long, for the replies come in waves; and with a pause, for 500 requests are under way when wrk stops.
    """
    made = bench.contestants
    with (
        made.slow_upstream() as upstream,
        made.ours(upstream) as ours,
        made.express_cluster(upstream) as cluster,
    ):
        return bench.in_turn(
            [(ours, TOKEN), (cluster, TOKEN)],
            connections=500,
            seconds=2 * bench.seconds,
            pause=2 * DELAY,
        )


def added(bench: Bench) -> list[Round]:
    """One caller: what a server adds to the time of its call to the upstream."""
    made = bench.contestants
    with (
        made.instant_upstream() as upstream,
        made.ours(upstream) as ours,
        made.express(upstream) as express,
    ):
        return bench.in_turn(
            [(ours, TOKEN), (express, TOKEN), (upstream, TOKEN_FORM)], connections=1
        )


def memory(bench: Bench) -> list[Round]:
    """Memory after exchanges and sign-ins. These two run alone, for another of its kind would share pages with ours."""
    made = bench.contestants
    seconds = max(1, bench.seconds // 2)
    rounds: list[Round] = []
    with (
        made.instant_upstream() as upstream,
        made.ours(upstream) as ours,
        made.express_cluster(upstream) as cluster,
    ):
        for _ in range(bench.rounds):
            figures: Round = {}
            for server in (ours, cluster):
                for request, connections in ((EXCHANGE, 32), (TOKEN, 32), (TOKEN, 500)):
                    bench.drive(server, request, connections=connections, seconds=seconds)
                figures[server.name] = dict(
                    zip((WORKERS, WITH_PARENT), server.memory(), strict=True)
                )
            rounds.append(figures)
    return rounds


_TIMED_IMPORTS = """
from time import perf_counter
start = perf_counter()
import flask, requests
middle = perf_counter()
import bakrypt_proxy
print(middle - start, perf_counter() - middle)
"""


def import_time(bench: Bench) -> list[Round]:
    """Import times, each pair from one fresh interpreter; a round is the medians of seven."""
    python_seconds(_TIMED_IMPORTS)  # compiles what is not compiled yet
    rounds: list[Round] = []
    for _ in range(bench.rounds):
        libraries, package = zip(*(python_seconds(_TIMED_IMPORTS) for _ in range(7)), strict=True)
        figures = {LIBRARIES: median(libraries), PACKAGE: median(package)}
        rounds.append({name: {IMPORT: seconds * 1000} for name, seconds in figures.items()})
    return rounds


@dataclass(frozen=True)
class Scenario:
    """A table of the results, and the goals that are taken from it."""

    title: str
    run: Callable[[Bench], list[Round]]
    goals: Sequence[Goal]


def _of(figure: str, one: str, other: str) -> Ratio:
    return lambda figures: figures[one][figure] / figures[other][figure]


def _time_added(figures: Round) -> float:
    """Compare what is added to the mean, which is 1 / rate over one connection: wrk corrects its own mean upwards."""
    direct = 1 / figures[DIRECT][RATE]
    return (1 / figures[OURS][RATE] - direct) / (1 / figures[EXPRESS][RATE] - direct)


SCENARIOS = {
    "exchange": Scenario(
        "Exchange, 32 connections, instant upstream",
        exchange,
        (
            Goal(
                "exchange, shared, against the Express cluster",
                "exchange / Express",
                _of(RATE, OURS, CLUSTER),
                10,
            ),
            Goal(
                "exchange, shared, against the bare Flask view",
                "exchange / bare Flask",
                _of(RATE, OURS, BARE),
                0.9,
            ),
        ),
    ),
    "token": Scenario(
        "Token, 32 connections, instant upstream",
        token,
        (
            Goal(
                "token, instant upstream, 32 connections, against the Express cluster",
                "token / Express",
                _of(RATE, OURS, CLUSTER),
                1.5,
            ),
        ),
    ),
    "slow": Scenario(
        "Token, 500 connections, an upstream of 500 ms",
        slow,
        (
            Goal(
                "token, 500 ms upstream, 500 connections, against the Express cluster",
                "slow token / Express",
                _of(RATE, OURS, CLUSTER),
                1.0,
            ),
            Goal(
                "the same, its 99th percentile",
                "slow token, p99",
                _of(P99, OURS, CLUSTER),
                1.0,
                at_least=False,
            ),
        ),
    ),
    "added": Scenario(
        "Token, one connection, instant upstream",
        added,
        (
            Goal(
                "time added to one upstream call, one connection, against the Express app",
                "time added",
                _time_added,
                0.7,
                at_least=False,
            ),
        ),
    ),
    "memory": Scenario(
        "Memory after exchanges and sign-ins over 32 connections, and sign-ins over 500",
        memory,
        (
            Goal(
                "memory of two workers after the run against two Express processes",
                "memory",
                _of(WORKERS, OURS, CLUSTER),
                0.6,
                at_least=False,
            ),
        ),
    ),
    "import": Scenario(
        "Import time in a fresh interpreter",
        import_time,
        (
            Goal(
                "`import bakrypt_proxy` beyond `import flask, requests`",
                "import time",
                _of(IMPORT, PACKAGE, LIBRARIES),
                0.15,
                at_least=False,
            ),
        ),
    ),
}
