"""A host app with both blueprints, open to everybody, for tests on real servers."""

import os

from flask import Flask

from bakrypt_proxy import create_api_blueprint, create_blueprint


def create_app() -> Flask:
    """Return the app; its settings are in the environment."""
    os.environ.setdefault("BAKRYPT_API_CALLS", "files,assets,transactions,mint,refund")
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(authorize=lambda: True))
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    app.add_url_rule("/healthz", view_func=lambda: "ok")
    return app
