"""bakrypt's web component, `bakrypt-launchpad`, on a public page that holds no token."""

import os
from pathlib import Path

from flask import Flask, Response, render_template, send_from_directory

from bakrypt_proxy import Settings, create_api_blueprint

BUNDLE = Path(__file__).parent / "node_modules" / "bakrypt-launchpad" / "dist"
# What the component needs. Its messages run HTML, so no other script and no other address is open.
POLICY = "; ".join(  # noqa: FLY002 - a line for each
    [
        "default-src 'none'",
        "script-src 'self'",
        # The component adds an empty style element, and style attributes.
        "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
        "style-src-attr 'unsafe-inline'",
        "connect-src 'self' data: https://gateway.bakrypt.io",
        "img-src 'self' data: https://gateway.bakrypt.io",
        "media-src https://gateway.bakrypt.io",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


def create_app(bundle: Path = BUNDLE) -> Flask:
    """Return the app.

    :param bundle: the folder into which npm has installed the component.
    """
    app = Flask(__name__)
    if not (os.environ.get("BAKRYPT_TOKEN") or os.environ.get("BAKRYPT_TOKEN_FILE")):
        use_sandbox(app)
    settings = Settings.from_mapping(app.config, os.environ)
    app.register_blueprint(create_api_blueprint(settings=settings))

    @app.get("/")
    def index() -> str:
        return render_template("index.html", network=settings.network)

    @app.get("/bakrypt-launchpad.js")
    def component() -> Response:
        return send_from_directory(bundle, "bakrypt-launchpad.js")

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return app


def use_sandbox(app: Flask) -> None:
    """Use a sandbox until you have a bakrypt account.

    It mints nothing, so everybody may use it.
    """
    # Production does not need the sandbox extra.
    from bakrypt_proxy.sandbox import Sandbox  # noqa: PLC0415

    app.config.from_mapping(Sandbox(expires_in=150).listen().environ, BAKRYPT_API_PUBLIC=True)
