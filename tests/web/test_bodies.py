"""What is read of a refused request's body, by what the server is."""

import io

import pytest
from flask import Flask

from bakrypt_proxy import create_api_blueprint

LENGTH = 100_000


class Socket:
    """Notes the timeouts that are set."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    def gettimeout(self) -> float | None:
        """The server's own timeout."""
        return None

    def settimeout(self, timeout: float | None) -> None:
        """Note it."""
        self.timeouts.append(timeout)


class Body(io.BytesIO):
    """The input of gunicorn 27, which notes whether a read raised."""

    failed = False


@pytest.mark.parametrize("head", [{"CONTENT_LENGTH": str(LENGTH)}, {"HTTP_TRANSFER_ENCODING": "x"}])
@pytest.mark.parametrize(
    ("body", "read", "timeouts"),
    [(io.BytesIO, 0, []), (Body, LENGTH, [2.0, None])],
    ids=["before 27", "27"],
)
def test_the_rest_of_a_body_on_gunicorn(
    head: dict[str, str], body: type[io.BytesIO], read: int, timeouts: list[float | None]
) -> None:
    """Before 27, a read that times out would make the next request of what is left."""
    app = Flask("host")
    app.config["BAKRYPT_TOKEN"] = "planted"
    app.register_blueprint(create_api_blueprint())
    sock, sent = Socket(), body(bytes(LENGTH))
    environ = {"wsgi.input": sent, "wsgi.input_terminated": True, "gunicorn.socket": sock, **head}
    client = app.test_client()
    response = client.post("/bakrypt/v1/no/", environ_overrides=environ, buffered=True)
    assert response.status_code == 404
    assert (sent.tell(), sock.timeouts) == (read, timeouts)


@pytest.mark.parametrize(
    ("server", "read"),
    [
        ("Granian", LENGTH),
        ("Werkzeug/3.1", LENGTH),
        ("Cheroot/11.1", 0),
        ("gevent/26.9", 0),
        ("", 0),
    ],
)
def test_the_rest_of_chunks(server: str, read: int) -> None:
    """Other servers may take what follows a broken chunk for a request."""
    app = Flask("host")
    app.config["BAKRYPT_TOKEN"] = "planted"
    app.register_blueprint(create_api_blueprint())
    sent = io.BytesIO(bytes(LENGTH))
    environ = {
        "wsgi.input": sent,
        "wsgi.input_terminated": True,
        "SERVER_SOFTWARE": server,
        "HTTP_TRANSFER_ENCODING": "chunked",
    }
    app.test_client().post("/bakrypt/v1/no/", environ_overrides=environ, buffered=True)
    assert sent.tell() == read
