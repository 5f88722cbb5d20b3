"""The snippets of `docs/client.md` run as they stand."""

from typing import Any

import pytest
from documents import snippets

from bakrypt_proxy.sandbox import Sandbox


def test_the_snippets(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ends with a token of alice's, the second with a client that works."""
    for name, value in sandbox.environ.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    first, second = snippets("docs/client.md", "python")
    exec(first, names)  # noqa: S102 - our own page
    assert sandbox.store.owner(names["token"]["access_token"]) == "alice"
    exec(second, names)  # noqa: S102 - our own page
    with names["session"]:
        assert sandbox.store.owner(names["bakrypt"].exchange()["access_token"]) == "account"
