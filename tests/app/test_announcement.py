"""What `flask run` prints for the developer of a page."""

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from flask import Flask
from processes import free_port

from app import create_app

ROOT = Path(__file__).parents[2]


@contextmanager
def flask_run(
    *options: str, environ: dict[str, str] | None = None, end: str = "CTRL+C"
) -> Iterator[str]:
    """Start `flask run` and yield what it prints until it serves."""
    with subprocess.Popen(
        [sys.executable, "-m", "flask", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield read_until(process, end.encode())
        finally:
            process.terminate()


def read_until(process: "subprocess.Popen[bytes]", end: bytes) -> str:
    """Return what a process prints, up to a word."""
    assert process.stdout is not None
    text, deadline = b"", time.monotonic() + 60
    while end not in text:
        assert select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))[0], text
        part = os.read(process.stdout.fileno(), 4096)
        assert part, text
        text += part
    return text.decode()


def test_the_addresses_are_right() -> None:
    """The page, the proxy, the sandbox's API and a line for curl, each as it stands."""
    port = free_port()
    with flask_run("run", "--port", str(port)) as text:
        page = f"http://127.0.0.1:{port}"
        assert f"{page}/\n" in text
        assert f"{page}/auth and {page}/bakrypt\n" in text
        (api,) = re.findall(r"(http://\S+/v1/) \(the sandbox\)", text)
        (line,) = re.findall(r"curl .*", text)
        token = subprocess.run(
            line.split(), capture_output=True, text=True, timeout=10, check=True
        ).stdout
        assert '"access_token"' in token
        bearer = re.findall(r'"access_token": "(\w+)"', token)[0]
        answer = requests.get(
            f"{api}assets/", headers={"Authorization": f"Bearer {bearer}"}, timeout=5
        )
        assert answer.status_code == 200
        assert requests.get(page, timeout=5).status_code == 200


def test_a_real_network_is_named() -> None:
    """With its own address, and no sandbox."""
    options = ["run", "--port", str(free_port())]
    with flask_run(*options, environ={"BAKRYPT_NETWORK": "mainnet"}) as text:
        assert "https://bakrypt.io/v1/\n" in text
        assert "sandbox" not in text


@pytest.mark.parametrize(("public", "is_named"), [("false", True), ("true", False)])
def test_what_opens_exchange(public: str, is_named: bool) -> None:
    """Where exchange is closed, the line for curl names the setting that opens it."""
    options = ["run", "--port", str(free_port())]
    environ = {"BAKRYPT_NETWORK": "testnet", "BAKRYPT_EXCHANGE_PUBLIC": public}
    with flask_run(*options, environ=environ) as text:
        (line,) = re.findall(r"^To try it .*", text, re.MULTILINE)
        assert ("set BAKRYPT_EXCHANGE_PUBLIC=true, then curl" in line) is is_named


@pytest.mark.parametrize("options", [("--debug", "run"), ("run", "--reload")])
def test_the_reloader_prints_it_once(options: tuple[str, ...]) -> None:
    """Its first process only watches the files."""
    port = str(free_port())
    with flask_run(*options, "--port", port, end="/auth/exchange/") as text:
        first, second = text.split("Restarting with")
    assert "curl" not in first
    assert second.count("curl") == 1


def test_a_debugger_of_an_editor() -> None:
    """VS Code and PyCharm set debug mode and start no reloader: this process is the one."""
    with flask_run(
        "run", "--no-reload", "--port", str(free_port()), environ={"FLASK_DEBUG": "1"}
    ) as text:
        assert text.count("curl") == 1


@pytest.mark.parametrize("option", [("--port", "0"), ("--host", "unix://bakrypt-test.sock")])
def test_no_address_is_printed_that_is_none(option: tuple[str, str], tmp_path: Path) -> None:
    """With port 0 it is not known yet; werkzeug prints it later."""
    name, value = option
    value = value.replace("://", f"://{tmp_path}/")
    with flask_run("run", name, value) as text:
        assert "curl" not in text


@pytest.mark.parametrize(
    ("option", "host"),
    [
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104 - the address is what is tested
        ("::1", "[::1]"),
        ("localhost", "localhost"),
    ],
)
def test_the_host_is_one_that_works(option: str, host: str) -> None:
    """Not the address that only listens."""
    port = str(free_port())
    with flask_run("run", "--host", option, "--port", port) as text:
        assert f"http://{host}:{port}/auth" in text


def test_the_sandbox_has_its_usual_port_or_another() -> None:
    """A page can have the port in its code; another program on it stops nothing."""
    first = create_app({"BAKRYPT_NETWORK": "sandbox"})
    second = create_app({"BAKRYPT_NETWORK": "sandbox"})
    sandboxes = [app.extensions["bakrypt_sandbox"] for app in (first, second)]
    with sandboxes[0], sandboxes[1]:
        ports = [sandbox.url.rpartition(":")[2] for sandbox in sandboxes]
        assert ports[1] != "5001"
        with socket.create_connection(("127.0.0.1", 5001), timeout=2):
            pass


@pytest.mark.parametrize(("given", "lifetime"), [({}, 150), ({"BAKRYPT_SANDBOX_LIFETIME": "7"}, 7)])
def test_the_lifetime_is_a_setting(given: dict[str, str], lifetime: int) -> None:
    """Longer than the leeway of clients such as Authlib, and short enough to see a renewal."""
    app: Flask = create_app({"BAKRYPT_NETWORK": "sandbox", **given})
    with app.extensions["bakrypt_sandbox"]:
        response = app.test_client().post(
            "/auth/token/", data={"username": "bob", "password": "bob-password"}
        )
        assert response.get_json()["expires_in"] == lifetime
