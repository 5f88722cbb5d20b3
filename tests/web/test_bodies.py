"""What is read of a refused request's body, by what the server is."""

import io
from collections.abc import Callable

import pytest
from flask import Flask, Response, request

from bakrypt_proxy import create_api_blueprint, create_blueprint

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


class Counting:
    """Notes how many bytes each read returned."""

    def __init__(self, body: bytes) -> None:
        self._body = io.BytesIO(body)
        self.reads: list[int] = []

    def read(self, size: int = -1) -> bytes:
        """Note it."""
        data = self._body.read(size)
        self.reads.append(len(data))
        return data


@pytest.mark.parametrize("head", [{}, {"wsgi.input_terminated": True}])
def test_a_body_is_read_once(head: dict[str, bool]) -> None:
    """Each read may wait for another thread of the server, also the one that finds the end."""
    sent = Counting(b'{"username": "alice"}')
    environ = {"wsgi.input": sent, "CONTENT_LENGTH": "21", **head}
    assert _sign_in(environ) == "password is missing"
    assert sent.reads == [21]


@pytest.mark.parametrize("head", [{}, {"wsgi.input_terminated": True}])
def test_a_host_may_read_on(head: dict[str, bool]) -> None:
    """A hook that empties each body finds nothing, and no error takes the token's place."""
    found = []

    def read_on(response: Response) -> Response:
        found.append(request.stream.read())
        return response

    environ = {"wsgi.input": io.BytesIO(b'{"username": "alice"}'), "CONTENT_LENGTH": "21", **head}
    assert _sign_in(environ, read_on) == "password is missing"
    assert found == [b""]


def test_a_length_does_not_count_for_chunks() -> None:
    """Transfer-Encoding overrides Content-Length (RFC 9112 section 6.3)."""
    environ = {
        "wsgi.input": io.BytesIO(b'{"username": "alice"}'),
        "wsgi.input_terminated": True,
        "HTTP_TRANSFER_ENCODING": "chunked",
        "CONTENT_LENGTH": "5",
    }
    assert _sign_in(environ) == "password is missing"


def _sign_in(environ: dict[str, object], *hooks: Callable[[Response], Response]) -> object:
    app = Flask("host")
    app.config.update(BAKRYPT_CLIENT_ID="id", BAKRYPT_CLIENT_SECRET="planted")
    app.register_blueprint(create_blueprint())
    for hook in hooks:
        app.after_request(hook)
    response = app.test_client().post(
        "/auth/token/",
        content_type="application/json",
        environ_overrides=environ,
        buffered=True,
    )
    return response.get_json()["error_description"]
