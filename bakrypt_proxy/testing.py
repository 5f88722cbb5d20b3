"""For tests of apps and scripts that use bakrypt_proxy. The pytest plugin builds on this."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .sandbox import Sandbox

if TYPE_CHECKING:
    import pytest


@contextmanager
def use_sandbox(monkeypatch: "pytest.MonkeyPatch") -> Iterator[Sandbox]:
    """Start a sandbox and make it the only bakrypt that the environment knows.

    All other `BAKRYPT_...` variables are removed: with a network, a file with a secret or a Redis
    of the developer's, a test would call them.

    :param monkeypatch: what changes the environment, and restores it later.
    """
    with Sandbox().listen() as sandbox:
        for name in [name for name in os.environ if name.startswith("BAKRYPT_")]:
            monkeypatch.delenv(name)
        for name, value in sandbox.environ.items():
            monkeypatch.setenv(name, value)
        yield sandbox
