"""The commands: JSON on standard output, errors on standard error, useful exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from conftest import create_app
from flask import Flask
from misbehaving import Upstream, echo_as_error, replying

from bakrypt_proxy import create_api_blueprint
from bakrypt_proxy.sandbox import Sandbox

ROOT = Path(__file__).parent.parent


def test_exchange_prints_json(app: Flask) -> None:
    """`exchange` prints JSON on standard output and nothing else."""
    result = app.test_cli_runner().invoke(args=["bakrypt", "exchange"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["token_type"] == "Bearer"
    assert result.stderr == ""


def test_token_reads_the_password_from_standard_input(app: Flask) -> None:
    """With `--password-stdin` a script can pass the password."""
    arguments = ["bakrypt", "token", "--username", "alice", "--password-stdin"]
    result = app.test_cli_runner().invoke(args=arguments, input="alice-password\r\n")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["token_type"] == "Bearer"
    assert result.stderr == ""


def test_a_password_with_a_bom(app: Flask) -> None:
    """Notepad writes one, and nobody sees it."""
    arguments = ["bakrypt", "token", "--username", "alice", "--password-stdin"]
    result = app.test_cli_runner().invoke(args=arguments, input="\ufeffalice-password\r\n")
    assert result.exit_code == 0


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["token", "--username", "alice", "--password-stdin"], "password"),
        (["refresh", "--token-stdin"], "refresh token"),
    ],
)
def test_a_secret_that_is_not_utf8(
    app: Flask, arguments: list[str], name: str, encoding: str
) -> None:
    """PowerShell writes UTF-16. A traceback would not say what to mend."""
    given = "s\N{LATIN SMALL LETTER U WITH DIAERESIS}ss\n".encode(encoding)
    result = app.test_cli_runner().invoke(args=["bakrypt", *arguments], input=given)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: the {name} is not UTF-8")


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (
            ["token", "--username", "alice", "--password-stdin"],
            "wrong\n",
            "invalid_grant: Invalid credentials given.",
        ),
        (["token", "--username", "alice", "--password-stdin"], "", "the password is empty"),
    ],
)
def test_errors_go_to_standard_error(
    app: Flask, arguments: list[str], given: str, message: str
) -> None:
    """A command that fails exits with 1 and prints nothing on standard output."""
    result = app.test_cli_runner().invoke(args=["bakrypt", *arguments], input=given)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"Error: {message}\n"


def test_exchange_without_a_token_says_what_to_set() -> None:
    """The message names the settings to set."""
    result = create_app({}).test_cli_runner().invoke(args=["bakrypt", "exchange"])
    assert result.exit_code == 1
    assert "set BAKRYPT_TOKEN or BAKRYPT_TOKEN_FILE" in result.stderr


def check(app: Flask) -> tuple[int, dict[str, str]]:
    """Run `bakrypt check`; return its exit code and its lines by subject."""
    result = app.test_cli_runner().invoke(args=["bakrypt", "check"])
    lines = [line.split(None, 1) for line in result.stdout.splitlines()]
    assert all(rest.split()[0] in {"ok", "off", "FAILED"} for _, rest in lines)
    return result.exit_code, {subject: " ".join(rest.split()) for subject, rest in lines}


def test_check_of_a_correct_setup(app: Flask, sandbox: Sandbox) -> None:
    """`check` prints one line for each subject and tries no user's password."""
    code, lines = check(app)
    assert code == 0
    assert lines == {
        "settings": f"ok {sandbox.url.removeprefix('http://')} ({sandbox.url}), timeout 10 s",
        "gate": "ok exchange is open to those whom authorize lets in",
        "redis": "off each process has its own token",
        "upstream": "ok it answers",
        "exchange": "ok BAKRYPT_TOKEN is accepted",
        "token": "ok BAKRYPT_CLIENT_ID and BAKRYPT_CLIENT_SECRET are accepted",
    }


def test_check_of_a_redis_that_nothing_uses(sandbox: Sandbox) -> None:
    """Without the secret of exchange there is no token to share, and Redis is not asked."""
    environ = {**sandbox.environ, "BAKRYPT_REDIS_URL": "redis://127.0.0.1:1/0"}
    del environ["BAKRYPT_TOKEN"]
    _, lines = check(create_app(environ))
    assert lines["redis"] == "off no token is shared: BAKRYPT_TOKEN is not set"


def test_check_of_refused_credentials(sandbox: Sandbox) -> None:
    """If bakrypt refuses credentials, the line names their settings."""
    wrong = {"BAKRYPT_TOKEN": "planted-wrong", "BAKRYPT_CLIENT_SECRET": "planted-wrong"}
    code, lines = check(create_app(sandbox.environ | wrong))
    assert code == 1
    assert lines["upstream"] == "ok it answers"
    assert "look at BAKRYPT_TOKEN" in lines["exchange"]
    assert "look at BAKRYPT_CLIENT_ID and BAKRYPT_CLIENT_SECRET" in lines["token"]
    assert "planted" not in str(lines)


def test_check_of_an_upstream_that_fails(upstream: Upstream) -> None:
    """If bakrypt fails, the lines on the credentials say that the result is unknown."""
    upstream.behave = replying(503, b"down")
    code, lines = check(create_app(upstream.environ))
    assert code == 1
    assert lines["upstream"].startswith("FAILED server_error: bakrypt failed (status 503)")
    assert lines["exchange"] == lines["token"] == "FAILED unknown until upstream answers"


