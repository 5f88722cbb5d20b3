"""The command `bakrypt`: the same commands in a folder without an app."""

import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from misbehaving import Upstream, replying

from bakrypt_proxy.sandbox import Sandbox

SCRIPT = [str(Path(sys.executable).with_name("bakrypt"))]
MODULE = [sys.executable, "-m", "bakrypt_proxy"]

Completed = subprocess.CompletedProcess[str]


def bakrypt(
    *arguments: str,
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    given: str = "",
    command: list[str] = SCRIPT,
) -> Completed:
    """Run the command, as a script does: without a terminal."""
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def write_settings(path: Path, settings: Mapping[str, str]) -> Path:
    """Write settings to a file as people write them."""
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return path


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_check_without_an_app(command: list[str], sandbox: Sandbox, tmp_path: Path) -> None:
    """It reads `.env` of the folder and needs nothing else."""
    write_settings(tmp_path / ".env", sandbox.environ)
    result = bakrypt("check", cwd=tmp_path, command=command)
    assert (result.returncode, result.stderr) == (0, "")
    subjects = [line.split()[:2] for line in result.stdout.splitlines()]
    assert subjects == [
        ["settings", "ok"],
        ["redis", "off"],
        ["upstream", "ok"],
        ["exchange", "ok"],
        ["token", "ok"],
    ]


def test_exchange_password_and_refresh(sandbox: Sandbox, tmp_path: Path) -> None:
    """The three grants, one after the other, as the documented scripts make them."""
    environ = sandbox.environ
    exchanged = bakrypt("exchange", cwd=tmp_path, environ=environ)
    assert sandbox.store.owner(json.loads(exchanged.stdout)["access_token"]) == "account"
    arguments = ["token", "--username", "alice", "--password-stdin"]
    signed_in = bakrypt(*arguments, cwd=tmp_path, environ=environ, given="alice-password\n")
    token = json.loads(signed_in.stdout)
    given = token["refresh_token"] + "\n"
    refreshed = bakrypt("refresh", "--token-stdin", cwd=tmp_path, environ=environ, given=given)
    assert sandbox.store.owner(json.loads(refreshed.stdout)["access_token"]) == "alice"
    assert sandbox.store.owner(token["access_token"]) is None
    again = bakrypt("refresh", "--token-stdin", cwd=tmp_path, environ=environ, given=given)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("Error: invalid_grant")


def test_the_environment_wins_over_the_file(sandbox: Sandbox, tmp_path: Path) -> None:
    """As with `flask`. `--env-file` is read instead of `.env`."""
    write_settings(tmp_path / ".env", {"BAKRYPT_TIMEOUT": "7"})
    path = write_settings(tmp_path / "other", {**sandbox.environ, "BAKRYPT_TIMEOUT": "8"})
    option = ["--env-file", str(path)]
    first = bakrypt("check", cwd=tmp_path, environ=sandbox.environ).stdout
    second = bakrypt(*option, "check", cwd=tmp_path).stdout
    third = bakrypt(*option, "check", cwd=tmp_path, environ={"BAKRYPT_TIMEOUT": "9"}).stdout
    assert [text.splitlines()[0][-3:] for text in (first, second, third)] == ["7 s", "8 s", "9 s"]


