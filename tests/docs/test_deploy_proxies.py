"""The proxies of `docs/deploy.md`: the real servers, in front of our app on our server."""

import http.client
import itertools
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from documents import snippets
from processes import ROOT, free_port, is_up, wait_until

from bakrypt_proxy.sandbox import Sandbox

pytestmark = pytest.mark.slow

PAGE = "docs/deploy.md"
SERVED = "shop.example.com"
WRONG = json.dumps({"username": "alice", "password": "wrong"})
_callers = (f"127.0.0.{number}" for number in itertools.count(2))


class Proxy(NamedTuple):
    """A proxy, and how to run a configuration of the page.

    :param around: what surrounds the configuration, in which `BLOCKS` is replaced by it.
    :param refusal: the status for another host name.
    """

    command: tuple[str, ...]
    around: str
    refusal: int


_APACHE_MODULES = ["mpm_event", "authz_core", "headers", "proxy", "proxy_http", "ssl"]
PROXIES = {
    "nginx": Proxy(
        ("nginx", "-e", "stderr", "-p", "FOLDER", "-c"),
        "daemon off; user root; pid FOLDER/pid; worker_processes 1; events {} http {"
        "access_log off; client_body_temp_path FOLDER; proxy_temp_path FOLDER; "
        "fastcgi_temp_path FOLDER; scgi_temp_path FOLDER; uwsgi_temp_path FOLDER;\nBLOCKS}",
        refusal=421,
    ),
    "haproxy": Proxy(("haproxy", "-db", "-f"), "BLOCKS", refusal=421),
    "apache": Proxy(
        ("apache2", "-X", "-f"),
        "ServerName localhost\nServerRoot FOLDER\nDefaultRuntimeDir FOLDER\nPidFile FOLDER/pid\n"
        "ErrorLog FOLDER/log\nMutex file:FOLDER\nListen *:443\n"
        + "".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
            for name in _APACHE_MODULES
        )
        + "BLOCKS",
        refusal=403,
    ),
}
ALL = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            shutil.which(proxy.command[0]) is None, reason=f"{name} is not installed"
        ),
    )
    for name, proxy in PROXIES.items()
]


class Running(NamedTuple):
    """A proxy that runs."""

    proxy: Proxy
    port: int
    trust: ssl.SSLContext

    def post(
        self, path: str, headers: Mapping[str, str], *, body: str = "", caller: str = "127.0.0.1"
    ) -> tuple[int, str]:
        """Send a request over TLS and return the status and the body of the response.

        :param caller: the address to send it from.
        """
        connection = http.client.HTTPConnection(SERVED)
        plain = socket.create_connection(("127.0.0.1", self.port), 10, (caller, 0))
        with self.trust.wrap_socket(plain, server_hostname=SERVED) as connection.sock:
            kind = {"Content-Type": "application/json"}
            connection.request("POST", path, body, {"Host": SERVED, **kind, **headers})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def guess(self, headers: Mapping[str, str], *, caller: str) -> int:
        """Try a wrong password and return the status."""
        return self.post("/auth/token/", headers, body=WRONG, caller=caller)[0]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of our app on our server, with the settings of the page and 3 attempts an hour."""
    port = free_port()
    command = [sys.executable, "-m", "bakrypt_proxy.server", "--port", str(port)]
    with Sandbox().listen() as sandbox:
        settings = {"BAKRYPT_NETWORK": "sandbox", "BAKRYPT_URL": sandbox.url}
        settings |= {"BAKRYPT_RATE_LIMIT": "3 per hour", **settings_of_the_page()}
        log = tmp_path_factory.mktemp("server") / "log"
        with run([*command, "--factory", "app:create_app"], log, settings):
            wait_until(lambda: is_up(f"http://127.0.0.1:{port}"), 20)
            yield port


def settings_of_the_page() -> dict[str, str]:
    """The settings for an app behind a proxy."""
    (block,) = [block for block in snippets(PAGE, "sh") if "BAKRYPT_TRUSTED_HOSTS" in block]
    return dict(line.split("=") for line in block.splitlines())


def configuration_of(name: str) -> str:
    """The page's configuration of a proxy for a host name."""
    (block,) = [block for block in snippets(PAGE, name) if SERVED in block]
    return block


