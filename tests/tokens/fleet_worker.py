"""A process of a fleet: gets the shared token each time it is told to, and prints the reply.

Run as `python fleet_worker.py CLOCK_SHIFT` with the settings in the environment. Its wall clock is
off by so many seconds, and its monotonic clock begins elsewhere, as on another machine. It reads
lines: empty, or a rejected token.
"""

import json
import os
import sys
import time

shift = float(sys.argv[1])
wall_clock, monotonic = time.time, time.monotonic
time.time = lambda: wall_clock() + shift


def main() -> None:
    """Answer each line of standard input with a line of JSON."""
    from bakrypt_proxy import BakryptClient, BakryptError, Settings  # noqa: PLC0415 - see above
    from bakrypt_proxy.tokens.redis_store import RedisTokenStore  # noqa: PLC0415
    from bakrypt_proxy.tokens.shared import SharedToken  # noqa: PLC0415

    def clock() -> float:
        return monotonic() + 7 * shift

    settings = Settings.from_mapping(os.environ)
    client = BakryptClient(settings)
    assert settings.redis_url is not None
    assert settings.token is not None
    fleet = RedisTokenStore(
        settings.redis_url,
        secret=settings.token,
        upstream=settings.url,
        timeout=settings.timeout,
        clock=clock,
    )
    shared = SharedToken(
        lambda seconds: client.exchange(timeout=seconds),
        timeout=settings.timeout,
        store=fleet,
        clock=clock,
    )
    print("ready", flush=True)  # noqa: T201 - it is how it talks
    for line in sys.stdin:
        try:
            reply = dict(shared.get(line.strip() or None))
        except BakryptError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)  # noqa: T201


main()
