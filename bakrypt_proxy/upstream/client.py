"""BakryptClient: the documented calls to bakrypt, without Flask. All of them go through one funnel, `_post`."""

import os
import ssl
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import quote_plus, urlencode

import requests
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from ..errors import InvalidRequestError, SettingsError, UpstreamFailedError
from ..settings import Settings
from ..telemetry.calls import UpstreamCall, observed
from ..types import AccessToken
from .responses import EXCHANGE, MAX_BODY, TOKEN, Endpoint, Reply, read_reply, retry_after_seconds
from .transport import Post, open_session, send

_NOT_CONFIGURED = "this server's credentials are not configured: set "
_TIMEOUTS = (TimeoutError, requests.Timeout, Urllib3TimeoutError)
_TLS_FAILURES = (ssl.SSLError, SSLError)


class BakryptClient:
    """Gets access tokens from bakrypt. One client serves any number of threads, and forked processes too.

    Each call returns an `AccessToken` or raises a `BakryptError` (the tree stands in `errors.py`): `SettingsError` if
    the credentials it needs are not set, `UpstreamRefusedError` if bakrypt refuses what was passed in,
    `CredentialsRefusedError` if it refuses the settings' credentials, `UpstreamFailedError` if there is no usable reply
    within `settings.timeout` seconds.

    A `session` of your own is used with its headers, adapters, certificates and proxies, and `close` leaves it open;
    the deadline over the whole call and the retry of a stale connection are those of the client's own session.
    """

    def __init__(self, settings: Settings, *, session: requests.Session | None = None) -> None:
        self.settings = settings
        self._given_session = session
        self._own_session: requests.Session | None = None
        self._pid = 0
        self._credentials = _credentials_form(settings)

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
        """Close the kept-alive connections. The client may be used again, and opens new ones then."""
        session, self._own_session = self._own_session, None
        if session is not None:
            session.close()

    def exchange(self, *, timeout: float | None = None, shared: bool = False) -> AccessToken:
        """Exchange the secret `BAKRYPT_TOKEN` for an access token ("Token Authentication" in the documentation).

        `timeout`, in seconds, takes the place of the settings' one; `shared` is for the log: for many callers.
        """
        token = self.settings.token
        if token is None:
            raise SettingsError(_NOT_CONFIGURED + "BAKRYPT_TOKEN or BAKRYPT_TOKEN_FILE")
        headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}
        return self._post(EXCHANGE, headers, "", secret=token, timeout=timeout, shared=shared)

    def password(self, username: str, password: str) -> AccessToken:
        """Get an access token for a user of bakrypt (RFC 6749 section 4.3; RFC 9700 section 2.4 advises against it)."""
        return self._grant({"username": username, "password": password, "grant_type": "password"})

    def refresh(self, refresh_token: str) -> AccessToken:
        """Trade a refresh token for a new access token (RFC 6749 section 6); the old pair is dead afterwards."""
        return self._grant({"refresh_token": refresh_token, "grant_type": "refresh_token"})

    def _grant(self, form: Mapping[str, str]) -> AccessToken:
        if self.settings.client_secret is None or self._credentials is None:
            raise SettingsError(
                _NOT_CONFIGURED + "BAKRYPT_CLIENT_ID, and BAKRYPT_CLIENT_SECRET or its _FILE"
            )
        for name, value in form.items():
            _check_text(name, value)
        body = "&".join(
            [self._credentials, *[f"{name}={quote_plus(value)}" for name, value in form.items()]]
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._post(TOKEN, headers, body, secret=self.settings.client_secret)

    def _post(  # noqa: PLR0913 - most are named
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        body: str,
        *,
        secret: str,
        timeout: float | None = None,
        shared: bool = False,
    ) -> AccessToken:
        post = Post(self.settings.url + endpoint.path, headers, body)
        with observed(UpstreamCall(endpoint.name, self.settings.network, shared)) as call:
            reply = self._send(post, self.settings.timeout if timeout is None else timeout)
            call.status = reply.status
            return read_reply(endpoint, reply, secret)

    def _send(self, post: Post, timeout: float) -> Reply:
        try:
            answer = send(self._session(), post, timeout=timeout, limit=MAX_BODY + 1)
        except (
            OSError,
            HTTPError,
            ValueError,
        ) as error:  # requests' errors are OSErrors; http.client has ValueErrors
            raise _no_answer(error) from error
        retry_after = answer.headers.get("retry-after")
        return Reply(
            answer.status,
            answer.body,
            None if retry_after_seconds(retry_after) is None else retry_after,
        )

    def _session(self) -> requests.Session:
        if self._given_session is not None:
            return self._given_session
        session = self._own_session
        if session is None or self._pid != os.getpid():
            # After a fork the old session's sockets belong to the parent.
            session = open_session(self.settings.url)
            self._own_session, self._pid = session, os.getpid()
        return session


def _credentials_form(settings: Settings) -> str | None:
    """Return what each grant begins with: encoding it anew would be a twentieth of a call's cost."""
    if settings.client_id is None or settings.client_secret is None:
        return None
    return urlencode({"client_id": settings.client_id, "client_secret": settings.client_secret})


def _check_text(name: str, value: str) -> None:
    """Refuse half a surrogate pair, which JSON can carry and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        # Not `from error`: it carries the value, which may be a password.
        raise InvalidRequestError(f"{name} is not valid Unicode text") from None


def _no_answer(error: OSError | HTTPError | ValueError) -> UpstreamFailedError:
    """Name the kind of failure; the detail quotes the operating system alone, for requests may quote a header."""
    chain = list(_causes(error))
    if any(isinstance(cause, _TLS_FAILURES) for cause in chain):
        description = "no secure connection to bakrypt"
    elif any(
        isinstance(cause, NewConnectionError) for cause in chain
    ):  # before timeouts: urllib3 counts it as one
        description = "bakrypt could not be reached"
    elif any(isinstance(cause, _TIMEOUTS) for cause in chain):
        description = "bakrypt did not answer in time"
    else:
        description = "bakrypt's reply broke off or could not be read"
    root = chain[-1]
    quote = (
        f": {root}"
        if isinstance(root, OSError) and not isinstance(root, requests.RequestException)
        else ""
    )
    return UpstreamFailedError(description, detail=f"{type(root).__name__}{quote}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
