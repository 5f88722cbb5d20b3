"""The commands `check`, `exchange`, `token`, `refresh` and `sandbox`, over an account."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Literal, NamedTuple

import click
from flask.cli import ScriptInfo

from .account import Account
from .errors import BakryptError, SettingsError, UpstreamFailedError, UpstreamRefusedError
from .types import AccessToken

State = Literal["ok", "off", "FAILED"]

_COLOURS: dict[State, str] = {"ok": "green", "off": "yellow", "FAILED": "red"}
_NO_ANSWER = (UpstreamFailedError, SettingsError)  # the latter: a proxy that cannot be used
_SECONDS = click.FloatRange(0)


class Finding(NamedTuple):
    """One line of `check`."""

    subject: str
    state: State
    text: str


# Called when a command runs. Returns the account to work with, and what is to be said of who may
# call.
FindAccount = Callable[[], tuple[Account, list[Finding]]]


class _Failure(click.ClickException):
    """Ends a command with an error of ours on standard error, as text or as JSON."""

    def __init__(self, error: BakryptError, *, as_json: bool = False) -> None:
        is_list = isinstance(error, SettingsError) and len(error.problems) > 1
        super().__init__(f"these settings need a change:\n{error}" if is_list else str(error))
        self._json = json.dumps(_described(error)) if as_json else None

    def show(self, file: IO[Any] | None = None) -> None:
        """Write it."""
        if self._json is None:
            super().show(file)
        else:
            click.echo(self._json, file=file, err=True)


def _described(error: BakryptError) -> dict[str, str]:
    """Return the `ErrorResponse` of an error, with what only the operator may see."""
    found: dict[str, str] = {**error.response}  # type: ignore[dict-item] # TypedDict
    more = {"detail": error.detail, "retry_after": error.retry_after}
    return found | {name: value for name, value in more.items() if value}


@contextmanager
def _failing(*, as_json: bool) -> Iterator[None]:
    try:
        yield
    except BakryptError as error:
        raise _Failure(error, as_json=as_json) from error


@contextmanager
def settings_error_explained() -> Iterator[None]:
    """Under the `flask` command, turn a `SettingsError` into a message without a traceback."""
    try:
        yield
    except SettingsError as error:
        context = click.get_current_context(silent=True)
        if context is None or context.find_object(ScriptInfo) is None:
            raise
        raise _Failure(error) from error


_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one line of JSON, for errors too."
)


def add_commands(group: click.Group, find: FindAccount) -> None:
    """Add the commands to a group.

    :param find: called when a command runs. Returns the account to work with, and what is to be
        said of who may call.
    """
    group.help = "Get access tokens from bakrypt, check the settings, run the sandbox."
    for add in (_add_check, _add_exchange, _add_token, _add_refresh):
        add(group, find)
    group.add_command(_sandbox)


def _add_check(group: click.Group, find: FindAccount) -> None:
    @group.command()
    @_json_option
    def check(*, as_json: bool) -> None:
        """Check settings, connection and credentials. The exit code is 1 if anything is wrong."""
        with _failing(as_json=as_json):
            findings = list(_check(*find()))
        if as_json:
            click.echo(json.dumps([finding._asdict() for finding in findings]))
        for finding in [] if as_json else findings:
            state = click.style(f"{finding.state:<7}", _COLOURS[finding.state])
            click.echo(f"{finding.subject:<10}{state}{finding.text}")
        if any(finding.state == "FAILED" for finding in findings):
            raise click.exceptions.Exit(1)


def _add_exchange(group: click.Group, find: FindAccount) -> None:
    @group.command()
    @_json_option
    def exchange(*, as_json: bool) -> None:
        """Exchange BAKRYPT_TOKEN for an access token and print it as JSON."""
        with _failing(as_json=as_json):
            _print_token(find()[0].client.exchange(), as_json=as_json)


def _add_token(group: click.Group, find: FindAccount) -> None:
    @group.command()
    @click.option("--username", required=True, help="A user of bakrypt.")
    @click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
    @_json_option
    def token(username: str, *, password_stdin: bool, as_json: bool) -> None:
        """Get a user's access token and print it as JSON. Asks for the password."""
        password = _read_secret("password", "--password-stdin", from_stdin=password_stdin)
        with _failing(as_json=as_json):
            _print_token(find()[0].client.password(username, password), as_json=as_json)


