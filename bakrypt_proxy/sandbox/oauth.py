"""The sandbox's OAuth engine: oauthlib, which bakrypt's own engine is built on, over a store in memory."""

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
class Issued:
    """Whose an access token is and until when, in seconds of the clock."""

    username: str
    expires_at: float


class TokenStore(RequestValidator):
    """Answers oauthlib's questions from memory: one client, a few users, and the tokens issued so far."""

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
        self._issued: dict[str, Issued] = {}
        self._access_by_refresh: dict[str, str] = {}

    def authenticate_client(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        """Say whether the form's client id and secret are the sandbox's."""
        given = {name: getattr(request, name) or "" for name in self._client}
        request.client = SimpleNamespace(client_id=given["client_id"])
        return all(_same(given[name], value) for name, value in self._client.items())

    def validate_user(
        self, username: str, password: str, client: Any, request: Request, *_: Any, **__: Any
    ) -> bool:
        """Say whether a user has this password."""
        request.user = username
        return username in self._users and _same(password, self._users[username])

    def validate_refresh_token(
        self, refresh_token: str, client: Any, request: Request, *_: Any, **__: Any
    ) -> bool:
        """Take a refresh token, once, and revoke the access token that it came with."""
        with self._lock:
            access_token = self._access_by_refresh.pop(refresh_token, None)
            issued = self._issued.pop(access_token or "", None)
        if issued is not None:
            request.user = issued.username
        return issued is not None

    def save_bearer_token(self, token: Any, request: Request, *_: Any, **__: Any) -> None:
        """Keep a token that oauthlib has made."""
        expires_at = self._clock() + token["expires_in"]
        with self._lock:
            self._issued[token["access_token"]] = Issued(str(request.user), expires_at)
            self._access_by_refresh[token["refresh_token"]] = token["access_token"]

    def validate_bearer_token(self, token: str | None, scopes: list[str], request: Request) -> bool:
        """Say whether an access token is alive, and whose it is."""
        request.user = self.owner(token)
        return request.user is not None

    def owner(self, access_token: str | None) -> str | None:
        """Return whose a living access token is."""
        issued = self._issued.get(access_token or "")
        return None if issued is None or self._clock() >= issued.expires_at else issued.username

    def revoke(self, access_token: str) -> None:
        """End an access token before its time."""
        with self._lock:
            self._issued.pop(access_token, None)

    def validate_grant_type(self, *_: Any, **__: Any) -> bool:
        """Say that the one client may use both grants."""
        return True

    def validate_scopes(self, client_id: str, scopes: list[str], *_: Any, **__: Any) -> bool:
        """Say whether no scope beyond the usual ones is asked for."""
        return set(scopes) <= set(SCOPES)

    def get_default_scopes(self, *_: Any, **__: Any) -> list[str]:
        """Return the scopes that every token has."""
        return SCOPES

    def get_original_scopes(self, *_: Any, **__: Any) -> list[str]:
        """Return the scopes that every token has."""
        return SCOPES


class OAuthServer(LegacyApplicationServer):
    """oauthlib's server for the password and refresh grants, and bakrypt's exchange beside it."""

    def __init__(self, store: TokenStore, expires_in: Callable[[Request], int]) -> None:
        super().__init__(store, token_expires_in=expires_in)
        self._store = store

    @property
    def default_grant_type_handler(self) -> GrantTypeBase:
        """Return what answers an unknown grant type: the refresh grant, which looks at the type before all else."""
        return self.refresh_grant

    def exchange(self, username: str) -> dict[str, Any]:
        """Issue a token that has nothing to do with those issued before."""
        request = Request("/auth/exchange/")
        request.user, request.scopes = username, SCOPES
        token: dict[str, Any] = self.bearer.create_token(request, refresh_token=True)
        self._store.save_bearer_token(token, request)
        return token


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
