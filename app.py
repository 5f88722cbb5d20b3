"""An app for those who have none yet: the blueprint, a demo page and, on request, the sandbox."""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial, wraps
from ipaddress import IPv6Address, ip_address, ip_network
from secrets import token_hex
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import click
from flask import Blueprint, Flask, Response, make_response, request
from flask.helpers import get_debug_flag
from flask.typing import ResponseReturnValue
from flask_limiter import Limiter, RequestLimit
from limits import RateLimitItemPerSecond
from limits.errors import StorageError
from limits.strategies import FixedWindowRateLimiter
from werkzeug.exceptions import HTTPException, TooManyRequests
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import is_running_from_reloader

from bakrypt_proxy import (
    JsonFormatter,
    Settings,
    add_redis_probe,
    create_api_blueprint,
    create_blueprint,
    is_password_attempt,
    read_settings,
    readiness_problems,
    render_http_error,
)
from bakrypt_proxy.demo import create_demo
from bakrypt_proxy.sandbox import CREDENTIALS, USERS, Sandbox
from bakrypt_proxy.web.metrics import create_metrics

if TYPE_CHECKING:
    from limits.storage import RedisStorage

logger = logging.getLogger("bakrypt_proxy.app")

_SANDBOX_PORT = 5001  # as that of `flask bakrypt sandbox`, so that a page can have it in its code
_API_POSTS = {f"bakrypt_api.{call}" for call in ("files", "assets", "mint", "refund")}
_SECRET_FILES = ("BAKRYPT_TOKEN_FILE", "BAKRYPT_CLIENT_SECRET_FILE")


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    """Return the app.

    :param config: settings and Flask config; they win over the environment.
    :raises SettingsError: if a setting is wrong.
    """
    app = Flask(__name__, static_folder=None)
    app.config.from_mapping(config)
    is_sandbox = _setting(app, "BAKRYPT_NETWORK") == "sandbox"
    if is_sandbox:
        _use_sandbox(app)
    settings = read_settings(app)
    if "bakrypt_sandbox" in app.extensions:
        app.extensions["bakrypt_sandbox"].expires_in = settings.sandbox_lifetime
    _set_up_logging(settings)
    if settings.trusted_proxies:
        # Not x_port and x_prefix: a proxy that does not set them passes on the caller's own.
        fixed = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxies, x_proto=1, x_host=1)
        app.wsgi_app = fixed  # type: ignore[method-assign]
    app.register_blueprint(create_blueprint(settings=settings))
    if settings.token is not None:
        app.register_blueprint(create_api_blueprint(settings=settings))
    app.register_blueprint(_create_demo(settings, is_sandbox=is_sandbox))
    app.register_blueprint(create_metrics())
    app.register_error_handler(HTTPException, render_http_error)
    app.add_url_rule("/healthz", view_func=healthz)
    app.add_url_rule("/readyz", view_func=readyz)
    _limit_callers(app, settings)
    _announce(settings, is_sandbox=is_sandbox)
    return app


def healthz() -> dict[str, str]:
    """`GET /healthz`: the process answers."""
    return {"status": "ok"}


def readyz() -> ResponseReturnValue:
    """`GET /readyz`: credentials are set, and Redis answers if it is configured."""
    if problems := readiness_problems():
        return {"error": "server_error", "error_description": "; ".join(problems)}, 503
    return {"status": "ok"}


def _set_up_logging(settings: Settings) -> None:
    """Show our log lines, as text or JSON, unless the host has set up logging already."""
    if logging.getLogger().hasHandlers():
        return
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else text)
    for name, level in {
        "bakrypt_proxy": logging.INFO,
        "flask-limiter": logging.WARNING,
        "app": logging.INFO,
    }.items():
        log = logging.getLogger(name)
        log.handlers[:] = [handler]
        log.setLevel(level)


def _limit_callers(app: Flask, settings: Settings) -> None:
    """Limit password attempts and POSTs to the API by client address, in Redis if configured."""
    limiter = Limiter(_client, app=app, on_breach=_refuse_attempt, **_limiter_storage(settings))
    limit = limiter.limit(settings.rate_limit, exempt_when=lambda: not is_password_attempt())
    app.view_functions["bakrypt.token"] = _or_in_memory(
        limit(app.ensure_sync(app.view_functions["bakrypt.token"]))
    )
    api_limit = limiter.shared_limit(settings.api_rate_limit, scope="bakrypt_api")
    for name in _API_POSTS & app.view_functions.keys():
        app.view_functions[name] = _or_in_memory(
            api_limit(app.ensure_sync(app.view_functions[name]))
        )
    if settings.redis_url is not None:
        add_redis_probe(app, partial(_limiter_problem, limiter, settings.redis_url))


def _or_in_memory(view: Callable[..., ResponseReturnValue]) -> Callable[..., ResponseReturnValue]:
    """Call a limited view once more if Redis failed while it was counted.

    Flask-Limiter counts in memory from the first failure on. Those who are being counted at that
    moment get an exception.
    """

    @wraps(view)
    def count_again(**arguments: Any) -> ResponseReturnValue:
        try:
            return view(**arguments)
        except StorageError:
            return view(**arguments)

    return count_again


def _refuse_attempt(limit: RequestLimit) -> Response:
    seconds = max(1, math.floor(limit.reset_at - time.time()))
    return make_response(render_http_error(TooManyRequests(retry_after=seconds)))


