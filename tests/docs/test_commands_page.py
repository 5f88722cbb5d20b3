"""`docs/commands.md` says what the commands are and print."""

import re
from typing import Any, get_args

import click
import pytest
from conftest import create_app
from documents import read, rows, snippets
from flask import Flask

from bakrypt_proxy import create_api_blueprint
from bakrypt_proxy.cli import State
from bakrypt_proxy.sandbox import Sandbox

PAGE = "docs/commands.md"


def command_of(app: Flask, name: str) -> click.Command:
    """Return a command of the blueprint in an app."""
    group: Any = app.cli.commands["bakrypt"]
    command: click.Command = group.commands[name]
    return command


def options_of(command: click.Command) -> set[str]:
    """Return the long options of a command."""
    return {name for parameter in command.params for name in parameter.opts}


def test_each_command_is_listed(app: Flask) -> None:
    """Each one that there is, and no other."""
    listed = set(re.findall(r"^bakrypt (\w+)", snippets(PAGE, "sh")[0], re.MULTILINE))
    group: Any = app.cli.commands["bakrypt"]
    assert listed == set(group.commands)


def test_each_option_of_the_sandbox_is_listed(app: Flask) -> None:
    """Each one that there is, and no other."""
    listed = {cells[0].strip("`") for cells in rows(PAGE, "`--")}
    assert listed == options_of(command_of(app, "sandbox"))


def test_each_option_of_the_other_commands_is_named(app: Flask) -> None:
    """They have few."""
    for name in ("check", "exchange", "token", "refresh"):
        assert options_of(command_of(app, name)) <= set(re.findall(r"--[\w-]+", read(PAGE)))


def test_the_sample_is_what_check_prints(sandbox: Sandbox) -> None:
    """But for the network, with both blueprints, whichever is asked."""
    (sample,) = snippets(PAGE, "text")
    app = create_app(sandbox.environ)
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    address = sandbox.url.removeprefix("http://")
    network = "testnet (https://testnet.bakrypt.io)"
    for name in ("bakrypt", "bakrypt_api"):
        result = app.test_cli_runner().invoke(args=[name, "check"])
        assert result.stdout.replace(f"{address} ({sandbox.url})", network) == sample


def test_each_state_is_listed() -> None:
    """Those that a line of `check` can have, and no other."""
    listed = [
        cells[0].strip("`") for state in get_args(State) for cells in rows(PAGE, f"`{state}`")
    ]
    assert listed == list(get_args(State))
    table = read(PAGE).partition("| state | |")[2].partition("\n\n")[0]
    assert table.count("\n| `") == len(listed)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["check"], 0), (["token", "--username", "x", "--password-stdin"], 1), (["check", "-x"], 2)],
)
def test_exit_codes(app: Flask, arguments: list[str], code: int) -> None:
    """As the page says: success, failure, a wrong option."""
    result = app.test_cli_runner().invoke(args=["bakrypt", *arguments], input="wrong\n")
    assert result.exit_code == code


def test_another_name_gives_other_commands() -> None:
    """The blueprint's name is that of its commands."""
    assert "mainnet" in create_app({}, name="mainnet").cli.commands
