"""Our own app, for those who have none yet: the blueprint, a page to try it, and the sandbox where it is asked for."""

import atexit
import logging
import os
from collections import ChainMap
from collections.abc import Mapping

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

from bakrypt_proxy import Settings, create_blueprint
from bakrypt_proxy.demo import create_demo
from bakrypt_proxy.sandbox import Sandbox

logger = logging.getLogger("bakrypt_proxy.app")


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    """Return the app. `config` wins over the environment."""
    app = Flask(__name__, static_folder=None)
    app.config.from_mapping(config)
    source = ChainMap(dict(app.config), dict(os.environ))
    if source.get("BAKRYPT_NETWORK") == "sandbox":
        _use_sandbox(app, source)
    return app
