"""A bare Flask view that returns a constant: the most that any Flask view can reach."""

import os

from flask import Flask, Response


def create_app() -> Flask:
    """Return an app with one view, which responds with the environment variable `RESPONSE`."""
    app = Flask(__name__)
    body = os.environ["RESPONSE"]

    @app.post("/auth/exchange/")
    def constant() -> Response:
        return Response(body, mimetype="application/json")

    return app
