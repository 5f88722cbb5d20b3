"""A Redis of memory and of a clock that a test turns, with the commands that the store uses.

It stands where redis-py's client would. The real one is in `test_redis_faults.py`; here its clock,
its faults and those who write to it are played through by the thousand.
"""

from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

FAULTS: dict[str, type[Exception]] = {
    "away": RedisConnectionError,
    "lying": ValueError,
    "other": RedisError,
}


class SimulatedRedis:
    """Values with their ends, in seconds of `clock`. `fault` names what is wrong at the moment."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.values: dict[str, tuple[Any, float]] = {}
        self.history: list[bytes] = []
        self.fault: str | None = None
        self.fault_after = 0

    def __enter__(self) -> "SimulatedRedis":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def pipeline(self, *, transaction: bool) -> "_Pipeline":
        """Begin a transaction."""
        assert transaction
        return _Pipeline(self)

    def check(self, *, writes: bool) -> None:
        """Raise what is wrong, if anything is."""
        if self.fault == "read-only" and writes:
            raise ReadOnlyError("You can't write against a read only replica.")
        if self.fault in FAULTS:
            raise FAULTS[self.fault]("planted")

    def read(self, key: str) -> Any:
        """Return a value that has not ended."""
        value, end = self.values.get(key, (None, 0))
        return value if value is not None and self.clock() < end else None

    def write(self, key: str, value: Any, end: float) -> None:
        """Write a value."""
        self.values[key] = (value, end)

    def left(self, key: str) -> float:
        """Return the seconds that a value has left."""
        return self.values[key][1] - self.clock()


class _Pipeline:
    def __init__(self, redis: SimulatedRedis) -> None:
        self._redis = redis
        self._commands: list[Callable[[], Any]] = []
        self._is_watching = False
        self._writes = False

    def __enter__(self) -> "_Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def watch(self, key: str) -> None:
        self._redis.check(writes=False)
        self._is_watching = True

    def multi(self) -> None:
        self._is_watching = False

    def set(self, key: str, value: bytes, *, nx: bool = False, px: int = 0, pxat: int = 0) -> None:
        self._writes = True

        def run() -> bool | None:
            if nx and self._redis.read(key) is not None:
                return None
            end = pxat / 1000 if pxat else self._redis.clock() + px / 1000
            self._redis.write(key, value, end)
            self._redis.history.append(value)
            return True

        self._commands.append(run)

    def delete(self, key: str) -> None:
        self._writes = True
        self._commands.append(lambda: self._redis.values.pop(key, None))

    def getrange(self, key: str, start: int, end: int) -> Any:
        def run() -> Any:
            value = self._redis.read(key)
            return ResponseError("WRONGTYPE") if isinstance(value, list) else value or b""

        if not self._is_watching:
            return self._commands.append(run)
        if isinstance(value := run(), Exception):
            raise value
        return value

    def pttl(self, key: str) -> None:
        def run() -> int:
            if self._redis.read(key) is None:
                return -2
            left = self._redis.left(key)
            return -1 if left == float("inf") else int(left * 1000)

        self._commands.append(run)

    def time(self) -> None:
        def run() -> tuple[int, int]:
            now = self._redis.clock()
            return int(now), int(now % 1 * 1_000_000)

        self._commands.append(run)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        self._redis.check(writes=self._writes)
        return [command() for command in self._commands]
