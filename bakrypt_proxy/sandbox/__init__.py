"""A small stand-in for bakrypt on this machine. Its credentials and tokens have no value.

    with Sandbox().listen() as sandbox:
        client = BakryptClient(Settings.from_mapping(sandbox.environ))

It listens only on loopback, answers only to loopback host names, and accepts only the credentials
below.
"""

import hmac
import ipaddress
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from flask import Flask, Response, jsonify, redirect, request
from flask.typing import ResponseReturnValue
from flask_cors import CORS
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from .api import create_blueprint
from .oauth import SCOPES, OAuthServer, TokenStore

HOST = "127.0.0.1"
ACCOUNT = "account"
_POLL_INTERVAL = 0.05  # seconds between two checks whether the server should stop
USERS = {"alice": "alice-password", "bob": "bob-password"}
CREDENTIALS = {
    "BAKRYPT_TOKEN": "sandbox-token",
    "BAKRYPT_CLIENT_ID": "sandbox-client",
    "BAKRYPT_CLIENT_SECRET": "sandbox-client-secret",
}


class Sandbox:
    """A local bakrypt with `/auth/exchange/`, `/auth/token/` and, for bearer tokens, `/v1/`.

    Attributes change how it answers from the next request on: `delay` (seconds before each
    response), `fail` (a status for each response), `throttle` (429, with these seconds in
    `Retry-After`), `expires_in`. `calls` counts the requests to each path.

    :param expires_in: the lifetime of its access tokens, in seconds.
    :param clock: returns a time in seconds; it decides when a token expires.
    :param quiet: do not log the sandbox's own requests.
    """

    def __init__(
        self,
        *,
        expires_in: int = 36000,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = True,
    ) -> None:
        # At DEBUG oauthlib logs each token that it issues or looks up, and somebody may type a
        # real password here by mistake.
        logging.getLogger("oauthlib").setLevel(logging.INFO)
        self.expires_in = expires_in
        self.delay: float = 0
        self.fail: int | None = None
        self.throttle: int | None = None
        self.calls: Counter[str] = Counter()
        self.store: TokenStore = TokenStore(
            client_id=CREDENTIALS["BAKRYPT_CLIENT_ID"],
            client_secret=CREDENTIALS["BAKRYPT_CLIENT_SECRET"],
            users=USERS,
            clock=clock,
        )
        self._oauth = OAuthServer(self.store, lambda _: self.expires_in)
        self._handler = _QuietHandler if quiet else WSGIRequestHandler
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    def listen(self, port: int = 0) -> Self:
        """Start serving in a new thread and return this sandbox.

        :param port: the port to listen on; 0 means any free port.
        :raises OSError: if the port is in use.
        """
        # With a socket of ours: werkzeug's own ends the process if the port is in use.
        with socket.create_server((HOST, port)) as listener:
            self._server = make_server(
                HOST,
                listener.getsockname()[1],
                self._create_app(),
                threaded=True,
                request_handler=self._handler,
                fd=listener.fileno(),
            )
        serve = partial(self._server.serve_forever, poll_interval=_POLL_INTERVAL)
        self._thread = threading.Thread(target=serve, name="bakrypt-sandbox", daemon=True)
        self._thread.start()
        return self

    def revoke(self, access_token: str | None = None) -> None:
        """Revoke an access token before it expires, as bakrypt may at any time.

        :param access_token: the token; an unknown one is ignored. None revokes all.
        """
        self.store.revoke(access_token)

    def wait(self) -> None:
        """Wait until another thread closes the sandbox, or until CTRL+C."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop serving. Does nothing if the sandbox is not listening."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The address to set as `BAKRYPT_URL`.

        :raises RuntimeError: if the sandbox is not listening.
        """
        if self._server is None:
            raise RuntimeError("the sandbox is not listening: call listen() first")
        return f"http://{HOST}:{self._server.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The settings that make a client or a blueprint use this sandbox.

        :raises RuntimeError: if the sandbox is not listening.
        """
        return {"BAKRYPT_URL": self.url, **CREDENTIALS}

    def _create_app(self) -> Flask:
        app = Flask(__name__, static_folder=None)
        app.before_request(self._count_and_misbehave)
        app.before_request(_stay_local)
        app.before_request(_redirect_like_django)
        app.register_error_handler(HTTPException, _render_like_django)
        app.add_url_rule("/auth/exchange/", view_func=self._exchange, methods=["POST"])
        app.add_url_rule("/auth/token/", view_func=self._token, methods=["POST"])
        app.register_blueprint(create_blueprint(self._check_bearer))
        # Pages call bakrypt's API directly with their token, so every origin is allowed here.
        CORS(app, resources={r"/v1/.*": {"origins": "*"}})
        return app

    def _count_and_misbehave(self) -> ResponseReturnValue | None:
        self.calls[request.path] += 1
        time.sleep(self.delay)
        if self.fail is not None:
            return jsonify(detail="The sandbox was told to fail."), self.fail
        if self.throttle is not None:
            detail = f"Request was throttled. Expected available in {self.throttle} seconds."
            return jsonify(detail=detail), 429, {"Retry-After": str(self.throttle)}
        return None

    def _exchange(self) -> ResponseReturnValue:
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "token" or not secret:
            return _unauthorized("Authentication credentials were not provided.", "Token")
        if not hmac.compare_digest(secret.encode(), CREDENTIALS["BAKRYPT_TOKEN"].encode()):
            return _unauthorized("Invalid token.", "Token")
        return jsonify(self._oauth.exchange(ACCOUNT))

    def _token(self) -> ResponseReturnValue:
        headers, body, status = self._oauth.create_token_response(
            request.base_url, "POST", request.get_data(as_text=True), dict(request.headers)
        )
        return Response(body, status, headers)

    def _check_bearer(self) -> str | Response:
        valid, checked = self._oauth.verify_request(
            request.base_url, "GET", None, dict(request.headers), SCOPES
        )
        if valid:
            return str(checked.user)
        return _unauthorized("Authentication credentials were not provided.", 'Bearer realm="api"')


class _QuietHandler(WSGIRequestHandler):
    """Logs nothing: inside another app, the sandbox's lines would hide the app's own."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        pass


def _stay_local() -> ResponseReturnValue | None:
    """Refuse every host name that is not a loopback name.

    Otherwise a foreign page could reach the sandbox through a name whose DNS entry points at
    this machine (DNS rebinding).
    """
    name = (
        request.host.rpartition(":")[0]
        if request.host.rpartition(":")[2].isdigit()
        else request.host
    )
    try:
        local = ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        local = name == "localhost"
    return None if local else (jsonify(detail="This sandbox only serves this machine."), 403)


def _redirect_like_django() -> ResponseReturnValue | None:
    """Redirect a path without its trailing slash with 301, as bakrypt does; Flask uses 308."""
    if isinstance(request.routing_exception, RequestRedirect):
        return redirect(request.routing_exception.new_url, 301)
    return None


def _render_like_django(error: HTTPException) -> ResponseReturnValue:
    response = error.get_response()
    detail = f'Method "{request.method}" not allowed.' if error.code == 405 else error.description
    return (
        jsonify(detail=detail),
        error.code or 500,
        {k: v for k, v in response.headers.items() if k == "Allow"},
    )


def _unauthorized(detail: str, challenge: str) -> Response:
    response = jsonify(detail=detail)
    response.status_code = 401
    response.headers["WWW-Authenticate"] = challenge
    return response
