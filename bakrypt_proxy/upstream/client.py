"""BakryptClient: the documented calls to bakrypt, without Flask.

All of them go through one method, `_fetch`.
"""

from types import TracebackType
from typing import Self
from urllib.parse import quote_plus, urlencode

import requests

from .._parsers import seconds as parse_seconds
from ..errors import InvalidRequestError, SettingsError
from ..settings import Settings
from ..telemetry.calls import UpstreamCall, observed
from ..telemetry.tracing import trace_headers
from ..types import AccessToken
from .given_session import GivenSession
from .masking import Masked
from .responses import EXCHANGE, MAX_BODY, PASSWORD, REFRESH, Grant, read_response
from .transport import Request, Transport

_NOT_CONFIGURED = "this server's credentials are not configured: set "
_FORM_HEADERS = Masked({"Content-Type": "application/x-www-form-urlencoded"})


class BakryptClient:
    """Gets access tokens from bakrypt, for any number of threads, and in forked processes too.

    Each call returns an `AccessToken` or raises a `BakryptError` (`errors.py` has the tree):
    `SettingsError` if the credentials that it needs are not set, `UpstreamRefusedError` if bakrypt
    refuses what was passed in, `CredentialsRefusedError` if it refuses the settings' credentials,
    `UpstreamFailedError` if there is no usable response within `settings.timeout` seconds.

    :param settings: the settings.
    :param session: a session of your own to use instead of the client's connections, with its
        headers, adapters, certificates and proxies. `close` leaves it open. Its timeouts are those
        of requests: `settings.timeout` counts for connecting and for each read.
    """

    def __init__(self, settings: Settings, *, session: requests.Session | None = None) -> None:
        self.settings = settings
        self._transport: Transport | GivenSession | None = None
        if session is not None:
            self._transport = GivenSession(session, settings.url)
        self._credentials = Masked(_encode_credentials(settings))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.url})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections. The client can be used again, and opens new ones then."""
        if self._transport is not None:
            self._transport.close()

    def exchange(self, *, timeout: float | None = None, shared: bool = False) -> AccessToken:
        """Exchange the secret `BAKRYPT_TOKEN` for an access token.

        The documentation calls this "Token Authentication".

        :param timeout: in seconds, instead of `settings.timeout`; above 0 and up to 600.
        :param shared: for the log: the token is for many callers.
        :raises BakryptError: as the class says.
        :raises ValueError: if the timeout is no such number.
        """
        if self.settings.token is None:
            raise SettingsError(_NOT_CONFIGURED + "BAKRYPT_TOKEN or BAKRYPT_TOKEN_FILE")
        headers = Masked(
            {
                "Authorization": f"Token {self.settings.token}",
                "Content-Type": "application/json",
            }
        )
        request = Request(EXCHANGE.path, headers, Masked(""))
        secret = Masked(self.settings.token)
        return self._fetch(EXCHANGE, request, secret, timeout=timeout, shared=shared)

    def password(self, username: str, password: str, *, scope: str | None = None) -> AccessToken:
        """Get an access token for a user of bakrypt (RFC 6749 section 4.3).

        RFC 9700 section 2.4 advises against this grant.

        :param scope: what the token is to be good for, separated by spaces (RFC 6749 section 3.3);
            by default what bakrypt grants.

        :raises BakryptError: as the class says.
        :raises InvalidRequestError: if a parameter is not valid Unicode text.
        """
        parameters = Masked({"username": username, "password": password, **_scope(scope)})
        del username, password  # a crash reporter collects the local variables of each frame
        return self._fetch_by_form(PASSWORD, parameters)

    def refresh(self, refresh_token: str, *, scope: str | None = None) -> AccessToken:
        """Trade a refresh token for a new access token (RFC 6749 section 6).

        The old refresh token and its access token are dead afterwards.

        :param scope: as for `password`.

        :raises BakryptError: as the class says.
        :raises InvalidRequestError: if the refresh token is not valid Unicode text.
        """
        parameters = Masked({"refresh_token": refresh_token, **_scope(scope)})
        del refresh_token
        return self._fetch_by_form(REFRESH, parameters)

    def _fetch_by_form(self, grant: Grant, parameters: Masked[dict[str, str]]) -> AccessToken:
        if self.settings.client_secret is None or self.settings.client_id is None:
            raise SettingsError(
                _NOT_CONFIGURED + "BAKRYPT_CLIENT_ID, and BAKRYPT_CLIENT_SECRET or its _FILE"
            )
        for name in parameters.reveal():
            if not _is_text(parameters, name):
                # Nothing is chained: Python's own error would hold the value.
                raise InvalidRequestError(f"{name} is not valid Unicode text") from None
        form = _encode(parameters)
        body = Masked(f"{self._credentials.reveal()}&grant_type={grant.grant_type}&{form.reveal()}")
        request = Request(grant.path, _FORM_HEADERS, body)
        return self._fetch(grant, request, Masked(self.settings.client_secret))

    def _fetch(
        self,
        grant: Grant,
        request: Request,
        secret: Masked[str],
        *,
        timeout: float | None = None,
        shared: bool = False,
    ) -> AccessToken:
        seconds = self.settings.timeout if timeout is None else _check_timeout(timeout)
        call = UpstreamCall(grant.endpoint, self.settings.network, shared)
        with observed(call, method="POST", url=self.settings.url + grant.path):
            response = self.open_transport().send(
                _add_headers(request, trace_headers()), timeout=seconds, limit=MAX_BODY
            )
            call.status = response.status
            return read_response(grant, response, secret)

    def open_transport(self) -> Transport | GivenSession:
        """Return what sends this client's requests."""
        if self._transport is None:
            self._transport = Transport(self.settings.url)
        return self._transport


def _check_timeout(seconds: float) -> float:
    try:
        return parse_seconds(seconds)
    except ValueError as error:
        raise ValueError(f"the timeout {error}") from None


def _encode_credentials(settings: Settings) -> str:
    """Return what each form begins with. To encode it each time would cost 5 % of a call."""
    return urlencode({"client_id": settings.client_id, "client_secret": settings.client_secret})


def _encode(parameters: Masked[dict[str, str]]) -> Masked[str]:
    """Return the fields of a form. `urlencode` would encode their names, too: twice the time."""
    fields = parameters.reveal().items()
    return Masked("&".join(f"{name}={quote_plus(value)}" for name, value in fields))


def _scope(scope: str | None) -> dict[str, str]:
    return {} if scope is None else {"scope": scope}


def _add_headers(request: Request, headers: dict[str, str]) -> Request:
    if not headers:
        return request
    return request._replace(headers=Masked({**request.headers.reveal(), **headers}))


def _is_text(parameters: Masked[dict[str, str]], name: str) -> bool:
    """Return False for half a surrogate pair, which JSON can carry and UTF-8 cannot."""
    try:
        parameters.reveal()[name].encode()
    except (UnicodeEncodeError, AttributeError):
        return False
    return True
