"""Our own app, for those who have none yet: the blueprint, a page to try it with, the sandbox if it is asked for."""

import logging
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from flask import Blueprint, Flask

from bakrypt_proxy import create_blueprint
from bakrypt_proxy.demo import create_demo
from bakrypt_proxy.proxy import read_settings
from bakrypt_proxy.sandbox import CREDENTIALS, USERS, Sandbox
from bakrypt_proxy.settings import Settings

logger = logging.getLogger("bakrypt_proxy.app")

_SECRET_FILES = ("BAKRYPT_TOKEN_FILE", "BAKRYPT_CLIENT_SECRET_FILE")


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    """Return the app. What `config` says wins over the environment."""
    app = Flask(__name__, static_folder=None)
    app.config.from_mapping(config)
    is_sandbox = _setting(app, "BAKRYPT_NETWORK") == "sandbox"
    if is_sandbox:
        _use_sandbox(app)
    settings = read_settings(app)
    app.register_blueprint(create_blueprint(settings=settings))
    app.register_blueprint(_create_demo(settings, is_sandbox=is_sandbox))
    app.add_url_rule("/healthz", view_func=healthz)
    return app


def healthz() -> dict[str, str]:
    """`GET /healthz`: the process answers. Nothing is asked of bakrypt."""
    return {"status": "ok"}


def _setting(app: Flask, name: str) -> object | None:
    value = app.config.get(name)
    return os.environ.get(name) if value is None else value


def _use_sandbox(app: Flask) -> None:
    """Start a sandbox in this process, or use the one at `BAKRYPT_URL`; no real credentials go there."""
    ignored = [name for name in (*CREDENTIALS, *_SECRET_FILES) if _setting(app, name)]
    if ignored:
        logger.warning("BAKRYPT_NETWORK is sandbox, so these are not used: %s", ", ".join(ignored))
    if not _setting(app, "BAKRYPT_URL"):
        sandbox = Sandbox().listen()
        app.extensions["bakrypt_sandbox"] = sandbox
        app.config["BAKRYPT_URL"] = sandbox.url
    app.config.update(CREDENTIALS)
    app.config.update(dict.fromkeys(_SECRET_FILES, ""))
    if _setting(app, "BAKRYPT_EXCHANGE_PUBLIC") is None:
        # Its tokens open nothing. On a real network this stays closed until somebody opens it.
        app.config["BAKRYPT_EXCHANGE_PUBLIC"] = True


def _create_demo(settings: Settings, *, is_sandbox: bool) -> Blueprint:
    if is_sandbox:
        return create_demo(network="sandbox", api_url=settings.url, users=USERS, uploads=True)
    return create_demo(network=urlsplit(settings.url).netloc, api_url=settings.url)
