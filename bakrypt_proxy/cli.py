"""The commands `check`, `exchange`, `token` and `sandbox`, over an account."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, NamedTuple

import click
from flask.cli import ScriptInfo

from .account import Account
from .errors import BakryptError, SettingsError, UpstreamFailedError, UpstreamRefusedError
from .types import AccessToken

State = Literal["ok", "off", "FAILED"]

_COLOURS: dict[State, str] = {"ok": "green", "off": "yellow", "FAILED": "red"}


class Finding(NamedTuple):
    """One line of `check`."""

    subject: str
    state: State
    text: str


def add_commands(group: click.Group, find: Callable[[], tuple[Account, list[Finding]]]) -> None:
    """Add the commands to a group.

    :param find: called when a command runs. Returns the account to work with, and what is to be
        said of who may call.
    """
    group.help = "Get access tokens from bakrypt, check the settings, run the sandbox."
    group.add_command(_sandbox)

    @group.command()
    def check() -> None:
        """Check settings, connection and credentials. The exit code is 1 if anything is wrong."""
        findings = list(_check(*find()))
        for finding in findings:
            state = click.style(f"{finding.state:<7}", _COLOURS[finding.state])
            click.echo(f"{finding.subject:<10}{state}{finding.text}")
        if any(finding.state == "FAILED" for finding in findings):
            raise click.exceptions.Exit(1)

    @group.command()
    def exchange() -> None:
        """Exchange BAKRYPT_TOKEN for an access token and print it as JSON."""
        _print_token(find()[0].client.exchange)

    @group.command()
    @click.option("--username", required=True, help="A user of bakrypt.")
    @click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
    def token(username: str, password_stdin: bool) -> None:
        """Get a user's access token and print it as JSON. Asks for the password."""
        password = _read_password(from_stdin=password_stdin)
        _print_token(lambda: find()[0].client.password(username, password))


@contextmanager
def settings_error_explained() -> Iterator[None]:
    """Under the `flask` command, turn a `SettingsError` into a message without a traceback."""
    try:
        yield
    except SettingsError as error:
        context = click.get_current_context(silent=True)
        if context is None or context.find_object(ScriptInfo) is None:
            raise
        raise click.ClickException(f"these settings need a change:\n{error.description}") from error


_SECONDS = click.FloatRange(0)


@click.command("sandbox")
@click.option(
    "--port",
    default=5001,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes a free one.",
)
@click.option(
    "--expires-in",
    default=36000,
    show_default=True,
    type=click.IntRange(1),
    help="A token's lifetime, in s.",
)
@click.option(
    "--delay", default=0.0, show_default=True, type=_SECONDS, help="Answer after so many s."
)
@click.option("--fail", type=click.IntRange(500, 599), help="Answer everything with this status.")
@click.option(
    "--throttle",
    type=click.IntRange(0),
    help="Answer everything with 429 and this Retry-After, in s.",
)
def _sandbox(
    port: int, expires_in: int, delay: float, fail: int | None, throttle: int | None
) -> None:
    """Run a stand-in for bakrypt on this machine, with made-up users and worthless tokens."""
    try:
        from .sandbox import USERS, Sandbox  # noqa: PLC0415 - the extra may not be installed
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'bakrypt_proxy[sandbox]'"
        ) from error
    server = Sandbox(expires_in=expires_in, quiet=False)
    server.delay, server.fail, server.throttle = delay, fail, throttle
    with server.listen(port):
        click.echo(f"The sandbox listens on {server.url} (CTRL+C ends it). To use it:\n")
        for name, value in server.environ.items():
            click.echo(f"export {name}={value}")
        click.echo("\nIts users: " + ", ".join(f"{name} / {word}" for name, word in USERS.items()))
        with suppress(KeyboardInterrupt):
            server.wait()


def _read_password(*, from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = str(click.prompt("Password", hide_input=True, err=True))
    if not password:
        raise click.ClickException("the password is empty")
    return password


def _print_token(grant: Callable[[], AccessToken]) -> None:
    try:
        click.echo(json.dumps(grant(), indent=2))
    except BakryptError as error:
        raise click.ClickException(error.explain()) from error


def _check(account: Account, access: list[Finding]) -> Iterator[Finding]:
    settings, client = account.settings, account.client
    where = f"{settings.network} ({settings.url}), timeout {settings.timeout:g} s"
    yield Finding("settings", "ok", where)
    yield from access
    yield _redis_finding(account)
    exchange_error = _attempt(client.exchange)
    # No user's password is needed: bakrypt checks the client before it refuses the refresh token.
    token_error = _attempt(lambda: client.refresh("flask-bakrypt-check"))
    if isinstance(token_error, UpstreamRefusedError) and token_error.error == "invalid_grant":
        token_error = None
    yield _upstream_finding([exchange_error, token_error])
    yield _credentials_finding("exchange", "BAKRYPT_TOKEN is accepted", exchange_error)
    yield _credentials_finding(
        "token", "BAKRYPT_CLIENT_ID and BAKRYPT_CLIENT_SECRET are accepted", token_error
    )


def _attempt(grant: Callable[[], object]) -> BakryptError | None:
    try:
        grant()
    except BakryptError as error:
        return error
    return None


def _redis_finding(account: Account) -> Finding:
    if account.settings.redis_url is None:
        return Finding("redis", "off", "each process has its own token")
    problem = account.redis_problem()
    if problem is None:
        return Finding("redis", "ok", "it works")
    return Finding("redis", "FAILED", f"not usable: {problem}: look at BAKRYPT_REDIS_URL")


def _upstream_finding(errors: list[BakryptError | None]) -> Finding:
    if all(isinstance(error, SettingsError) for error in errors):
        return Finding("upstream", "FAILED", "not asked: set BAKRYPT_TOKEN or BAKRYPT_CLIENT_ID")
    for error in errors:
        if isinstance(error, UpstreamFailedError):
            return Finding("upstream", "FAILED", error.explain())
    return Finding("upstream", "ok", "it answers")


def _credentials_finding(subject: str, success: str, error: BakryptError | None) -> Finding:
    if error is None:
        return Finding(subject, "ok", success)
    if isinstance(error, SettingsError):
        return Finding(subject, "off", str(error))
    if isinstance(error, UpstreamFailedError):
        return Finding(subject, "FAILED", "unknown: upstream did not say")
    return Finding(subject, "FAILED", error.explain())
