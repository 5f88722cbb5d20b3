"""The command `bakrypt`, also `python -m bakrypt_proxy`: the commands without an app."""

import os
from pathlib import Path

import click
from dotenv import find_dotenv, load_dotenv

from .account import Account
from .cli import Finding, add_commands
from .settings import Settings, unknown_settings


@click.group(name="bakrypt", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with settings, which the environment overrides. By default .env, here or above.",
)
@click.version_option(package_name="bakrypt_proxy")
def main(env_file: Path | None) -> None:
    """Get access tokens from bakrypt, check the settings, run the sandbox."""
    if found := env_file or find_dotenv(usecwd=True):
        _read(found)


def _read(path: Path | str) -> None:
    problem = ""
    try:
        load_dotenv(path, encoding="utf-8-sig")
    except UnicodeDecodeError:
        problem = "it is not UTF-8 (PowerShell writes UTF-16 with >)"
    except OSError as error:
        problem = str(error.strerror)
    if problem:  # raised here: the error of the codec holds the whole file, secrets included
        raise click.ClickException(f"{path} cannot be read: {problem}")


def _find_account() -> tuple[Account, list[Finding]]:
    for line in unknown_settings(os.environ):
        click.echo(f"Warning: {line}", err=True)
    return Account(Settings.from_mapping(os.environ)), []


add_commands(main, _find_account)

if __name__ == "__main__":
    main(prog_name="python -m bakrypt_proxy")
