"""Load and faults: our app on its production server while bakrypt, and a worker of ours, go through trouble.

Run `python benchmarks/load.py` for 60 seconds with 200 clients. Each client gets the shared token and a user's own in
turn, and checks that the reply is one of the contract, in time, and that the token is its own. The table tells what
came of it; the exit code is 1 if anything is not as it should be.
"""

import argparse
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlencode

from production import command, worker_ids

from bakrypt_proxy.sandbox import USERS, Sandbox

ROOT = Path(__file__).parent.parent
TIMEOUT = 3.0  # BAKRYPT_TIMEOUT, seconds
THINKING = 0.05  # seconds between a client's requests
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Wire:
    """A TCP relay between the app and the sandbox, which can reset every connection and refuse new ones."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.is_cut = False
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Reset all connections there are."""
        for sock in list(self._open):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.shutdown(
                    socket.SHUT_RD
                )  # wakes its pump, which closes it: that sends the reset
        self._open.clear()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                if self.is_cut:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for sock in (source, target):
            self._open.discard(sock)
            with suppress(OSError):
                sock.close()


@dataclass
class Report:
    """What the clients saw, and what the workers used."""

    replies: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lost_with_the_worker: int = 0
    slowest: float = 0
    memory: dict[str, int] = field(default_factory=dict)  # in KiB
    descriptors: dict[str, int] = field(default_factory=dict)

    def check(self, clients: int) -> list[str]:
        """Return what is not as it should be."""
        problems = list(dict.fromkeys(self.faults))[:10]
        if (
            sum(count for name, count in self.replies.items() if name.endswith(" 200"))
            < self.replies.total() / 4
        ):
            problems.append("less than a quarter of the replies had a token")
        if self.slowest > TIMEOUT + 1:
            problems.append(f"the slowest reply took {self.slowest:.2f} s")
        if self.lost_with_the_worker > clients:
            problems.append(f"{self.lost_with_the_worker} requests were lost with one worker")
        if not 0.8 < self.memory["end"] / self.memory["middle"] < 1.2:
            problems.append(f"memory went from {self.memory['middle']} to {self.memory['end']} KiB")
        if self.descriptors["end"] > self.descriptors["start"] * 1.1:
            problems.append(
                f"descriptors went from {self.descriptors['start']} to {self.descriptors['end']}"
            )
        return problems


class Client(threading.Thread):
    """Asks for the shared token and for one of its user's own in turn."""

    def __init__(self, run: "Run", number: int) -> None:
        super().__init__(daemon=True)
        self._run = run
        self._user = list(USERS)[number % len(USERS)]

    def run(self) -> None:
        """Ask until it is over."""
        body = urlencode({"username": self._user, "password": USERS[self._user]})
        while not self._run.is_over.wait(THINKING):
            self._ask("/auth/exchange/", "", "account")
            self._ask("/auth/token/", body, self._user)

    def _ask(self, path: str, body: str, owner: str) -> None:
        started = time.monotonic()
        connection = HTTPConnection("127.0.0.1", self._run.port, timeout=TIMEOUT + 5)
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
            connection.request("POST", path, body, headers)
            reply = connection.getresponse()
            status, content = reply.status, reply.read()
        except (OSError, HTTPException) as error:
            self._run.note_lost(started, f"{path}: {type(error).__name__}")
            return
        finally:
            connection.close()
        self._run.note(path, status, content, owner, time.monotonic() - started)


class Run:
    """One run: the server, the wire, the sandbox, and the clients."""

    def __init__(self, port: int, sandbox: Sandbox) -> None:
        self.port = port
        self.report = Report()
        self.is_over = threading.Event()
        self.killed_at = float("inf")
        self._sandbox = sandbox
        self._lock = threading.Lock()

    def note(self, path: str, status: int, content: bytes, owner: str, seconds: float) -> None:
        """Check a reply."""
        fault = self._fault(status, content, owner)
        with self._lock:
            self.report.replies[f"{path} {status}"] += 1
            self.report.slowest = max(self.report.slowest, seconds)
            if fault:
                self.report.faults.append(f"{path} {status}: {fault}")

    def note_lost(self, started: float, fault: str) -> None:
        """Count a request without a reply: with the killed worker those go that it was at work on."""
        with self._lock:
            if started < self.killed_at + 0.5 and time.monotonic() > self.killed_at:
                self.report.lost_with_the_worker += 1
            else:
                self.report.faults.append(fault)

    def _fault(self, status: int, content: bytes, owner: str) -> str | None:
        try:
            body = json.loads(content)
        except ValueError:
            return f"not JSON: {content[:60]!r}"
        if status != 200:
            return None if isinstance(body.get("error"), str) else "no error in it"
        found = self._sandbox.store.owner(body["access_token"])
        return None if found == owner else f"a token of {found}"


