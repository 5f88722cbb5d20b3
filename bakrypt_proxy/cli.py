"""The commands `check`, `exchange`, `token` and `sandbox`, over an account."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import click
from flask.cli import ScriptInfo

from .account import Account
from .errors import BakryptError, SettingsError, UpstreamFailedError, UpstreamRefusedError
from .types import AccessToken


def add_commands(
    group: click.Group, find_account: Callable[[], Account], describe_access: Callable[[], str]
) -> None:
    """Add the commands to a group.

    :param find_account: returns the account that the commands work with.
    :param describe_access: returns a sentence that says who may exchange.
    """
    group.help = "Get access tokens from bakrypt, check the settings, run the sandbox."
    group.add_command(_sandbox)

    @group.command()
    def check() -> None:
        """Check settings, connection and credentials. The exit code is 1 if anything is wrong."""
        findings = list(_check(find_account(), describe_access()))
        for finding in findings:
            click.echo(f"{finding.subject:<10}{finding.text}")
        if not all(finding.passed for finding in findings):
            raise click.exceptions.Exit(1)

    @group.command()
    def exchange() -> None:
        """Exchange BAKRYPT_TOKEN for an access token and print it as JSON."""
        _print_token(find_account().client.exchange)

    @group.command()
    @click.option("--username", required=True, help="A user of bakrypt.")
    @click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
    def token(username: str, password_stdin: bool) -> None:
        """Get a user's access token and print it as JSON. Asks for the password."""
        password = _read_password(from_stdin=password_stdin)
        _print_token(lambda: find_account().client.password(username, password))


@contextmanager
def settings_error_explained() -> Iterator[None]:
    """Under the flask command, make a `SettingsError` a message: the list of problems without a traceback above it."""
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


class Finding(NamedTuple):
    """One line of `check`."""

    subject: str
    passed: bool
    text: str


def _check(account: Account, access: str) -> Iterator[Finding]:
    settings, client = account.settings, account.client
    yield Finding("settings", True, f"ok: {settings.url}, timeout {settings.timeout:g} s")
    yield Finding("gate", True, access)
    yield _redis_finding(account)
    exchange_error = _attempt(client.exchange)
    # No user's password is tried: bakrypt looks at the client before it finds the refresh token wanting.
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
        return Finding("redis", True, "off: each process has its own token")
    problem = account.redis_problem()
    return Finding(
        "redis", problem is None, f"not usable: {problem}" if problem else "ok: it works"
    )


def _upstream_finding(errors: list[BakryptError | None]) -> Finding:
    if all(isinstance(error, SettingsError) for error in errors):
        return Finding("upstream", False, "not asked: no credentials are set")
    for error in errors:
        if isinstance(error, UpstreamFailedError):
            return Finding("upstream", False, error.explain())
    return Finding("upstream", True, "ok: it answers")


def _credentials_finding(subject: str, success: str, error: BakryptError | None) -> Finding:
    if error is None:
        return Finding(subject, True, f"ok: {success}")
    if isinstance(error, SettingsError):
        return Finding(subject, True, f"off: {error.description}")
    if isinstance(error, UpstreamFailedError):
        return Finding(subject, False, "unknown: upstream did not say")
    return Finding(subject, False, error.explain())
