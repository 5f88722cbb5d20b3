"""Our blueprint in the smallest app, which does what the Express app does.

The benchmark does not use the top-level `app.py`, because its rate limit refuses more than ten
password attempts per minute.
"""

from flask import Flask

from bakrypt_proxy import create_blueprint


def create_app() -> Flask:
    """Return an app that lets everybody exchange. Its other settings come from the environment."""
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(authorize=lambda: True))
    return app
