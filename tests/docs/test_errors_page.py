"""`docs/errors.md` says what the errors are."""

import re
from typing import Any

import pytest
from conftest import create_app
from documents import rows, snippets
from flask import Flask
from flask.testing import FlaskClient

import bakrypt_proxy
from bakrypt_proxy import BakryptError

PAGE = "docs/errors.md"


def test_the_tree_is_that_of_the_classes() -> None:
    """Each error with the status that it has unless bakrypt gives one."""
    (tree,) = snippets(PAGE, "text")
    shown = dict(re.findall(r"(\w+Error) +(\d\d\d|4xx)", tree))
    assert shown == {
        kind.__name__: "4xx" if kind is bakrypt_proxy.UpstreamRefusedError else str(kind.status)
        for kind in BakryptError.__subclasses__()
    }
    assert tree.splitlines()[0] == BakryptError.__name__


def test_the_attributes_exist() -> None:
    """Each row of the table is a member of an error."""
    error = BakryptError("a description")
    names = [cells[0].strip("`") for cells in rows(PAGE, "`")]
    assert len(names) > 5
    for name in names:
        assert hasattr(error, name.removesuffix("()"))


@pytest.mark.parametrize(
    ("status", "path", "arguments"),
    [
        (400, "exchange", {"data": "{", "content_type": "application/json"}),
        (400, "token", {"json": {"grant_type": "client_credentials"}}),
        (403, "exchange", {"headers": {"Origin": "https://other.example"}}),
        (405, "exchange", {"method": "GET"}),
        (413, "token", {"data": b"x" * 70_000}),
        (500, "token", {"json": {"username": "a", "password": "b"}}),
    ],
)
def test_the_statuses_are_right(status: int, path: str, arguments: dict[str, Any]) -> None:
    """Status and code of a real response stand together in a row of the table."""
    client: FlaskClient = create_app({}).test_client()
    response = client.open(f"/auth/{path}/", **{"method": "POST", **arguments})
    assert response.status_code == status
    code = response.get_json()["error"]
    assert [cells for cells in rows(PAGE, str(status)) if cells[1] == f"`{code}`"]


def test_the_snippet_gives_all_errors_this_body() -> None:
    """Those of routes that are not ours, too."""
    app = Flask("host")
    (snippet,) = snippets(PAGE, "python")
    exec(snippet, {"app": app})  # noqa: S102 - our own page
    response = app.test_client().get("/nowhere")
    assert (response.status_code, response.get_json()["error"]) == (404, "invalid_request")
