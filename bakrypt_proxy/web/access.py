"""Who may call: the check of the calling page's origin, and the app's `authorize`."""

from collections.abc import Callable
from inspect import iscoroutinefunction
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from flask import Request

from ..cli import Finding
from ..errors import AccessDeniedError
from ..settings import Settings

Authorize = Callable[[], bool | None]


class Opening(NamedTuple):
    """What a blueprint opens, and how its app opens it to everybody."""

    subject: str
    what: str
    is_public: Callable[[Settings], bool]
    setting: str
    function: str
    refusal: str


EXCHANGE = Opening(
    "gate",
    "exchange",
    lambda settings: settings.exchange_public,
    "BAKRYPT_EXCHANGE_PUBLIC",
    "create_blueprint",
    "you are not allowed to get an access token here",
)
API = Opening(
    "api",
    "the API",
    lambda settings: settings.api_public,
    "BAKRYPT_API_PUBLIC",
    "create_api_blueprint",
    "you are not allowed to call the API here",
)


class Access:
    """Decides who may call the routes of one blueprint.

    :param settings: the settings of the blueprint.
    :param opening: what the blueprint opens.
    :param authorize: the app's function, called in each request without arguments; None if the
        settings alone decide.
    :raises TypeError: if `authorize` is not callable, or is async.
    """

    def __init__(self, settings: Settings, opening: Opening, authorize: Authorize | None) -> None:
        if authorize is not None and (not callable(authorize) or iscoroutinefunction(authorize)):
            raise TypeError(
                "authorize must be a function that returns true or false, and not an async one"
            )
        self._allowed_origins = settings.allowed_origins
        self._opening = opening
        self._public = opening.is_public(settings)
        self._trusted_hosts = settings.trusted_hosts
        self._authorize = authorize

    def check_origin(self, request: Request) -> None:
        """Refuse pages of other sites, by Fetch Metadata and Origin.

        It is stricter than Go's `http.CrossOriginProtection`. `Sec-Fetch-Site: none` says that the
        user asks, but a page of another site brings it too: with its Origin by a background fetch,
        and with Sec-Purpose by a speculation rule. A POST without a body needs no preflight, so
        CORS alone would not stop it. A request without these headers does not come from a browser.

        :raises AccessDeniedError: if a page of another origin calls that is not listed.
        """
        environ = request.environ
        site = environ.get("HTTP_SEC_FETCH_SITE")
        origin = environ.get("HTTP_ORIGIN")
        is_ours = site == "same-origin" and origin != "null"
        if site is None or (site == "none" and "HTTP_SEC_PURPOSE" not in environ):
            is_ours = origin in {None, f"{request.scheme}://{request.host}"}
        if not (is_ours or origin in self._allowed_origins):
            raise AccessDeniedError(
                "a page of this origin may not call: list it in BAKRYPT_ALLOWED_ORIGINS",
                detail=f"Origin {origin!r}, Sec-Fetch-Site {site!r}",
            )

    def check_caller(self, request: Request) -> None:
        """Refuse callers whom the app does not let in. If there is an `authorize`, it decides.

        :raises AccessDeniedError: if the caller is not let in.
        :raises TypeError: if `authorize` returns anything but true, false or None.
        """
        if self._authorize is not None:
            if not _decide(self._authorize):
                raise AccessDeniedError(self._opening.refusal)
        elif not self._public:
            raise AccessDeniedError(self.describe())
        else:
            self._check_host(request)

    def _check_host(self, request: Request) -> None:
        """Believe our own origin only under a known host name.

        A page of another site whose name is pointed at this server (DNS rebinding) has our origin.
        """
        if not _is_own_page(request, self._allowed_origins):
            return
        for host in _hosts(request):
            if not _is_address(host) and host not in {"localhost", *self._trusted_hosts}:
                raise AccessDeniedError(
                    "pages under this host name may not call: list it in BAKRYPT_TRUSTED_HOSTS",
                    detail=f"Host {host!r}",
                )

    @property
    def finding(self) -> Finding:
        """What `check` says of who may call."""
        is_open = self._public or self._authorize is not None
        return Finding(self._opening.subject, "ok" if is_open else "off", self.describe())

    def describe(self) -> str:
        """Return a sentence that says who may call."""
        opening = self._opening
        if self._authorize is not None:
            return f"{opening.what} is open to those whom authorize lets in"
        if self._public:
            return f"{opening.what} is open to everybody ({opening.setting})"
        return (
            f"{opening.what} is closed: pass authorize= to {opening.function}, "
            f"or set {opening.setting}=true"
        )


def _decide(authorize: Authorize) -> bool:
    """Call the app's function. A redirect, a generator or a mock is true in Python: no answer."""
    answer = authorize()
    if answer is None or isinstance(answer, bool):
        return bool(answer)
    raise TypeError(f"authorize must return true, false or None, not {type(answer).__name__}")


def _is_own_page(request: Request, listed: frozenset[str]) -> bool:
    """Return whether a browser sent a request that passed `check_origin` as our own page's."""
    origin = request.environ.get("HTTP_ORIGIN")
    is_browser = origin is not None or "HTTP_SEC_FETCH_SITE" in request.environ
    return is_browser and origin not in listed


def _hosts(request: Request) -> set[str]:
    """Return the host names of a request, without ports: its own, its page's, that for `ProxyFix`.

    If a proxy does not set X-Forwarded-Host, the page can choose it. If it does not pass Host on,
    only the page says where it is.
    """
    original = request.environ.get("werkzeug.proxy_fix.orig", {}).get("HTTP_HOST", request.host)
    return {host_name(host) for host in (request.host, original, page_host(request))}


def page_host(request: Request) -> str:
    """Return the host of the calling page, with its port; ours if the browser does not say it."""
    origin: str | None = request.environ.get("HTTP_ORIGIN")
    return request.host if origin is None else origin.partition("://")[2]


def host_name(host: str) -> str:
    """Return the name in a `Host` header, without its port; empty if it is broken."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets without an IPv6 address
        return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
