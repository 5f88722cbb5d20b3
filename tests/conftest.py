"""Fixtures: a sandbox, an app that uses it, and real sockets for both."""

import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings
from misbehaving import Upstream
from real_redis import RedisServer
from redis import Redis
from werkzeug.serving import make_server

from bakrypt_proxy import BakryptClient, Settings, create_blueprint
from bakrypt_proxy.sandbox import Sandbox

# A machine that is busy is slow; hypothesis would call that a failure.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the developer's settings, proxies and CA bundles from the environment."""
    foreign = {
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
    }
    for name in list(os.environ):
        if name.startswith("BAKRYPT_") or name.upper() in foreign:
            monkeypatch.delenv(name)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox on a free port."""
    with Sandbox().listen() as sandbox:
        yield sandbox


@pytest.fixture
def bakrypt(sandbox: Sandbox) -> Iterator[BakryptClient]:
    """A client of the sandbox."""
    with BakryptClient(Settings.from_mapping(sandbox.environ)) as bakrypt:
        yield bakrypt


class Clock:
    """A clock, in seconds, that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that shows an arbitrary time."""
    return Clock()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An upstream that behaves as a test tells it to."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with our authority's certificate, which the environment names."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return bundle


def tls_server(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """TLS for a server of these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def tls_upstream(authority: trustme.CA, trusted: Path) -> Iterator[Upstream]:
    """An upstream over TLS, whose authority the environment names."""
    with Upstream(tls=tls_server(authority, "127.0.0.1")) as upstream:
        yield upstream


@pytest.fixture(params=["tcp", "tls"])
def any_upstream(request: pytest.FixtureRequest) -> Upstream:
    """An upstream over TCP, then one over TLS."""
    name = "upstream" if request.param == "tcp" else "tls_upstream"
    found = request.getfixturevalue(name)
    assert isinstance(found, Upstream)
    return found


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator["Redis"]:
    """What somebody uses who can write to that Redis."""
    with Redis.from_url(redis_server.url) as redis:
        yield redis


def create_app(config: Mapping[str, object], **arguments: Any) -> Flask:
    """Create a host app with the blueprint, as a user of the package would."""
    app = Flask("host")
    app.config.from_mapping(config)
    arguments.setdefault("authorize", lambda: True)
    app.register_blueprint(create_blueprint(**arguments))
    return app


@pytest.fixture
def app(sandbox: Sandbox) -> Flask:
    """A host app that uses the sandbox and lets everybody exchange."""
    return create_app(sandbox.environ)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of that app."""
    return app.test_client()


@contextmanager
def serve(app: Flask) -> Iterator[str]:
    """Serve an app on a real socket and return its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
