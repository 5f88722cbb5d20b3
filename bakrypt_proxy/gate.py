"""The gate: which pages may call, who may exchange, and the CORS headers that let an allowed page read the reply."""

import re
from collections.abc import Callable
from inspect import isawaitable, iscoroutinefunction

from flask import Request, Response
from werkzeug.wrappers import Response as BaseResponse

from .errors import AccessDeniedError
from .settings import Settings

Authorize = Callable[[], bool]

_PREFLIGHT_SECONDS = 600
_EVALUATED = "_FLASK_CORS_EVALUATED"  # flask_cors.core.FLASK_CORS_EVALUATED


class Gate:
    """Says who may call the routes of one registration, from its settings and its `authorize`."""

    def __init__(self, settings: Settings, authorize: Authorize | None) -> None:
        if authorize is not None and (not callable(authorize) or iscoroutinefunction(authorize)):
            raise TypeError("authorize must be a function that returns true or false, and not an async one")
        self._allowed_origins = settings.allowed_origins
        self._public = settings.exchange_public
        self._authorize = authorize
        self._cors = _cors(settings.allowed_origins)

    def check_page(self, request: Request) -> None:
        """Let no page of another site call: Fetch Metadata first, then Origin, as Go's CrossOriginProtection does.

        A POST without a body needs no preflight, so CORS alone would not stop it. Without either header the caller is
        not a browser.
        """
        site = request.environ.get("HTTP_SEC_FETCH_SITE")
        origin = request.environ.get("HTTP_ORIGIN")
        if origin is None and site is None:
            return
        if origin != "null" and (site in {"same-origin", "none"} or origin in self._allowed_origins):
            return
        if site is None and origin == f"{request.scheme}://{request.host}":
            return
        raise AccessDeniedError(
            "a page of this origin may not call: list it in BAKRYPT_ALLOWED_ORIGINS",
            detail=f"Origin {origin!r}, Sec-Fetch-Site {site!r}",
        )

    def check_exchange(self) -> None:
        """Refuse callers whom the app has not let in. Where there is an `authorize`, it decides alone."""
        if self._authorize is None:
            if not self._public:
                raise AccessDeniedError(self.describe())
        elif not _decide(self._authorize):
            raise AccessDeniedError("you are not allowed to get an access token here")

    def describe(self) -> str:
        """Say who may exchange, for a person."""
        if self._authorize is not None:
            return "exchange is open to those whom authorize lets in"
        if self._public:
            return "exchange is open to everybody (BAKRYPT_EXCHANGE_PUBLIC)"
        return "exchange is closed: pass authorize= to create_blueprint, or set BAKRYPT_EXCHANGE_PUBLIC=true"

    def add_cors_headers(self, response: Response, origin: str | None) -> Response:
        """Answer from this list alone, which never says `*`, whatever flask-cors does for the rest of the host app."""
        headers = response.headers
        for name in [name for name, _ in headers if name[:15].lower() == "access-control-"]:
            del headers[name]
        if headers.get("Vary") != "Origin":
            response.vary.add("Origin")
        if origin in self._allowed_origins:
            return self._cors(response)
        self.leave_without_cors_headers(response)
        return response

    @staticmethod
    def leave_without_cors_headers(response: Response) -> None:
        """Keep the host's own flask-cors from adding any; ours would add none, at a third of the reply's cost."""
        setattr(response, _EVALUATED, True)


def _decide(authorize: Authorize) -> bool:
    """Ask the app. What a view would return is no answer: a redirect to the login page is true in Python."""
    answer = authorize()
    if answer is True:
        return True
    if isinstance(answer, (BaseResponse, tuple)) or isawaitable(answer):
        raise TypeError(f"authorize must return true or false, not {type(answer).__name__}")
    return bool(answer)


def _cors(origins: frozenset[str]) -> Callable[[Response], Response]:
    """Return flask-cors as a function on a response.

    flask-cors takes a string with brackets, as in `http://[::1]:3000`, for a pattern and ignores case; these patterns
    match one origin each.
    """
    from flask_cors import cross_origin  # noqa: PLC0415 - a script with the client alone needs none of it

    decorate = cross_origin(
        origins=[re.compile(re.escape(origin) + r"\Z") for origin in origins],
        methods=["GET", "POST"],
        allow_headers="*",
        expose_headers=["Retry-After", "X-Request-ID"],
        supports_credentials=True,
        max_age=_PREFLIGHT_SECONDS,
        always_send=False,
        automatic_options=False,
    )
    return decorate(lambda response: response)
