"""Our blueprint in the smallest app, for the benchmark: it does what Express does, and no more.

Not the top-level `app.py`, whose rate limit would refuse the second dozen of wrk's password attempts.
"""

from flask import Flask

from bakrypt_proxy import create_blueprint


def create_app() -> Flask:
    """Return an app that lets everybody exchange; its other settings come from the environment."""
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(authorize=lambda: True))
    return app
