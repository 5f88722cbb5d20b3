"""Who may call: the check of the calling page's origin, and the app's `authorize`."""

from collections.abc import Callable
from inspect import isawaitable, iscoroutinefunction

from flask import Request
from werkzeug.wrappers import Response as BaseResponse

from ..errors import AccessDeniedError
from ..settings import Settings

Authorize = Callable[[], bool]


class Access:
    """Decides who may call the routes of one blueprint.

    :param settings: the settings of the blueprint.
    :param authorize: the app's function, called in each request without arguments; None if the
        settings alone decide.
    :raises TypeError: if `authorize` is not callable, or is async.
    """

    def __init__(self, settings: Settings, authorize: Authorize | None) -> None:
        if authorize is not None and (not callable(authorize) or iscoroutinefunction(authorize)):
            raise TypeError(
                "authorize must be a function that returns true or false, and not an async one"
            )
        self._allowed_origins = settings.allowed_origins
        self._public = settings.exchange_public
        self._authorize = authorize

    def check_origin(self, request: Request) -> None:
        """Refuse pages of other sites: Fetch Metadata first, then Origin.

        This is what Go's `http.CrossOriginProtection` does. A POST without a body needs no
        preflight, so CORS alone would not stop it. A request without either header does not come
        from a browser.

        :raises AccessDeniedError: if a page of another origin calls that is not listed.
        """
        environ = request.environ
        site = environ.get("HTTP_SEC_FETCH_SITE")
        origin = environ.get("HTTP_ORIGIN")
        if origin is None and site is None:
            return
        if origin != "null" and (
            site in {"same-origin", "none"} or origin in self._allowed_origins
        ):
            return
        if site is None and origin == f"{request.scheme}://{request.host}":
            return
        raise AccessDeniedError(
            "a page of this origin may not call: list it in BAKRYPT_ALLOWED_ORIGINS",
            detail=f"Origin {origin!r}, Sec-Fetch-Site {site!r}",
        )

    def check_exchange(self) -> None:
        """Refuse callers whom the app does not let in. If there is an `authorize`, it decides.

        :raises AccessDeniedError: if the caller is not let in.
        :raises TypeError: if `authorize` returns what a view would return.
        """
        if self._authorize is None:
            if not self._public:
                raise AccessDeniedError(self.describe())
        elif not _decide(self._authorize):
            raise AccessDeniedError("you are not allowed to get an access token here")

    def describe(self) -> str:
        """Return a sentence that says who may exchange."""
        if self._authorize is not None:
            return "exchange is open to those whom authorize lets in"
        if self._public:
            return "exchange is open to everybody (BAKRYPT_EXCHANGE_PUBLIC)"
        return (
            "exchange is closed: pass authorize= to create_blueprint, "
            "or set BAKRYPT_EXCHANGE_PUBLIC=true"
        )


def _decide(authorize: Authorize) -> bool:
    """Call the app's function. A redirect to a login page is true in Python, and no answer."""
    answer = authorize()
    if answer is True:
        return True
    if isinstance(answer, (BaseResponse, tuple)) or isawaitable(answer):
        raise TypeError(f"authorize must return true or false, not {type(answer).__name__}")
    return bool(answer)
