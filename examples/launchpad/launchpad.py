"""bakrypt's web component, `bakrypt-launchpad`, with a token from the blueprint."""

import os
from pathlib import Path

from flask import Flask, Response, render_template, send_from_directory

from bakrypt_proxy import Settings, create_blueprint

BUNDLE = Path(__file__).parent / "node_modules" / "bakrypt-launchpad" / "dist"


def create_app(bundle: Path = BUNDLE) -> Flask:
    """Return the app.

    :param bundle: the folder into which npm has installed the component.
    """
    app = Flask(__name__)
    if not (os.environ.get("BAKRYPT_TOKEN") or os.environ.get("BAKRYPT_TOKEN_FILE")):
        use_sandbox(app)
    settings = Settings.from_mapping(app.config, os.environ)
    app.register_blueprint(create_blueprint(settings=settings))

    @app.get("/")
    def index() -> str:
        return render_template("index.html", network=settings.network, api_url=settings.url)

    @app.get("/bakrypt-launchpad.js")
    def component() -> Response:
        return send_from_directory(bundle, "bakrypt-launchpad.js")

    return app


def use_sandbox(app: Flask) -> None:
    """Use a sandbox until you have a bakrypt account.

    Its tokens are worthless, so everybody may have one.
    """
    # Production does not need the sandbox extra.
    from bakrypt_proxy.sandbox import Sandbox  # noqa: PLC0415

    app.config.from_mapping(Sandbox(expires_in=60).listen().environ, BAKRYPT_EXCHANGE_PUBLIC=True)
