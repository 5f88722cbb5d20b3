"""Drives a server with wrk and reads what came of it."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from contestants import Server, program

_SCRIPT = Path(__file__).with_name("wrk.lua")
_LONGEST = 20  # seconds for one reply; a longer one counts as an error


@dataclass(frozen=True)
class Request:
    """A POST that a caller makes."""

    path: str
    body: str
    content_type: str = "application/json"


EXCHANGE = Request("/auth/exchange/", "")
TOKEN = Request("/auth/token/", '{"username":"alice","password":"alice-password"}')
TOKEN_FORM = Request(
    "/auth/token/",
    "client_id=benchmark-client&client_secret=benchmark-secret&username=alice&password=alice-password&grant_type=password",
    "application/x-www-form-urlencoded",
)


@dataclass(frozen=True)
class Drive:
    """What came of one run of wrk. `rate` is in requests a second, the times are in milliseconds."""

    rate: float
    mean: float
    p50: float
    p90: float
    p99: float
    errors: dict[str, int]


def drive(server: Server, request: Request, *, connections: int, seconds: int) -> Drive:
    """Send a request over so many connections for so many seconds."""
    command = [program("wrk"), "--latency", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{_LONGEST}s", "--script", str(_SCRIPT)]
    command += [server.url + request.path, "--", request.body, request.content_type]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=seconds + 2 * _LONGEST
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    seconds_run = figures["microseconds"] / 1e6
    errors = {kind: count for kind, count in figures["errors"].items() if count}
    # wrk does not count a connection that waits in vain to the end as an error.
    slowest = figures["p99"] / 1e6
    answered = figures["requests"] * figures["mean"] / 1e6 / max(seconds_run - slowest, 0.1)
    if not figures["requests"] or (slowest < seconds_run / 4 and answered < connections / 2):
        errors["of the connections or so without a reply"] = round(connections - answered)
    return Drive(
        rate=figures["requests"] / seconds_run,
        **{name: figures[name] / 1e3 for name in ("mean", "p50", "p90", "p99")},
        errors=errors,
    )