@contextmanager
def server(url: str, *, workers: int, threads: int) -> Iterator[tuple[int, int]]:
    """Our app on its production server, against the wire: its port and process id."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environ = {"BAKRYPT_NETWORK": "sandbox", "BAKRYPT_URL": url, "BAKRYPT_TIMEOUT": str(TIMEOUT)}
    environ |= {"BAKRYPT_RATE_LIMIT": "1000000 per minute"}
    start = command("app:create_app", port, workers=workers, threads=threads)
    with subprocess.Popen(
        start, cwd=ROOT, env=os.environ | environ, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_until(lambda: len(worker_ids(process.pid)) == workers and _answers(port))
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(20)


def measure(parent: int) -> tuple[int, int]:
    """Memory in KiB and open descriptors of all workers."""
    memory = descriptors = 0
    for pid in worker_ids(parent):
        status = Path(f"/proc/{pid}/status").read_text()
        memory += int(status.split("VmRSS:")[1].split()[0])
        descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return memory, descriptors


def run(seconds: float, clients: int, *, workers: int = 2, threads: int = 128) -> Report:
    """Run it all and return the report."""
    step = seconds / 7
    with Sandbox(expires_in=max(2, int(step))) as sandbox:
        sandbox.listen()
        wire = Wire(int(sandbox.url.rpartition(":")[2]))
        with server(wire.url, workers=workers, threads=threads) as (port, parent):
            run = Run(port, sandbox)
            crowd = [Client(run, number) for number in range(clients)]
            for client in crowd:
                client.start()
            time.sleep(step)
            _, run.report.descriptors["start"] = measure(parent)
            _make_trouble(run, sandbox, wire, parent, step)
            run.is_over.set()
            for client in crowd:
                client.join()
            _wait_until(
                lambda: measure(parent)[1] <= run.report.descriptors["start"] * 1.1, fail=False
            )
            run.report.memory["end"], run.report.descriptors["end"] = measure(parent)
    return run.report


def _make_trouble(run: Run, sandbox: Sandbox, wire: Wire, parent: int, step: float) -> None:
    """Slow, a worker killed, reset, throttled, away and back, calm: a step each."""
    sandbox.delay = 1.0
    time.sleep(step)
    sandbox.delay = 0
    run.killed_at = time.monotonic()
    os.kill(worker_ids(parent)[0], signal.SIGKILL)
    time.sleep(step)
    for _ in range(5):
        wire.reset()
        time.sleep(step / 5)
    run.report.memory["middle"], _ = measure(parent)
    sandbox.throttle = 1
    time.sleep(step)
    sandbox.throttle = None
    wire.is_cut = True
    wire.reset()
    time.sleep(step / 2)
    wire.is_cut = False
    time.sleep(step * 1.5)


def _wait_until(is_so: Callable[[], bool], seconds: float = 10, *, fail: bool = True) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            if fail:
                raise TimeoutError("waited in vain")
            return
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=200)
    arguments = parser.parse_args()
    report = run(arguments.seconds, arguments.clients)
    rows = [(name, str(count)) for name, count in sorted(report.replies.items())]
    rows += [("lost with the killed worker", str(report.lost_with_the_worker))]
    rows += [("slowest reply", f"{report.slowest:.2f} s (allowed: {TIMEOUT + 1:g} s)")]
    rows += [
        ("memory, middle and end", f"{report.memory['middle']} and {report.memory['end']} KiB")
    ]
    rows += [
        (
            "descriptors, start and end",
            f"{report.descriptors['start']} and {report.descriptors['end']}",
        )
    ]
    for name, value in rows:
        print(f"{name:<30}{value}")
    problems = report.check(arguments.clients)
    print(
        "\n".join(problems) or "Every reply was one of the contract, in time, to the right caller."
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