@contextmanager
def run(command: list[str], log: Path, settings: Mapping[str, str]) -> Iterator[None]:
    """Run a program and stop it at the end."""
    environ = {**os.environ, **settings}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=output) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def serve(name: str, configuration: str, app: int, folder: Path) -> Iterator[Running]:
    """Run a proxy with a configuration that gets its ports, addresses and certificates here."""
    authority, proxy, port = trustme.CA(), PROXIES[name], free_port()
    certificate = authority.issue_cert(SERVED)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "shop.pem")
    certificate.private_key_pem.write_to_path(folder / "shop.key")
    for text in ("443", "127.0.0.1:8000", "/etc/ssl/shop.pem"):
        assert text in configuration
    text = proxy.around.replace("BLOCKS", configuration).replace("/etc/ssl/", "FOLDER/")
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{app}").replace("FOLDER", str(folder))
    text = re.sub(r"(\*?:)?\b443\b", f"127.0.0.1:{port}", text)
    (folder / "configuration").write_text(text)
    command = [part.replace("FOLDER", str(folder)) for part in proxy.command]
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with run([*command, str(folder / "configuration")], folder / "output", {}):
        wait_until(lambda: is_listening(port))
        yield Running(proxy, port, trust)


def is_listening(port: int) -> bool:
    """Return whether a connection to the port is accepted."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


@pytest.fixture(scope="module", params=ALL)
def proxy(
    request: pytest.FixtureRequest, app: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A proxy with its configuration from the page."""
    configuration = configuration_of(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    with serve(request.param, configuration, app, folder) as running:
        yield running


FORGED = [
    ["X-Forwarded-For"],
    ["X_Forwarded_For"],
    ["x_forwarded_for"],
    ["X-Forwarded_For"],
    ["X_Forwarded-For"],
    # Which of two a server keeps depends on their order.
    ["X-Forwarded-For", "X_Forwarded_For"],
    ["X-Forwarded-For", "X-Forwarded_For"],
    ["X-Forwarded-For", "X_Forwarded-For"],
    ["X_Forwarded_For", "X-Forwarded-For"],
]


@pytest.mark.parametrize("names", FORGED, ids="+".join)
def test_a_forged_address_does_not_help(proxy: Running, names: list[str]) -> None:
    """The limit holds for a caller who writes another address into each attempt."""
    caller = next(_callers)
    statuses = [
        proxy.guess(dict.fromkeys(names, f"8.8.8.{number}"), caller=caller) for number in range(5)
    ]
    assert statuses == [400, 400, 400, 429, 429]


def test_a_proxy_header_cannot_be_removed(proxy: Running) -> None:
    """A caller who lists it in `Connection` has no other address either."""
    caller = next(_callers)
    listed = {"Connection": "close, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host"}
    statuses = [proxy.guess(listed, caller=caller) for _ in range(4)]
    assert statuses == [400, 400, 400, 429]


def test_callers_are_told_apart(proxy: Running) -> None:
    """The app counts by the address from which the proxy was called."""
    one, other = next(_callers), next(_callers)
    assert [proxy.guess({}, caller=one) for _ in range(4)] == [400, 400, 400, 429]
    assert proxy.guess({"X-Forwarded-For": one}, caller=other) == 400


@pytest.mark.parametrize("name", ["haproxy"])
def test_without_the_line_a_forged_address_helps(name: str, app: int, tmp_path: Path) -> None:
    """`option forwardfor` leaves the name with underscores, and the app cannot notice it."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    configuration = configuration_of(name)
    weak = re.sub(r"http-request (del-header _|set-header X-Forwarded-For).*", "", configuration)
    weak = weak.replace("frontend shop", "frontend shop\n    option forwardfor")
    caller = next(_callers)
    with serve(name, weak, app, tmp_path) as proxy:
        forged = [{"X_Forwarded_For": f"8.8.4.{number}"} for number in range(30)]
        assert [proxy.guess(headers, caller=caller) for headers in forged] == [400] * 30


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"X-Forwarded-Host": "localhost"},
        {"X-Forwarded-Host": SERVED},
        {"X-Forwarded-Proto": "http", "X-Forwarded-For": "127.0.0.1"},
        {"X_Forwarded_Host": "localhost"},
        {"Forwarded": "host=localhost"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:443", f"{SERVED}.evil.example", "127.0.0.1", "localhost"]
)
def test_another_host_name_is_refused(proxy: Running, host: str, forged: dict[str, str]) -> None:
    """A page whose name points at this server reaches nothing behind the proxy."""
    page = {"Host": host, "Origin": f"https://{host}", "Sec-Fetch-Site": "same-origin"}
    status, body = proxy.post("/auth/exchange/", {**page, **forged})
    assert status == proxy.proxy.refusal
    assert "access_token" not in body


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"X-Forwarded-Proto": "http"},
        {"X-Forwarded-Host": "evil.example"},
        *(
            {f"X-Forwarded-{name}": value, f"X{one}Forwarded{other}{name}": value}
            for name, value in (("Proto", "http"), ("Host", "evil.example"))
            for one, other in ("__", "-_", "_-")
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("metadata", [{}, {"Sec-Fetch-Site": "same-origin"}], ids=["old", "new"])
def test_our_own_page_may_call(
    proxy: Running, metadata: dict[str, str], forged: dict[str, str]
) -> None:
    """The app knows its origin by the scheme and host of the proxy, whatever the caller sends."""
    page = {"Origin": f"https://{SERVED}", **metadata}
    status, body = proxy.post("/auth/exchange/", {**page, **forged})
    assert (status, "access_token" in json.loads(body)) == (200, True)


@pytest.mark.parametrize(
    "forged",
    [
        {"X-Forwarded-Host": "evil.example"},
        {"X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "https"},
    ],
    ids=str,
)
def test_the_host_of_a_foreign_page_cannot_be_forged(
    proxy: Running, forged: dict[str, str]
) -> None:
    """Its origin is not ours, also if it says that the proxy was called by its own name."""
    page = {"Origin": "https://evil.example"}
    assert proxy.post("/auth/exchange/", {**page, **forged})[0] == 403


@contextmanager
def two_machines(app: int, other: int, folder: Path) -> Iterator[Running]:
    """The page's nginx as the balancer of two machines, of which our app is the first."""
    (machines,) = [block for block in snippets(PAGE, "nginx") if "upstream" in block]
    machines = machines.replace("10.0.0.12:8000", f"127.0.0.1:{other}")
    machines = machines.replace("10.0.0.11:8000", f"127.0.0.1:{app}")
    locations = configuration_of("nginx").replace("//127.0.0.1:8000", "//bakrypt_proxy")
    with serve("nginx", f"{machines}\n{locations}# 127.0.0.1:8000\n", app, folder) as proxy:
        yield proxy


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_a_machine_that_is_down(app: int, tmp_path: Path) -> None:
    """Its requests go to the other one."""
    page = {"Origin": f"https://{SERVED}"}
    with two_machines(app, free_port(), tmp_path) as proxy:
        assert [proxy.post("/auth/exchange/", page)[0] for _ in range(6)] == [200] * 6


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_a_machine_that_goes_down_during_a_request(app: int, tmp_path: Path) -> None:
    """The POST that it has received is not sent to the other one, too."""
    page = {"Origin": f"https://{SERVED}"}
    with socket.create_server(("127.0.0.1", 0)) as dying:
        thread = threading.Thread(target=receive_and_close, args=[dying])
        thread.start()
        with two_machines(app, dying.getsockname()[1], tmp_path) as proxy:
            statuses = [proxy.post("/auth/exchange/", page)[0] for _ in range(4)]
        thread.join()
    assert sorted(statuses) == [200, 200, 200, 502]


def receive_and_close(listener: socket.socket) -> None:
    """Read one request and close its connection without a response."""
    listener.settimeout(20)
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(65536).startswith(b"POST ")
