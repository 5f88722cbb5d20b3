"""The servers of the benchmark: two upstreams and the servers in front of them.

Each one is a context manager and stops at the end of its `with` block.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from production import command, worker_ids

HERE = Path(__file__).parent
EXPRESS = HERE / "express"
DELAY = 0.5  # seconds until the slow upstream responds
PROCESSES = 2  # in the Express cluster

# The Debian package of each program.
PACKAGES = {"wrk": "wrk", "nginx": "nginx", "node": "nodejs", "npm": "npm"}
TOKEN = {
    "access_token": "a" * 30,
    "expires_in": 36000,
    "token_type": "Bearer",
    "scope": "read write",
}
UPSTREAM_RESPONSE = json.dumps(TOKEN | {"refresh_token": "r" * 30})
# What bakrypt's API says of a transaction.
TRANSACTION_ID = "5f0b7c0e-8f5c-4a2e-9d50-0b2f6a1c7d11"
TRANSACTION = json.dumps(
    {
        "uuid": TRANSACTION_ID,
        "status": "waiting",
        "type": "mint",
        "network": "testnet",
        "cost": "2.5",
        "deposit_address": "addr_test1" + "q" * 98,
        "created_on": "2026-01-01T00:00:00Z",
    }
)
# As long as the response of our exchange.
EXCHANGE_RESPONSE = json.dumps(TOKEN, separators=(",", ":")) + "\n"

_SECRETS = {
    "BAKRYPT_TOKEN": "benchmark-token",
    "BAKRYPT_CLIENT_ID": "benchmark-client",
    "BAKRYPT_CLIENT_SECRET": "benchmark-secret",
}
_NGINX = """
daemon off;
worker_processes {processes};
pid {directory}/pid;
error_log stderr;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000;
    keepalive_timeout 1h;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {http}
}}
"""
_INSTANT = """
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location /auth/ {{ return 200 '{response}'; }}
        location /v1/ {{ return 200 '{transaction}'; }}
        location /v1/assets/ {{ return 201 '[{{"transaction": {transaction}}}]'; }}
    }}
"""
_FORWARDING = """
    upstream bakrypt {{ server {upstream}; keepalive 64; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location /auth/ {{
            proxy_pass http://bakrypt;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Token benchmark-token";
        }}
        location /v1/ {{
            proxy_pass http://bakrypt;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer benchmark-token";
        }}
    }}