def test_check_with_credentials_for_exchange_only(sandbox: Sandbox) -> None:
    """An app that only exchanges needs no OAuth client."""
    code, lines = check(
        create_app({key: sandbox.environ[key] for key in ("BAKRYPT_URL", "BAKRYPT_TOKEN")})
    )
    assert code == 0
    assert lines["token"].startswith("off ")


def test_check_without_credentials() -> None:
    """Without credentials there is nothing to check, and the exit code is 1."""
    code, lines = check(create_app({}))
    assert code == 1
    assert lines["upstream"].startswith("FAILED not asked: set BAKRYPT_TOKEN")


@pytest.mark.parametrize("proxy", ["socks5://proxy.example:1080", "http://"])
def test_check_of_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's setting is named; the credentials are set and nobody could try them."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    config = {"BAKRYPT_TOKEN": "t", "BAKRYPT_CLIENT_ID": "c", "BAKRYPT_CLIENT_SECRET": "s"}
    code, lines = check(create_app(config))
    assert code == 1
    assert lines["upstream"].startswith("FAILED")
    assert "HTTPS_PROXY" in lines["upstream"]
    assert lines["exchange"] == lines["token"] == "FAILED unknown until upstream answers"


def test_check_of_an_unexpected_refusal(upstream: Upstream) -> None:
    """A throttled request proves nothing about the credentials, so the exit code is 1."""
    upstream.behave = replying(429, {"detail": "Slow."})
    code, lines = check(create_app(upstream.environ))
    assert code == 1
    assert lines["exchange"] == lines["token"] == "FAILED too_many_requests: Slow."


def test_check_is_coloured_on_a_terminal(app: Flask) -> None:
    """And plain where it is piped."""
    plain = app.test_cli_runner().invoke(args=["bakrypt", "check"]).stdout
    coloured = app.test_cli_runner().invoke(args=["bakrypt", "check"], color=True).stdout
    assert "\x1b[32mok" in coloured
    assert "\x1b" not in plain


def test_check_names_the_network() -> None:
    """A mix-up of testnet and mainnet is seen at once."""
    _, lines = check(create_app({"BAKRYPT_NETWORK": "mainnet", "BAKRYPT_TIMEOUT": "0.1"}))
    assert lines["settings"] == "ok mainnet (https://bakrypt.io), timeout 0.1 s"


def test_check_of_a_closed_exchange(sandbox: Sandbox) -> None:
    """It is off, which is no failure, and says both ways out."""
    code, lines = check(create_app(sandbox.environ, authorize=None))
    assert code == 0
    assert lines["gate"].startswith("off exchange is closed: pass authorize= ")


@pytest.mark.parametrize(
    ("network", "key", "warns"),
    [("mainnet", None, True), ("mainnet", "k" * 32, False), ("testnet", None, False)],
)
def test_check_of_receipts_without_a_key(network: str, key: str | None, warns: bool) -> None:
    """On mainnet a new secret would make open transactions unreachable."""
    config = {"BAKRYPT_NETWORK": network, "BAKRYPT_TOKEN": "t", "BAKRYPT_TIMEOUT": "0.1"}
    app = create_app({**config, "BAKRYPT_COOKIE_KEY": key})
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    _, lines = check(app)
    assert ("receipts" in lines) is warns
    assert lines["api"].startswith("ok the API is open")


def test_an_upstream_that_repeats_the_secret_is_not_quoted(upstream: Upstream) -> None:
    """No secret reaches the terminal, which may be recorded."""
    upstream.behave = echo_as_error
    result = create_app(upstream.environ).test_cli_runner().invoke(args=["bakrypt", "check"])
    assert "planted-client-secret" not in result.output
    assert "planted-exchange-secret" not in result.output


def flask(*arguments: str, environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run the flask command as a user would, in this repository."""
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_wrong_settings_are_a_list_and_no_traceback() -> None:
    """A flask command lists the problems of the settings without a traceback."""
    environ = {
        "BAKRYPT_NETWORK": "mainnet",
        "BAKRYPT_TIMEOUT": "x",
        "BAKRYPT_TOKEN": "planted secret",
    }
    result = flask("bakrypt", "check", environ=environ)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "BAKRYPT_TIMEOUT is 'x'" in result.stderr
    assert "BAKRYPT_TOKEN holds a space" in result.stderr
    assert "planted" not in result.stderr


def test_a_misspelt_setting_is_a_warning() -> None:
    """Once, and without its value."""
    result = flask("bakrypt", "check", environ={"BAKRYPT_TOKE": "planted"})
    assert result.stderr.count("BAKRYPT_TOKE is not a setting: is BAKRYPT_TOKEN meant?") == 1
    assert "planted" not in result.stderr + result.stdout


def test_the_standalone_sandbox() -> None:
    """`sandbox` prints the settings to set, serves, and exits with 0 after CTRL+C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "bakrypt", "sandbox", "--port", "0", "--expires-in", "5"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
    )
    assert process.stdout is not None
    with process:
        environ: dict[str, str] = {}
        for line in process.stdout:
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                environ[name] = value
            if line.startswith("Its users: "):
                break
        secret = environ["BAKRYPT_TOKEN"]
        headers = {"Authorization": f"Token {secret}"}
        response = requests.post(
            f"{environ['BAKRYPT_URL']}/auth/exchange/", headers=headers, timeout=5
        )
        assert response.json()["expires_in"] == 5
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
