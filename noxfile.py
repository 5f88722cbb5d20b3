"""Checks in environments of their own: other Pythons, the lowest dependencies, the public types."""

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # a machine checks the Pythons that it has

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
FAST = ("pytest", "-m", "not slow")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the fast tests on each Python and measure the coverage."""
    session.install("--editable", ".[test]")
    session.run(*FAST, "--cov", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the fast tests with the lowest versions that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", "--editable", ".[test]")
    session.run(*FAST, *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check that the types of all public names are complete, in the package as it is installed."""
    session.install(".[app,redis,server]", "pyright>=1.1.400")
    session.run("pyright", "--verifytypes", "bakrypt_proxy", "--ignoreexternal")


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Run ruff and mypy in the development environment."""
    session.run("make", "lint", external=True)
