"""The pytest plugin: the fixture `bakrypt_sandbox`.

pytest loads this file in every run of an environment where bakrypt_proxy is installed. It is not
in the package, because importing `bakrypt_proxy.testing` would import Flask and all of the package
first, also where no test uses the fixture, and before a coverage tool measures anything.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bakrypt_proxy.sandbox import Sandbox


@pytest.fixture
def bakrypt_sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator["Sandbox"]:
    """Return a listening stand-in for bakrypt whose settings are in the environment."""
    try:
        from bakrypt_proxy.testing import use_sandbox  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        raise pytest.fail.Exception(
            f"{error.name} is missing: pip install 'bakrypt_proxy[sandbox]'", pytrace=False
        ) from None
    with use_sandbox(monkeypatch) as sandbox:
        yield sandbox
