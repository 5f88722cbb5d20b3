"""Fixtures: a sandbox, an app against it, and real sockets for both."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from misbehaving import Upstream
from real_redis import RedisServer
from redis import Redis
from werkzeug.serving import make_server

from bakrypt_proxy import BakryptClient, Settings, create_blueprint
from bakrypt_proxy.sandbox import Sandbox


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings, proxies and CA bundles out of the tests."""
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
    """A clock that a test turns. It tells seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at an arbitrary time."""
    return Clock()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An upstream that does what a test tells it to."""
    with Upstream() as upstream:
        yield upstream


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
    """Make a host app with the blueprint, as a user of the package would."""
    app = Flask("host")
    app.config.from_mapping(config)
    arguments.setdefault("authorize", lambda: True)
    app.register_blueprint(create_blueprint(**arguments))
    return app


@pytest.fixture
def app(sandbox: Sandbox) -> Flask:
    """A host app against the sandbox, whose exchange is open."""
    return create_app(sandbox.environ)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A caller of that app."""
    return app.test_client()


@contextmanager
def serve(app: Flask) -> Iterator[str]:
    """Serve an app over a real socket and give its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
