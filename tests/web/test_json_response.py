"""A response as the host changes it, and as the server gets it."""

from collections.abc import Callable

import pytest
from flask import Flask, Response
from werkzeug.test import EnvironBuilder

from bakrypt_proxy import create_blueprint

Change = Callable[[Response], Response]

closed: list[str] = []


def wait_for_close(response: Response) -> Response:
    """As a host counts the responses that were sent."""
    response.call_on_close(lambda: closed.append("once"))
    return response


def set_data(response: Response) -> Response:
    """As a host hides the words of an error."""
    response.set_data(b"hidden")
    return response


def set_text(response: Response) -> Response:
    """The same with text that is not encoded yet."""
    response.response = ["hid", "den"]
    response.content_length = 6
    return response


def append_in_place(response: Response) -> Response:
    """The same in the list that is there."""
    response.response[:] = ["hid", b"den"]  # type: ignore[index]
    response.content_length = 6
    return response


def encode(response: Response) -> Response:
    """As a host replaces what werkzeug iterates."""
    response.iter_encoded = lambda: iter([b"hid", b"den"])  # type: ignore[method-assign]
    response.content_length = 6
    return response


def stream(response: Response) -> Response:
    """As a host compresses what is sent."""
    response.response = (part for part in (b"hid", b"den"))
    response.content_length = 6
    return response


def no_content(response: Response) -> Response:
    """A host may leave out a body that nobody reads."""
    response.status_code = 204
    return response


def create_app(*changes: Change) -> Flask:
    """A host whose hooks change each response."""
    app = Flask("host")
    app.config.update(BAKRYPT_TOKEN="planted", BAKRYPT_CLIENT_ID="id", BAKRYPT_CLIENT_SECRET="s")
    app.register_blueprint(create_blueprint())
    for change in changes:
        app.after_request(change)
    return app


def send(app: Flask, method: str) -> object:
    """What the server gets from the app."""
    environ = EnvironBuilder("/auth/openapi.json", method=method).get_environ()
    return app.wsgi_app(environ, lambda *_: lambda _: None)


def test_the_server_gets_a_list() -> None:
    """It is sent in one go. Granian sends an iterator part by part."""
    sent = send(create_app(), "GET")
    assert isinstance(sent, list)
    assert len(sent) == 1
    assert send(create_app(), "HEAD") == []


@pytest.mark.parametrize("change", [set_data, set_text, append_in_place, encode, stream])
def test_the_hosts_body_is_sent(change: Change) -> None:
    """Whatever a hook puts there."""
    response = create_app(change).test_client().get("/auth/openapi.json")
    assert (response.data, response.content_length) == (b"hidden", 6)


def test_the_hosts_status_is_sent() -> None:
    """A status that has no body gets none."""
    assert create_app(no_content).test_client().get("/auth/openapi.json").data == b""


def test_the_host_hears_of_the_end() -> None:
    """Once, when the response is closed."""
    closed.clear()
    response = create_app(wait_for_close).test_client().get("/auth/openapi.json")
    assert closed == []
    response.close()
    assert closed == ["once"]
