"""Our blueprints in the smallest app, which does what the Express app does.

The benchmark does not use the top-level `app.py`, because its rate limits refuse more than a few
requests per minute.
"""

from flask import Flask

from bakrypt_proxy import create_api_blueprint, create_blueprint


def create_app() -> Flask:
    """Return an app that lets everybody in. Its other settings come from the environment."""
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(authorize=lambda: True))
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    return app
