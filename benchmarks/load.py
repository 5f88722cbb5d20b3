"""Test our app on its production server under load, while bakrypt and a worker of ours fail.

Run `python benchmarks/load.py` for 60 seconds with 200 clients. Each client gets the shared token
and a user's token in turn. It checks that each response follows the contract and arrives in time,
and that the token belongs to the right user. The script prints a table; the exit code is 1 if a
check failed.
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
PAUSE = 0.05  # seconds between two pairs of requests of a client
RESET = struct.pack("ii", 1, 0)  # a value of SO_LINGER: close with a TCP reset


class Wire:
    """A TCP relay between the app and the sandbox. It can reset connections and refuse new ones.

    :param port: the port of the sandbox.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.is_cut = False
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Reset all open connections."""
        for sock in list(self._open):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                # This wakes the thread that pumps it. That thread closes it, which sends the reset.
                sock.shutdown(socket.SHUT_RD)
        self._open.clear()

    def _accept(self) -> None:
        while True:
            app, _ = self._listener.accept()
            try:
                if self.is_cut:
                    raise ConnectionRefusedError
                sandbox = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                app.close()
                continue
            self._open |= {app, sandbox}
            for source, target in ((app, sandbox), (sandbox, app)):
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
    """The responses that the clients got, and the memory and descriptors of the workers."""

    responses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lost_with_the_worker: int = 0
    slowest: float = 0
    memory: dict[str, int] = field(default_factory=dict)  # in KiB
    descriptors: dict[str, int] = field(default_factory=dict)

    def check(self, clients: int) -> list[str]:
        """Return a description of each failed check."""
        problems = list(dict.fromkeys(self.faults))[:10]
        tokens = sum(count for name, count in self.responses.items() if name.endswith(" 200"))
        if tokens < self.responses.total() / 4:
            problems.append("less than a quarter of the responses had a token")
        if self.slowest > TIMEOUT + 1:
            problems.append(f"the slowest response took {self.slowest:.2f} s")
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
    """Requests the shared token and a token of its user in turn."""

    def __init__(self, run: "Run", number: int) -> None:
        super().__init__(daemon=True)
        self._run = run
        self._user = list(USERS)[number % len(USERS)]

    def run(self) -> None:
        """Send requests until the run is over."""
        body = urlencode({"username": self._user, "password": USERS[self._user]})
        while not self._run.is_over.wait(PAUSE):
            self._post("/auth/exchange/", "", "account")
            self._post("/auth/token/", body, self._user)

    def _post(self, path: str, body: str, owner: str) -> None:
        started = time.monotonic()
        connection = HTTPConnection("127.0.0.1", self._run.port, timeout=TIMEOUT + 5)
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, HTTPException) as error:
            self._run.note_lost(started, f"{path}: {type(error).__name__}")
            return
        finally:
            connection.close()
        self._run.note(path, status, content, owner, time.monotonic() - started)


class Run:
    """One run: it collects what the clients report and checks it."""

    def __init__(self, port: int, sandbox: Sandbox) -> None:
        self.port = port
        self.report = Report()
        self.is_over = threading.Event()
        self.killed_at = float("inf")
        self._sandbox = sandbox
        self._lock = threading.Lock()

    def note(self, path: str, status: int, content: bytes, owner: str, seconds: float) -> None:
        """Check a response."""
        fault = self._fault(status, content, owner)
        with self._lock:
            self.report.responses[f"{path} {status}"] += 1
            self.report.slowest = max(self.report.slowest, seconds)
            if fault:
                self.report.faults.append(f"{path} {status}: {fault}")

    def note_lost(self, started: float, fault: str) -> None:
        """Count a request without a response. A killed worker may lose its current requests."""
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
            return None if isinstance(body.get("error"), str) else "a body without an error"
        found = self._sandbox.store.owner(body["access_token"])
        return None if found == owner else f"a token of {found}"


@contextmanager
def server(url: str, *, workers: int, threads: int) -> Iterator[tuple[int, int]]:
    """Run our app on its production server and return its port and process id.

    :param url: the address of its upstream.
    :param threads: the number of threads in each worker.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environ = {"BAKRYPT_NETWORK": "sandbox", "BAKRYPT_URL": url, "BAKRYPT_TIMEOUT": str(TIMEOUT)}
    environ |= {"BAKRYPT_RATE_LIMIT": "1000000 per minute"}
    start = command("app:create_app", port, workers=workers, threads=threads)
    environ = os.environ | environ
    with subprocess.Popen(start, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until(lambda: len(worker_ids(process.pid)) == workers and _answers(port))
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(20)


def measure(parent: int) -> tuple[int, int]:
    """Return the memory, in KiB, and the number of open descriptors of all workers together."""
    memory = descriptors = 0
    for pid in worker_ids(parent):
        status = Path(f"/proc/{pid}/status").read_text()
        memory += int(status.split("VmRSS:")[1].split()[0])
        descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return memory, descriptors


def run(seconds: float, clients: int, *, workers: int = 2, threads: int = 128) -> Report:
    """Run the server, the clients and the faults, and return the report.

    :param seconds: how long the run takes.
    :param threads: the number of threads in each worker.
    """
    step = seconds / 7
    with Sandbox(expires_in=max(2, int(step))) as sandbox:
        sandbox.listen()
        wire = Wire(int(sandbox.url.rpartition(":")[2]))
        with server(wire.url, workers=workers, threads=threads) as (port, parent):
            run = Run(port, sandbox)
            all_clients = [Client(run, number) for number in range(clients)]
            for client in all_clients:
                client.start()
            time.sleep(step)
            _, run.report.descriptors["start"] = measure(parent)
            _make_trouble(run, sandbox, wire, parent, step)
            run.is_over.set()
            for client in all_clients:
                client.join()
            allowed = run.report.descriptors["start"] * 1.1
            _wait_until(lambda: measure(parent)[1] <= allowed, fail=False)
            run.report.memory["end"], run.report.descriptors["end"] = measure(parent)
    return run.report


def _make_trouble(run: Run, sandbox: Sandbox, wire: Wire, parent: int, step: float) -> None:
    """Cause one fault after the other.

    The sandbox is slow; a worker is killed; connections are reset; the sandbox throttles; it is
    unreachable for half a step; it works again.

    :param step: the seconds that one fault lasts.
    """
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


def _wait_until(condition: Callable[[], bool], seconds: float = 10, *, fail: bool = True) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            if fail:
                raise TimeoutError(f"the condition did not become true within {seconds} s")
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
    """Run the test, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=200)
    arguments = parser.parse_args()
    report = run(arguments.seconds, arguments.clients)
    memory, descriptors = report.memory, report.descriptors
    for name, value in (
        *((name, str(count)) for name, count in sorted(report.responses.items())),
        ("lost with the killed worker", str(report.lost_with_the_worker)),
        ("slowest response", f"{report.slowest:.2f} s (allowed: {TIMEOUT + 1:g} s)"),
        ("memory, middle and end", f"{memory['middle']} and {memory['end']} KiB"),
        ("descriptors, start and end", f"{descriptors['start']} and {descriptors['end']}"),
    ):
        print(f"{name:<30}{value}")
    problems = report.check(arguments.clients)
    print("\n".join(problems) or "Every response was correct, in time and for the right user.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
