"""`examples/launchpad` for tests on real servers; `BUNDLE` is where npm has put the component."""

import os
from pathlib import Path

import launchpad
from flask import Flask


def create_app() -> Flask:
    """Return the app; its settings are in the environment."""
    app = launchpad.create_app(Path(os.environ["BUNDLE"]))
    app.add_url_rule("/healthz", view_func=lambda: "ok")
    return app
