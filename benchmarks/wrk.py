"""Send requests to a server with wrk and read its measurements."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from contestants import Server, program

_SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT = 20  # seconds for one response; a slower one counts as an error


@dataclass(frozen=True)
class Request:
    """A request to measure."""

    path: str
    body: str = ""
    content_type: str = "application/json"
    method: str = "POST"
    cookies: str = ""


EXCHANGE = Request("/auth/exchange/")
TOKEN = Request("/auth/token/", '{"username":"alice","password":"alice-password"}')
TOKEN_FORM = Request(
    "/auth/token/",
    "client_id=benchmark-client&client_secret=benchmark-secret"
    "&username=alice&password=alice-password&grant_type=password",
    "application/x-www-form-urlencoded",
)


@dataclass(frozen=True)
class Measurement:
    """The result of one run of wrk: `rate` in requests a second, times in milliseconds."""

    rate: float
    mean: float
    p50: float
    p90: float
    p99: float
    errors: dict[str, int]


def measure(server: Server, request: Request, *, connections: int, seconds: int) -> Measurement:
    """Send the same request again and again over several connections.

    :param connections: how many connections send at the same time.
    :param seconds: how long they send.
    """
    command = [program("wrk"), "--latency", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{_TIMEOUT}s", "--script", str(_SCRIPT)]
    command += [server.url + request.path, "--", request.method, request.body]
    command += [request.content_type, request.cookies]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=seconds + 2 * _TIMEOUT
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    seconds_run = figures["microseconds"] / 1e6
    errors = {kind: count for kind, count in figures["errors"].items() if count}
    # wrk counts no error for a connection that gets no response before the run ends. Estimate
    # how many connections were answered, from the mean time and the number of responses.
    slowest = figures["p99"] / 1e6
    answered = figures["requests"] * figures["mean"] / 1e6 / max(seconds_run - slowest, 0.1)
    if not figures["requests"] or (slowest < seconds_run / 4 and answered < connections / 2):
        errors["connections (an estimate) without a response"] = round(connections - answered)
    return Measurement(
        rate=figures["requests"] / seconds_run,
        **{name: figures[name] / 1e3 for name in ("mean", "p50", "p90", "p99")},
        errors=errors,
    )
