"""The sandbox's OAuth engine: oauthlib, on which bakrypt's engine is built, and a memory store."""

import hmac
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from oauthlib.common import Request
from oauthlib.oauth2 import LegacyApplicationServer, RequestValidator
from oauthlib.oauth2.rfc6749.grant_types.base import GrantTypeBase

SCOPES = ["read", "write"]


@dataclass(frozen=True)
class _Issued:
    """The user of an access token and when it expires, in seconds of the clock."""

    username: str
    expires_at: float


class TokenStore(RequestValidator):
    """Knows one OAuth client, a few users and all issued tokens, for oauthlib.

    oauthlib calls most of its methods; the base class documents their parameters.

    :param client_id: the id of the only client.
    :param client_secret: its secret.
    :param users: the password of each user.
    :param clock: returns a time in seconds; it decides when a token expires.
    """

    def __init__(
        self,
        *,
        client_id: str,
        client_secret: str,
        users: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._client = {"client_id": client_id, "client_secret": client_secret}
        self._users = users
        self._clock = clock
        self._lock = threading.Lock()
        self._issued: dict[str, _Issued] = {}
        self._access_by_refresh: dict[str, str] = {}

    def authenticate_client(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        """Return whether the form contains the sandbox's client id and secret."""
        given = {name: getattr(request, name) or "" for name in self._client}
        request.client = SimpleNamespace(client_id=given["client_id"])
        return all(_same(given[name], value) for name, value in self._client.items())

    def validate_user(
        self, username: str, password: str, client: Any, request: Request, *_: Any, **__: Any
    ) -> bool:
        """Return whether the user has this password."""
        request.user = username
        return username in self._users and _same(password, self._users[username])

    def validate_refresh_token(
        self, refresh_token: str, client: Any, request: Request, *_: Any, **__: Any
    ) -> bool:
        """Accept a refresh token once, and revoke the access token that was issued with it."""
        with self._lock:
            access_token = self._access_by_refresh.pop(refresh_token, None)
            issued = self._issued.pop(access_token or "", None)
        if issued is not None:
            request.user = issued.username
        return issued is not None

    def save_bearer_token(self, token: Any, request: Request, *_: Any, **__: Any) -> None:
        """Store a token that oauthlib has created."""
        expires_at = self._clock() + token["expires_in"]
        with self._lock:
            self._issued[token["access_token"]] = _Issued(str(request.user), expires_at)
            self._access_by_refresh[token["refresh_token"]] = token["access_token"]

    def validate_bearer_token(self, token: str | None, scopes: list[str], request: Request) -> bool:
        """Return whether an access token is valid, and set the request's user."""
        request.user = self.owner(token)
        return request.user is not None

    def owner(self, access_token: str | None) -> str | None:
        """Return the user of an access token, or None if it is unknown or expired.

        :param access_token: the token; None is an unknown one.
        """
        issued = self._issued.get(access_token or "")
        return None if issued is None or self._clock() >= issued.expires_at else issued.username

    def revoke(self, access_token: str | None = None) -> None:
        """Revoke an access token before it expires.

        :param access_token: the token; an unknown one is ignored. None revokes all.
        """
        with self._lock:
            for token in list(self._issued) if access_token is None else [access_token]:
                self._issued.pop(token, None)

    def validate_grant_type(self, *_: Any, **__: Any) -> bool:
        """Return True: the only client may use both grants."""
        return True

    def validate_scopes(self, client_id: str, scopes: list[str], *_: Any, **__: Any) -> bool:
        """Return whether the request asks for no other scopes than the default ones."""
        return set(scopes) <= set(SCOPES)

    def get_default_scopes(self, *_: Any, **__: Any) -> list[str]:
        """Return the scopes of every token."""
        return SCOPES

    def get_original_scopes(self, *_: Any, **__: Any) -> list[str]:
        """Return the scopes of every token."""
        return SCOPES


class OAuthServer(LegacyApplicationServer):
    """oauthlib's server for the password and refresh grants, with bakrypt's exchange added.

    :param store: where issued tokens are stored and checked.
    :param expires_in: returns the lifetime of a new access token, in seconds.
    """

    def __init__(self, store: TokenStore, expires_in: Callable[[Request], int]) -> None:
        super().__init__(store, token_expires_in=expires_in)
        self._store = store

    @property
    def default_grant_type_handler(self) -> GrantTypeBase:
        """Return the handler of an unknown grant type.

        It is the refresh grant, because that checks the grant type first. The password grant
        would complain about a missing username.
        """
        return self.refresh_grant

    def exchange(self, username: str) -> dict[str, Any]:
        """Issue a new token. Tokens issued before remain valid.

        :param username: the user of the token.
        :returns: the members of bakrypt's response.
        """
        request = Request("/auth/exchange/")
        request.user, request.scopes = username, SCOPES
        token: dict[str, Any] = self.bearer.create_token(request, refresh_token=True)
        self._store.save_bearer_token(token, request)
        return token


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
