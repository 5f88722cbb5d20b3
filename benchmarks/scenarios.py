"""The scenarios and their goals.

A scenario starts its servers and measures them one after the other in each round.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from contestants import DELAY, Contestants, Server, python_seconds
from wrk import EXCHANGE, TOKEN, TOKEN_FORM, Measurement, Request, measure

# Seconds that node's compiler needs to optimise the code; at most the length of a measurement.
WARM_UP = 3

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

Round = dict[str, dict[str, float]]  # server name -> figure name -> figure
Ratio = Callable[[Round], float]


@dataclass(frozen=True)
class Goal:
    """A ratio of two servers' figures and its limit. `label` is its short name in the chart."""

    text: str
    label: str
    ratio: Ratio
    limit: float
    at_least: bool = True

    def is_met_by(self, ratio: float) -> bool:
        """Return whether a ratio is within the limit."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@dataclass
class Bench:
    """One run of the benchmark. `failures` describes the measurements in which requests failed."""

    contestants: Contestants
    rounds: int
    seconds: int
    failures: list[str] = field(default_factory=list)

    def in_turn(
        self,
        targets: Sequence[tuple[Server, Request]],
        *,
        connections: int,
        seconds: int | None = None,
        pause: float = 0,
    ) -> list[Round]:
        """Warm up all servers, then measure each of them once in every round.

        :param targets: the servers, each with the request that it gets.
        :param connections: how many connections send at the same time.
        :param seconds: the length of one measurement; None means that of the run.
        :param pause: seconds to wait after each measurement.
        """
        for server, request in targets:
            warm_up = min(WARM_UP, self.seconds)
            self.measure(server, request, connections=connections, seconds=warm_up)
            time.sleep(pause)
        rounds: list[Round] = []
        for _ in range(self.rounds):
            figures: Round = {}
            for server, request in targets:
                result = self.measure(server, request, connections=connections, seconds=seconds)
                figures[server.name] = _figures(result)
                time.sleep(pause)
            rounds.append(figures)
        return rounds

    def measure(
        self, server: Server, request: Request, *, connections: int, seconds: int | None = None
    ) -> Measurement:
        """Measure a server once, and note it in `failures` if requests failed."""
        result = measure(server, request, connections=connections, seconds=seconds or self.seconds)
        if result.errors:
            counts = ", ".join(f"{count} {kind}" for kind, count in result.errors.items())
            log = server.log.read_text(errors="replace").strip()[-300:]
            where = f"{server.name}, {request.path}, {connections} connections"
            self.failures.append(f"{where}: {counts}. {log}".strip())
        return result


def _figures(result: Measurement) -> dict[str, float]:
    return {RATE: result.rate, MEAN: result.mean, P50: result.p50, P99: result.p99}


def exchange(bench: Bench) -> list[Round]:
    """Measure many callers of exchange. Ours serves the shared token; the others call upstream."""
    contestants = bench.contestants
    with ExitStack() as stack:
        start = stack.enter_context
        upstream = start(contestants.instant_upstream())
        starters = (
            contestants.ours,
            contestants.express_cluster,
            contestants.express,
            contestants.proxy_pass,
        )
        servers = [start(starter(upstream)) for starter in starters]
        servers.append(start(contestants.bare()))
        return bench.in_turn([(server, EXCHANGE) for server in servers], connections=32)


def token(bench: Bench) -> list[Round]:
    """Measure many sign-ins at an upstream that costs almost no processor time."""
    contestants = bench.contestants
    with ExitStack() as stack:
        start = stack.enter_context
        upstream = start(contestants.instant_upstream())
        starters = (contestants.ours, contestants.express_cluster, contestants.express)
        targets = [(start(starter(upstream)), TOKEN) for starter in starters]
        targets.append((start(contestants.proxy_pass(upstream)), TOKEN_FORM))
        return bench.in_turn(targets, connections=32)


def slow(bench: Bench) -> list[Round]:
    """Measure many sign-ins at an upstream that takes half a second.

    Each measurement is twice as long, because the responses come in waves. There is a pause after
    each, because 500 requests are still unanswered when wrk stops.
    """
    contestants = bench.contestants
    with (
        contestants.slow_upstream() as upstream,
        contestants.ours(upstream) as ours,
        contestants.express_cluster(upstream) as cluster,
    ):
        return bench.in_turn(
            [(ours, TOKEN), (cluster, TOKEN)],
            connections=500,
            seconds=2 * bench.seconds,
            pause=2 * DELAY,
        )


def added(bench: Bench) -> list[Round]:
    """Measure one caller, to see how much time a server adds to its call to upstream."""
    contestants = bench.contestants
    with (
        contestants.instant_upstream() as upstream,
        contestants.ours(upstream) as ours,
        contestants.express(upstream) as express,
    ):
        return bench.in_turn(
            [(ours, TOKEN), (express, TOKEN), (upstream, TOKEN_FORM)], connections=1
        )


def memory(bench: Bench) -> list[Round]:
    """Measure memory after exchanges and sign-ins.

    Only these two servers run. A second server of our kind would share pages with ours and so
    make its PSS too small.
    """
    contestants = bench.contestants
    seconds = max(1, bench.seconds // 2)
    rounds: list[Round] = []
    with (
        contestants.instant_upstream() as upstream,
        contestants.ours(upstream) as ours,
        contestants.express_cluster(upstream) as cluster,
    ):
        for _ in range(bench.rounds):
            figures: Round = {}
            for server in (ours, cluster):
                for request, connections in ((EXCHANGE, 32), (TOKEN, 32), (TOKEN, 500)):
                    bench.measure(server, request, connections=connections, seconds=seconds)
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
    """Measure import times. A round is the median of seven runs, each in a new interpreter."""
    python_seconds(_TIMED_IMPORTS)  # writes the bytecode caches that are missing
    rounds: list[Round] = []
    for _ in range(bench.rounds):
        libraries, package = zip(*(python_seconds(_TIMED_IMPORTS) for _ in range(7)), strict=True)
        figures = {LIBRARIES: median(libraries), PACKAGE: median(package)}
        rounds.append({name: {IMPORT: seconds * 1000} for name, seconds in figures.items()})
    return rounds


@dataclass(frozen=True)
class Scenario:
    """A table of the results and its goals. `run` returns the figures of each round."""

    title: str
    run: Callable[[Bench], list[Round]]
    goals: Sequence[Goal]


def ratio_of(figure: str, one: str, other: str) -> Ratio:
    """Return a function that divides a figure of one server by that of another."""
    return lambda figures: figures[one][figure] / figures[other][figure]


def _time_added(figures: Round) -> float:
    """Return the ratio of the times that ours and Express add to the upstream's mean time.

    Over one connection the mean time is 1 / rate. wrk's own mean is corrected upwards.
    """
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
                ratio_of(RATE, OURS, CLUSTER),
                10,
            ),
            Goal(
                "exchange, shared, against the bare Flask view",
                "exchange / bare Flask",
                ratio_of(RATE, OURS, BARE),
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
                ratio_of(RATE, OURS, CLUSTER),
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
                ratio_of(RATE, OURS, CLUSTER),
                1.0,
            ),
            Goal(
                "the same, its 99th percentile",
                "slow token, p99",
                ratio_of(P99, OURS, CLUSTER),
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
                ratio_of(WORKERS, OURS, CLUSTER),
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
                ratio_of(IMPORT, PACKAGE, LIBRARIES),
                0.15,
                at_least=False,
            ),
        ),
    ),
}