def test_a_file_that_does_not_exist_is_a_wrong_option(tmp_path: Path) -> None:
    """And no silence."""
    result = bakrypt("--env-file", "absent", "check", cwd=tmp_path)
    assert result.returncode == 2
    assert "File 'absent' does not exist" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "option"),
    [(["token", "--username", "alice"], "--password-stdin"), (["refresh"], "--token-stdin")],
)
def test_without_a_terminal(arguments: list[str], option: str, tmp_path: Path) -> None:
    """A secret that cannot be asked for has an option, which the message names."""
    result = bakrypt(*arguments, cwd=tmp_path, given="alice-password\n")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"use {option}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "secret"),
    [(["token", "--username", "alice"], "alice-password"), (["refresh"], None)],
)
def test_on_a_terminal(
    arguments: list[str], secret: str | None, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The secret is asked for and not shown."""
    if secret is None:
        arguments_of_token = ["token", "--username", "bob", "--password-stdin"]
        signed_in = bakrypt(
            *arguments_of_token, cwd=tmp_path, environ=sandbox.environ, given="bob-password\n"
        )
        secret = json.loads(signed_in.stdout)["refresh_token"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*SCRIPT, *arguments],
        cwd=tmp_path,
        env={**os.environ, **sandbox.environ},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = os.read(ours, 1000).decode()
        os.write(ours, f"{secret}\n".encode())
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["token_type"] == "Bearer"
        assert process.wait(timeout=10) == 0
    assert shown.rstrip().endswith(":")
    assert secret not in shown + os.read(ours, 1000).decode()
    os.close(ours)


def test_json_for_machines(sandbox: Sandbox, tmp_path: Path) -> None:
    """One line each, on standard output."""
    checked = bakrypt("check", "--json", cwd=tmp_path, environ=sandbox.environ)
    assert json.loads(checked.stdout)[-1] == {
        "subject": "token",
        "state": "ok",
        "text": "BAKRYPT_CLIENT_ID and BAKRYPT_CLIENT_SECRET are accepted",
    }
    exchanged = bakrypt("exchange", "--json", cwd=tmp_path, environ=sandbox.environ)
    assert json.loads(exchanged.stdout)["token_type"] == "Bearer"
    for result in (checked, exchanged):
        assert result.stdout.count("\n") == 1


def test_a_failed_check_as_json(upstream: Upstream, tmp_path: Path) -> None:
    """The exit code is the same, and all findings are there."""
    upstream.behave = replying(503, b"down")
    result = bakrypt("check", "--json", cwd=tmp_path, environ=upstream.environ)
    assert result.returncode == 1
    states = {finding["subject"]: finding["state"] for finding in json.loads(result.stdout)}
    assert states["upstream"] == "FAILED"


def test_errors_as_json(upstream: Upstream, tmp_path: Path) -> None:
    """On standard error, with what a script needs to try again."""
    upstream.behave = replying(429, {"detail": "Slow."}, "Retry-After: 7")
    result = bakrypt("exchange", "--json", cwd=tmp_path, environ=upstream.environ)
    assert (result.returncode, result.stdout) == (1, "")
    assert json.loads(result.stderr) == {
        "error": "too_many_requests",
        "error_description": "Slow.",
        "retry_after": "7",
    }


def test_wrong_settings(tmp_path: Path) -> None:
    """All of them are named, without a traceback, and as JSON if that was asked for."""
    environ = {"BAKRYPT_TIMEOUT": "x", "BAKRYPT_TOKEN": "planted secret"}
    result = bakrypt("check", cwd=tmp_path, environ=environ)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: these settings need a change:\n")
    assert "BAKRYPT_TIMEOUT is 'x'" in result.stderr
    assert "Traceback" not in result.stderr
    machine = bakrypt("check", "--json", cwd=tmp_path, environ=environ)
    assert "BAKRYPT_TOKEN holds a space" in json.loads(machine.stderr)["error_description"]
    assert "planted" not in result.stderr + machine.stderr


def test_a_misspelt_setting_is_a_warning(sandbox: Sandbox, tmp_path: Path) -> None:
    """On standard error, so that the output stays JSON."""
    environ = {**sandbox.environ, "BAKRYPT_TIMOUT": "3"}
    result = bakrypt("exchange", cwd=tmp_path, environ=environ)
    assert json.loads(result.stdout)["token_type"] == "Bearer"
    assert result.stderr == "Warning: BAKRYPT_TIMOUT is not a setting: is BAKRYPT_TIMEOUT meant?\n"


def test_refused_credentials_name_their_setting(sandbox: Sandbox, tmp_path: Path) -> None:
    """The message says where to look."""
    environ = {**sandbox.environ, "BAKRYPT_TOKEN": "planted-wrong"}
    result = bakrypt("exchange", cwd=tmp_path, environ=environ)
    assert result.returncode == 1
    assert "look at BAKRYPT_TOKEN" in result.stderr
    assert "planted" not in result.stderr


def test_a_port_in_use(sandbox: Sandbox, tmp_path: Path) -> None:
    """A sentence, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = bakrypt("sandbox", "--port", port, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: port {port} cannot be used: Address already in use")


def test_the_sandbox_as_json(tmp_path: Path) -> None:
    """A script in any language reads the settings from the first line."""
    with subprocess.Popen(
        [*SCRIPT, "sandbox", "--port", "0", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        settings = json.loads(process.stdout.readline())
        assert settings["users"]["alice"] == "alice-password"
        checked = bakrypt("check", cwd=tmp_path, environ=settings["environ"])
        process.terminate()
    assert checked.returncode == 0


def test_shell_completion(tmp_path: Path) -> None:
    """As click gives it."""
    script = bakrypt(cwd=tmp_path, environ={"_BAKRYPT_COMPLETE": "bash_source"})
    assert "_bakrypt_completion" in script.stdout
    words = {"_BAKRYPT_COMPLETE": "bash_complete", "COMP_WORDS": "bakrypt re", "COMP_CWORD": "1"}
    assert bakrypt(cwd=tmp_path, environ=words).stdout == "plain,refresh\n"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_that_is_not_utf8(encoding: str, tmp_path: Path) -> None:
    """PowerShell writes UTF-16. A traceback would show nothing to mend."""
    text = "BAKRYPT_TOKEN=planted\nBAKRYPT_CLIENT_ID=J\N{LATIN SMALL LETTER U WITH DIAERESIS}rg\n"
    (tmp_path / ".env").write_bytes(text.encode(encoding))
    result = bakrypt("check", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert ".env cannot be read: it is not UTF-8" in result.stderr
    assert "Traceback" not in result.stderr
    assert "planted" not in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a file")
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is named, without a traceback. Also root cannot read the first byte of this one."""
    result = bakrypt("--env-file", "/proc/self/mem", "check", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Error: /proc/self/mem cannot be read: Input/output error\n"