def _limiter_storage(settings: Settings) -> dict[str, Any]:
    if settings.redis_url is None:
        return {"storage_uri": "memory://"}
    from bakrypt_proxy.tokens.redis_connection import (  # noqa: PLC0415 - an extra
        KEY_PREFIX,
        redis_options,
    )

    return {
        "storage_uri": settings.redis_url.replace("unix://", "redis+unix://"),
        "storage_options": {
            **redis_options(settings.redis_url),
            "key_prefix": KEY_PREFIX,
            "wrap_exceptions": True,
        },
        "in_memory_fallback_enabled": True,
    }


def _limiter_problem(limiter: Limiter, redis_url: str) -> str | None:
    """Return why attempts cannot be counted in Redis right now; without it they are in memory."""
    from bakrypt_proxy.tokens.redis_connection import explain  # noqa: PLC0415 - an extra

    storage = cast("RedisStorage", limiter.storage)
    counter, limit = FixedWindowRateLimiter(storage), RateLimitItemPerSecond(1_000_000)
    name = f"probe-{token_hex(8)}"  # new each time: only a new counter is given an end
    try:
        storage.storage.ping()  # after an outage the limiter waits until this succeeds
        storage.storage.script_load(storage.SCRIPT_INCR_EXPIRE)  # a new primary does not have it
        counter.hit(limit, name)
        counter.get_window_stats(limit, name)
    except Exception as error:  # noqa: BLE001 - what is no Redis makes redis-py raise anything
        cause = error.storage_error if isinstance(error, StorageError) else error
        return f"password attempts are counted in memory: {explain(cause, redis_url)}"
    finally:
        with suppress(Exception):
            counter.clear(limit, name)  # without the right to EXPIRE it would stay
    return None


def _client() -> str:
    """Return the key to count by: the caller's IPv4 address, or its /64 network in IPv6.

    A proxy may add the port, or write `unknown` (RFC 7239); a unix socket has no address.
    """
    text = request.remote_addr or "unknown"
    try:
        address = ip_address(_without_port(text))
    except ValueError:
        return text
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or ip_network((address, 64), strict=False).network_address
    return str(address)


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _use_sandbox(app: Flask) -> None:
    """Start a sandbox in this process, or use the one at `BAKRYPT_URL`.

    It never gets real credentials.
    """
    ignored = [name for name in (*CREDENTIALS, *_SECRET_FILES) if _setting(app, name)]
    if ignored:
        logger.warning("BAKRYPT_NETWORK is sandbox, so these are not used: %s", ", ".join(ignored))
    if not _setting(app, "BAKRYPT_URL"):
        app.extensions["bakrypt_sandbox"] = sandbox = _start_sandbox()
        app.config["BAKRYPT_URL"] = sandbox.url
    app.config.update(CREDENTIALS)
    app.config.update(dict.fromkeys(_SECRET_FILES, ""))
    for name in ("BAKRYPT_EXCHANGE_PUBLIC", "BAKRYPT_API_PUBLIC"):
        if _setting(app, name) is None:
            # The sandbox's tokens open nothing. On a real network both stay closed by default.
            app.config[name] = True


def _start_sandbox() -> Sandbox:
    """Start a sandbox at its usual port, or at a free one if another program has that port."""
    sandbox = Sandbox()
    if _is_reloader():
        return sandbox.listen()  # the process that serves gets the usual one
    try:
        return sandbox.listen(_SANDBOX_PORT)
    except OSError:
        return sandbox.listen()


def _is_reloader() -> bool:
    """Return whether this process only watches the files of one that serves."""
    context = click.get_current_context(silent=True)
    reload = None if context is None else context.params.get("reload")  # of `flask run`
    return (get_debug_flag() if reload is None else reload) and not is_running_from_reloader()


def _announce(settings: Settings, *, is_sandbox: bool) -> None:
    """Under `flask run`, print the addresses that the developer of a page needs."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "run" or _is_reloader():
        return
    host, port = context.params["host"], context.params["port"]
    if port == 0 or host.startswith("unix://"):
        return  # there is no address, or not yet
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - only compared
    scheme = "http" if context.params["cert"] is None else "https"
    origin = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    api = f"{settings.url}/v1/" + (" (the sandbox)" if is_sandbox else "")
    click.echo(f"The page         {origin}/")
    click.echo(f"The proxy        {origin}/auth and {origin}/bakrypt")
    click.echo(f"bakrypt's API    {api}")
    opening = "" if settings.exchange_public else "set BAKRYPT_EXCHANGE_PUBLIC=true, then "
    click.echo(f"To try it        {opening}curl -X POST {origin}/auth/exchange/")


def _setting(app: Flask, name: str) -> object:
    """Return a setting as given in the config or else in the environment; None if it is not set."""
    value = app.config.get(name)
    if value is None:
        value = os.environ.get(name)
    return None if isinstance(value, str) and not value.strip() else value


def _create_demo(settings: Settings, *, is_sandbox: bool) -> Blueprint:
    return create_demo(
        network="the sandbox" if is_sandbox else urlsplit(settings.url).netloc,
        api_url=settings.url,
        api=None if settings.token is None else "bakrypt_api",
        api_is_open=settings.api_public,
        users=USERS if is_sandbox else None,
        try_api=is_sandbox,
    )
