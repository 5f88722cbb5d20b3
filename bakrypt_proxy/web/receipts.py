"""Receipts: signed cookies that prove which transactions a visitor made. Nothing is stored here.

There is one cookie for each transaction: of several in one cookie, parallel responses would keep
only the last.
"""

import hashlib
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import NamedTuple
from uuid import UUID

from flask import Request, Response
from itsdangerous import BadSignature, TimestampSigner
from werkzeug.datastructures import MultiDict
from werkzeug.http import parse_cookie

from .._parsers import is_loopback
from ..errors import AccessDeniedError, InvalidRequestError, SettingsError
from ..settings import Settings
from ..upstream.masking import Masked
from .access import host_name, page_host

Visitor = Callable[[], str | None]

MAX_AGE = 30 * 86400  # seconds
# Each takes 96 bytes of the Cookie header, on http 84. A server refuses all requests of a browser
# whose cookies are too long, gunicorn above 8 KiB.
_MAX_RECEIPTS = 20  # of one visitor
_MAX_OTHERS = 40  # of the browser's other visitors, and of other blueprints of the app
_LONGEST_VALUE = 100  # characters; ours have 51, and base64 could hide any number among them
_REMEMBERED = 1024  # receipts of a worker that need not be verified again
_REMEMBERED_HOSTS = 64  # values of the Host header
_SECURE_PREFIX = "__Host-Http-bakrypt-"  # RFC 6265bis: from this host, and never from a script
_LOOPBACK_PREFIX = "bakrypt-"  # Safari drops Secure cookies on http, also on loopback
_LABEL = b"bakrypt_proxy receipts "


class _Receipt(NamedTuple):
    transaction: UUID
    signed_at: float  # seconds since the epoch


class Receipts:
    """Issues and checks the receipts of one blueprint.

    :param settings: the network that receipts are good for, and the keys that sign them.
    :param visitor: returns the name of the signed-in visitor, or an empty string or None. What a
        visitor made before signing in stays theirs.
    :raises TypeError: if `visitor` is not callable, or is async.
    """

    def __init__(self, settings: Settings, visitor: Visitor | None) -> None:
        if visitor is not None and (not callable(visitor) or iscoroutinefunction(visitor)):
            raise TypeError("visitor must be a function that returns a string, and no async one")
        self._network = settings.url
        self._keys = Masked(_keys(settings))
        self._visitor = visitor
        # A page that polls sends the same receipt again and again: an eighth of a call's time.
        # What is refused raises, and is not remembered.
        self._verified = lru_cache(maxsize=_REMEMBERED)(self._verify)

    def check_cookies(self, request: Request) -> None:
        """Refuse a request whose receipt could not be kept or would be sent in the clear.

        :raises AccessDeniedError: over http on any host but loopback, or if the browser says that
            the page, or one around it, is of another site.
        :raises InvalidRequestError: if the server could not read the cookies.
        """
        # Behind a proxy that does not pass Host on, only the page says where it is.
        is_local = _is_on_loopback(request.host) and _is_on_loopback(page_host(request))
        if not request.is_secure and not is_local:
            raise AccessDeniedError(
                "this needs https: if a proxy of yours ends TLS, let it pass Host and "
                "X-Forwarded-Proto on, and set BAKRYPT_TRUSTED_PROXIES"
            )
        environ = request.environ
        # Whatever it says: it is sent for other sites only, and SameSite=Strict keeps no cookie.
        is_foreign = environ.get("HTTP_SEC_FETCH_SITE") == "cross-site"
        if is_foreign or "HTTP_SEC_FETCH_STORAGE_ACCESS" in environ:
            raise AccessDeniedError("the browser keeps no cookies here: open the page by itself")
        is_lost = environ.get("HTTP_COOKIE") == "" and environ.get("SERVER_SOFTWARE") == "Granian"
        if is_lost:  # granian makes that of a Cookie header that is not ASCII
            raise InvalidRequestError(
                "this server could not read the browser's cookies: is one of them not ASCII?"
            )

    def owns(self, request: Request, transaction: UUID) -> bool:
        """Return whether a request carries the receipt of a transaction."""
        name = _cookie_name(request, transaction)
        value = _cookies(request).get(name, "")
        return self._signed_at(name, value, self.name()) is not None

    def transactions(self, request: Request) -> list[UUID]:
        """Return the transactions whose receipts a request carries, newest first."""
        return self._owned(request, self.name())

    def name(self) -> str:
        """Return the name of the signed-in visitor, or an empty string.

        :raises TypeError: if `visitor` returns anything but a string or None.
        """
        found = self._visitor() if self._visitor is not None else None
        if found is None or isinstance(found, str):
            return "".join(found or "")  # no proxy of a string: it would end in the signature
        raise TypeError(f"visitor must return a string or None, not {type(found).__name__}")

    def add(
        self, request: Request, response: Response, transactions: list[UUID], visitor: str
    ) -> None:
        """Set the receipts of new transactions, and remove the oldest ones above the limits.

        :param visitor: what `name` returned before the call: the app's function could fail now, and
            the transactions would be lost.
        """
        for transaction in transactions:
            name = _cookie_name(request, transaction)
            value = self._signer(name, visitor).sign("").decode()
            _set_cookie(request, response, name, value, MAX_AGE)
        old = [found for found in self._owned(request, visitor) if found not in transactions]
        own = {*old, *transactions}
        others = [found for found in _transactions(request) if found not in own]
        surplus = old[max(0, _MAX_RECEIPTS - len(transactions)) :] + others[_MAX_OTHERS:]
        for transaction in surplus:
            _set_cookie(request, response, _cookie_name(request, transaction), "", 0)

    def _owned(self, request: Request, visitor: str) -> list[UUID]:
        """Return the transactions of a visitor, by the receipts of a request, newest first."""
        found = []
        for name, value in _cookies(request).items():
            transaction = _transaction(name, _prefix(request))
            signed_at = None if transaction is None else self._signed_at(name, value, visitor)
            if transaction is not None and signed_at is not None:
                found.append(_Receipt(transaction, signed_at))
        # Browsers send the oldest first (RFC 6265 section 5.4): that orders those of one second.
        found.reverse()
        found.sort(key=lambda receipt: receipt.signed_at, reverse=True)
        return [receipt.transaction for receipt in found]

    def _signed_at(self, name: str, value: str, visitor: str) -> float | None:
        """Return when a receipt was signed for this visitor, or before they signed in."""
        if len(value) > _LONGEST_VALUE:
            return None
        for signed_for in {visitor, ""}:
            try:
                signed_at = self._verified(name, signed_for, value)
            except BadSignature:
                continue
            if time.time() - signed_at <= MAX_AGE:
                return signed_at
        return None

    def _verify(self, name: str, visitor: str, value: str) -> float:
        """Return when a receipt was signed.

        :raises BadSignature: if it was not, not for this visitor, or under another name.
        """
        # Not by its max_age: that refuses a receipt of a worker whose clock is ahead.
        _, signed_at = self._signer(name, visitor).unsign(value, return_timestamp=True)
        return float(signed_at.timestamp())

    def _signer(self, name: str, visitor: str) -> TimestampSigner:
        # JSON, so that no two lists of names give the same salt.
        salt = json.dumps([self._network, name, visitor])
        return TimestampSigner(
            self._keys.reveal(), salt, key_derivation="hmac", digest_method=hashlib.sha256
        )


