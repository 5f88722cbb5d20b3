"""`docs/errors.md` says what the errors are."""

import re
from typing import Any

import pytest
from conftest import create_app
from documents import rows, snippets
from flask import Flask
from flask.testing import FlaskClient
from processes import free_port

import bakrypt_proxy
from bakrypt_proxy import BakryptError, Settings, UnavailableError, create_api_blueprint
from bakrypt_proxy.web.uploads import Uploads

PAGE = "docs/errors.md"
NOBODYS = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"


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


@pytest.mark.parametrize(
    ("status", "method", "path", "arguments"),
    [
        (400, "POST", "files", {"query_string": "force=true", "data": b"x"}),
        (400, "POST", "assets", {"json": [{"name": "Gold", "uuid": "x"}]}),
        (403, "POST", "files", {"headers": {"Sec-Fetch-Site": "cross-site"}}),
        (403, "POST", f"transactions/{NOBODYS}/mint", {}),
        (404, "GET", f"transactions/{NOBODYS}", {}),
        (405, "PUT", "assets", {}),
        (411, "POST", "files", {"headers": {"Transfer-Encoding": "chunked"}}),
        (413, "POST", "files", {"data": b"x" * 2_000}),
        (413, "POST", "assets", {"data": b" " * 2_000_000, "content_type": "application/json"}),
        (500, "POST", "assets", {"json": [{"name": "Gold"}]}),
    ],
)
def test_the_statuses_of_the_api_are_right(
    status: int, method: str, path: str, arguments: dict[str, Any]
) -> None:
    """As those above. Nothing listens at this bakrypt, so a call that is sent fails."""
    app = Flask("host")
    url = f"http://127.0.0.1:{free_port()}"
    settings = Settings(token="fake", url=url, max_upload=1_000)
    app.register_blueprint(create_api_blueprint(settings=settings, authorize=lambda: True))
    response = app.test_client().open(f"/bakrypt/v1/{path}/", method=method, **arguments)
    assert response.status_code == status
    code = response.get_json()["error"]
    assert [cells for cells in rows(PAGE, str(status)) if cells[1] == f"`{code}`"]


def test_too_many_uploads_are_unavailable() -> None:
    """The row of the one error that asks for the same request again."""
    uploads, error = Uploads(1), UnavailableError
    with uploads.slot(), pytest.raises(error) as caught, uploads.slot():
        pass
    assert caught.value.retry_after is not None
    assert rows(PAGE, str(error.status))[0][1] == f"`{caught.value.error}`"


def test_the_snippet_gives_all_errors_this_body() -> None:
    """Those of routes that are not ours, too."""
    app = Flask("host")
    (snippet,) = snippets(PAGE, "python")
    exec(snippet, {"app": app})  # noqa: S102 - our own page
    response = app.test_client().get("/nowhere")
    assert (response.status_code, response.get_json()["error"]) == (404, "invalid_request")