def _add_refresh(group: click.Group, find: FindAccount) -> None:
    @group.command()
    @click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
    @_json_option
    def refresh(*, token_stdin: bool, as_json: bool) -> None:
        """Trade a refresh token for a new access token and print it as JSON. Asks for it."""
        token = _read_secret("refresh token", "--token-stdin", from_stdin=token_stdin)
        with _failing(as_json=as_json):
            _print_token(find()[0].client.refresh(token), as_json=as_json)


def _read_secret(name: str, option: str, *, from_stdin: bool) -> str:
    """Read a secret from the terminal, or the first line of standard input.

    :param name: what to ask for.
    :param option: what to use where there is no terminal.
    """
    if from_stdin:
        secret = _read_line(name)
    elif sys.stdin.isatty():
        secret = str(click.prompt(name.capitalize(), hide_input=True, err=True))
    else:
        raise click.UsageError(f"there is no terminal to ask for the {name}: use {option}")
    if not secret:
        raise click.ClickException(f"the {name} is empty")
    return secret


def _read_line(name: str) -> str:
    with suppress(UnicodeDecodeError):  # that error holds the secret
        # Notepad begins a file with a BOM.
        return sys.stdin.readline().removeprefix("\ufeff").rstrip("\r\n")
    raise click.ClickException(f"the {name} is not UTF-8 (PowerShell writes UTF-16 with >)")


def _print_token(token: AccessToken, *, as_json: bool) -> None:
    click.echo(json.dumps(token, indent=None if as_json else 2))


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
@click.option("--json", "as_json", is_flag=True, help="Print the settings as one line of JSON.")
def _sandbox(  # noqa: PLR0913 - one for each option
    *,
    port: int,
    expires_in: int,
    delay: float,
    fail: int | None,
    throttle: int | None,
    as_json: bool,
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
    try:
        server.listen(port)
    except OSError as error:
        raise click.ClickException(f"port {port} cannot be used: {error.strerror}") from error
    with server:
        if as_json:
            click.echo(json.dumps({"environ": server.environ, "users": USERS}))
        else:
            _print_environ(server.url, server.environ, USERS)
        with suppress(KeyboardInterrupt):
            server.wait()


def _print_environ(url: str, environ: dict[str, str], users: dict[str, str]) -> None:
    click.echo(f"The sandbox listens on {url} (CTRL+C ends it). To use it:\n")
    for name, value in environ.items():
        click.echo(f"export {name}={value}")
    click.echo("\nIts users: " + ", ".join(f"{name} / {word}" for name, word in users.items()))


class _Tried(NamedTuple):
    """A grant that `check` has tried, and the error that it met."""

    name: str
    credentials: str
    is_set_up: bool
    error: BakryptError | None


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
    grants = [
        _Tried("exchange", "BAKRYPT_TOKEN is", account.has_token, exchange_error),
        _Tried(
            "token",
            "BAKRYPT_CLIENT_ID and BAKRYPT_CLIENT_SECRET are",
            account.has_client,
            token_error,
        ),
    ]
    yield _upstream_finding([grant.error for grant in grants if grant.is_set_up])
    yield from map(_credentials_finding, grants)


def _attempt(grant: Callable[[], object]) -> BakryptError | None:
    try:
        grant()
    except BakryptError as error:
        return error
    return None


def _redis_finding(account: Account) -> Finding:
    if account.settings.redis_url is None:
        return Finding("redis", "off", "each process has its own token")
    if not account.uses_redis:
        return Finding("redis", "off", "no token is shared: BAKRYPT_TOKEN is not set")
    problem = account.redis_problem()
    if problem is None:
        return Finding("redis", "ok", "it works")
    return Finding("redis", "FAILED", f"not usable: {problem}: look at BAKRYPT_REDIS_URL")


def _upstream_finding(errors: list[BakryptError | None]) -> Finding:
    """Say whether bakrypt answers; `errors` are those of the grants that are set up."""
    if not errors:
        return Finding("upstream", "FAILED", "not asked: set BAKRYPT_TOKEN or BAKRYPT_CLIENT_ID")
    for error in errors:
        if isinstance(error, _NO_ANSWER):
            return Finding("upstream", "FAILED", str(error))
    return Finding("upstream", "ok", "it answers")


def _credentials_finding(grant: _Tried) -> Finding:
    name, error = grant.name, grant.error
    if error is None:
        return Finding(name, "ok", f"{grant.credentials} accepted")
    if not grant.is_set_up:
        return Finding(name, "off", str(error))
    if isinstance(error, _NO_ANSWER):
        return Finding(name, "FAILED", "unknown until upstream answers")
    return Finding(name, "FAILED", str(error))