def _keys(settings: Settings) -> list[bytes]:
    """Return the keys, the one that signs last, as itsdangerous has it."""
    if settings.cookie_key is not None:
        return [key.strip().encode() for key in reversed(settings.cookie_key.split(","))]
    if settings.token is None:
        raise SettingsError("BAKRYPT_TOKEN is not set: calls to the API need it")
    return [hashlib.sha256(_LABEL + settings.token.encode()).digest()]


def _cookie_name(request: Request, transaction: UUID) -> str:
    short = urlsafe_b64encode(transaction.bytes).decode().rstrip("=")
    return _prefix(request) + short


def _transactions(request: Request) -> list[UUID]:
    """Return all transactions that cookies are named after, newest first, also those of others."""
    names = reversed([*_cookies(request)])
    found = (_transaction(name, _prefix(request)) for name in names)
    return [transaction for transaction in found if transaction is not None]


def _transaction(name: str, prefix: str) -> UUID | None:
    """Return the transaction that a cookie is named after, or None if it is none of ours."""
    if not name.startswith(prefix):
        return None
    short = name.removeprefix(prefix)
    try:
        found = UUID(bytes=urlsafe_b64decode(f"{short}=="))
    except ValueError:
        return None
    # The last letter of base64 has spare bits: only one spelling is a name of ours.
    return found if urlsafe_b64encode(found.bytes).decode() == f"{short}==" else None


def _cookies(request: Request) -> MultiDict[str, str]:
    # request.cookies reads all other headers on its way, which takes three times as long. Ours are
    # ASCII; of others, parse_cookie would raise for bytes that are no UTF-8.
    sent = request.environ.get("HTTP_COOKIE", "")
    return parse_cookie(sent.encode("ascii", "replace").decode())


def _prefix(request: Request) -> str:
    return _SECURE_PREFIX if request.is_secure else _LOOPBACK_PREFIX


@lru_cache(maxsize=_REMEMBERED_HOSTS)
def _is_on_loopback(host: str) -> bool:
    name = host_name(host)
    return is_loopback(name) or name.endswith(".localhost")  # to browsers (RFC 6761 section 6.3)


def _set_cookie(request: Request, response: Response, name: str, value: str, max_age: int) -> None:
    response.set_cookie(
        name,
        value,
        max_age=max_age,
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
        path="/",
    )