"""


def program(name: str) -> str:
    """Return the path of a program.

    :raises SystemExit: if it is not installed; the message names the Debian package.
    """
    path = shutil.which(name)
    if path is None:
        package = PACKAGES.get(name, name)
        sys.exit(f"The benchmark needs {name}: install it, with `apt install {package}` on Debian.")
    return path


def install_express() -> None:
    """Install the packages of the Express app, unless they are installed already."""
    lock, installed = EXPRESS / "package-lock.json", EXPRESS / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        start = [program("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        start += ["--loglevel", "error"]
        subprocess.run(start, cwd=EXPRESS, check=True, timeout=300, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Server:
    """A server that runs on 127.0.0.1. `log` is the file with its output."""

    name: str
    port: int
    pid: int
    log: Path

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://{self.address}"

    def memory(self) -> tuple[float, float]:
        """Return the memory of the workers, and of the workers with their parent, in MiB.

        It is the proportional set size (PSS): a page that N processes share counts 1/N in each.
        """
        workers = sum(_pss(pid) for pid in worker_ids(self.pid))
        return workers, workers + _pss(self.pid)


def _pss(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("\nPss:")[1].split()[0]) / 1024


class Contestants:
    """Starts the servers.

    :param directory: where their logs and temporary files go.
    :param threads: the number of threads in each of our workers.
    """

    def __init__(self, directory: Path, threads: int) -> None:
        self._directory = directory
        self._threads = threads

    def instant_upstream(self) -> AbstractContextManager[Server]:
        """Run nginx with a constant response, which costs almost no processor time."""
        port = _free_port()
        http = _INSTANT.format(port=port, response=UPSTREAM_RESPONSE, transaction=TRANSACTION)
        return self._nginx("instant upstream", port, 1, http)

    def slow_upstream(self) -> AbstractContextManager[Server]:
        """Run an upstream that sends the same response after half a second."""
        port = _free_port()
        start = [sys.executable, str(HERE / "slow_upstream.py"), str(port), str(DELAY)]
        return self._running("slow upstream", start, port, {"RESPONSE": UPSTREAM_RESPONSE})

    def limited_upstream(self, rate: float) -> AbstractContextManager[Server]:
        """Run an upstream that takes uploads at a limited rate, in MB/s."""
        port = _free_port()
        start = [sys.executable, str(HERE / "limited_upstream.py"), str(port), str(rate)]
        return self._running("limited upstream", start, port, {"RESPONSE": UPSTREAM_RESPONSE})

    def proxy_pass(self, upstream: Server) -> AbstractContextManager[Server]:
        """Run nginx in two processes; it forwards each request with the header added."""
        port = _free_port()
        http = _FORWARDING.format(port=port, upstream=upstream.address)
        return self._nginx("nginx proxy_pass", port, 2, http)

    def ours(self, upstream: Server) -> AbstractContextManager[Server]:
        """Run our blueprint on its production server."""
        port = _free_port()
        start = command("ours:create_app", port, threads=self._threads)
        environ = {"BAKRYPT_URL": upstream.url, "BAKRYPT_MAX_UPLOAD": "1 GiB", **_SECRETS}
        return self._running("ours", start, port, environ)

    def bare(self) -> AbstractContextManager[Server]:
        """Run a bare Flask view on the same server."""
        port = _free_port()
        start = command("bare:create_app", port, threads=self._threads)
        return self._running("bare Flask view", start, port, {"RESPONSE": EXCHANGE_RESPONSE})

    def express(self, upstream: Server) -> AbstractContextManager[Server]:
        """Run the documented handlers in one process."""
        return self._express("Express, one process", upstream, 1)

    def express_cluster(self, upstream: Server) -> AbstractContextManager[Server]:
        """Run the documented handlers in a cluster of two processes."""
        return self._express("Express, cluster of two", upstream, PROCESSES)

    def _express(
        self, name: str, upstream: Server, processes: int
    ) -> AbstractContextManager[Server]:
        port = _free_port()
        environ = {"NODE_ENV": "production", "UPSTREAM": upstream.url}
        environ |= {"PORT": str(port), "PROCESSES": str(processes)}
        return self._running(name, [program("node"), str(EXPRESS / "app.js")], port, environ)

    def _nginx(
        self, name: str, port: int, processes: int, http: str
    ) -> AbstractContextManager[Server]:
        directory = self._directory / f"nginx-{port}"
        directory.mkdir()
        path = directory / "nginx.conf"
        path.write_text(_NGINX.format(directory=directory, processes=processes, http=http))
        start = [program("nginx"), "-p", str(directory), "-e", "stderr", "-c", str(path)]
        return self._running(name, start, port, {})

    @contextmanager
    def _running(
        self, name: str, start: list[str], port: int, environ: dict[str, str]
    ) -> Iterator[Server]:
        log = self._directory / f"{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                start,
                env=_environ() | environ,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            _wait_for(process, name, port, log)
            yield Server(name, port, process.pid, log)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                # The server has its own session, so this can only hit the server's children.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environ() -> dict[str, str]:
    """Return the environment for a server.

    The caller's settings and proxies are removed, and what keeps Python from its bytecode caches;
    the package is imported from this clone.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAKRYPT_")}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {"PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE)))}


def python_seconds(code: str) -> list[float]:
    """Run code in a new interpreter and return the numbers that it prints."""
    start = [sys.executable, "-c", code]
    done = subprocess.run(
        start, env=_environ(), capture_output=True, text=True, check=True, timeout=60
    )
    return [float(word) for word in done.stdout.split()]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(process: "subprocess.Popen[bytes]", name: str, port: int, log: Path) -> None:
    """Wait until the server responds to an exchange with a token."""
    deadline = time.monotonic() + 20
    while not _serves_a_token(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} does not answer:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def _serves_a_token(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/auth/exchange/")
        response = connection.getresponse()
        return response.status == 200 and b"access_token" in response.read()
    except OSError:
        return False
    finally:
        connection.close()
