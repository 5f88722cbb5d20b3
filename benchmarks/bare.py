"""A bare Flask view that returns a constant, for the benchmark: the limit of the framework."""

import os

from flask import Flask, Response


def create_app() -> Flask:
    """Return an app whose one view gives `REPLY` from the environment, as JSON."""
    app = Flask(__name__)
    reply = os.environ["REPLY"]

    @app.post("/auth/exchange/")
    def constant() -> Response:
        return Response(reply, mimetype="application/json")

    return app
