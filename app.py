"""Our own app, for those who have none yet: the blueprint, a page to try it with, the sandbox if it is asked for."""

import logging
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from flask import Blueprint, Flask

from bakrypt_proxy import Settings, create_blueprint
from bakrypt_proxy.cli import settings_error_explained
from bakrypt_proxy.demo import create_demo
from bakrypt_proxy.sandbox import CREDENTIALS, USERS, Sandbox
from bakrypt_proxy.settings import find_setting

logger = logging.getLogger("bakrypt_proxy.app")

_SECRET_FILES = ("BAKRYPT_TOKEN_FILE", "BAKRYPT_CLIENT_SECRET_FILE")


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    """Return the app. What `config` says wins over the environment."""
    app = Flask(__name__, static_folder=None)
    app.config.from_mapping(config)
    is_sandbox = find_setting("BAKRYPT_NETWORK", app.config, os.environ) == "sandbox"
    if is_sandbox:
        _use_sandbox(app)
    with settings_error_explained():
        settings = Settings.from_mapping(app.config, os.environ)
    app.register_blueprint(create_blueprint(settings=settings))
    app.register_blueprint(_create_demo(settings, is_sandbox=is_sandbox))
    app.add_url_rule("/healthz", view_func=healthz)
    return app


def healthz() -> dict[str, str]:
    """`GET /healthz`: the process answers. Nothing is asked of bakrypt."""
    return {"status": "ok"}


def _use_sandbox(app: Flask) -> None:
    """Start a sandbox in this process, or use the one at `BAKRYPT_URL`; no real credentials go there."""
    sources = (app.config, os.environ)
    ignored = [name for name in (*CREDENTIALS, *_SECRET_FILES) if find_setting(name, *sources)]
    if ignored:
        logger.warning("BAKRYPT_NETWORK is sandbox, so these are not used: %s", ", ".join(ignored))
    if not find_setting("BAKRYPT_URL", *sources):
        sandbox = Sandbox().listen()
        app.extensions["bakrypt_sandbox"] = sandbox
        app.config["BAKRYPT_URL"] = sandbox.url
    app.config.update(CREDENTIALS)
    app.config.update(dict.fromkeys(_SECRET_FILES, ""))
    if find_setting("BAKRYPT_EXCHANGE_PUBLIC", *sources) is None:
        # Its tokens open nothing. On a real network this stays closed until somebody opens it.
        app.config["BAKRYPT_EXCHANGE_PUBLIC"] = True


def _create_demo(settings: Settings, *, is_sandbox: bool) -> Blueprint:
    if is_sandbox:
        return create_demo(network="the sandbox", api_url=settings.url, users=USERS, uploads=True)
    return create_demo(network=urlsplit(settings.url).netloc, api_url=settings.url)
