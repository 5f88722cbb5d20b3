"""Sealed values: a reader of the store without `BAKRYPT_TOKEN` learns nothing from it.

A sealed value also says what it is for and from when until when it is valid. So nobody can put it
in another place, or back after its time, and have it believed.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Opened(NamedTuple):
    """What was sealed, and for how many more seconds it is valid."""

    body: dict[str, Any]
    left: float


class Seal:
    """Encrypts JSON objects with a key that is derived from a secret (HKDF, RFC 5869; Fernet).

    All times are in seconds of the clock of the store, so that the machines' clocks need not agree.

    :param secret: the secret.
    :param purpose: what the values are for. A value that was sealed for another purpose does not
        open.
    """

    def __init__(self, secret: str, purpose: str) -> None:
        key = derive_key(secret, f"seal {purpose}")
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def close(self, body: Mapping[str, Any], *, now: float, seconds: float) -> bytes:
        """Return an object, sealed. It is valid from `now` on, for so many seconds."""
        return self._fernet.encrypt(
            json.dumps({"from": now, "until": now + seconds, "body": body}).encode()
        )

    def open(self, sealed: object, *, now: float) -> Opened | None:
        """Return what was sealed.

        :return: None if it is not valid now, or if it was not sealed with this secret for this
            purpose.
        """
        if not isinstance(sealed, bytes):
            return None
        try:
            value = json.loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            return None
        # A value from the future: the clock of the store was set back, and would prolong it.
        is_valid = value["from"] <= now < value["until"]
        return Opened(value["body"], value["until"] - now) if is_valid else None


def derive_key(secret: str, purpose: str) -> bytes:
    """Return 32 bytes that are derived from a secret. Another purpose gives other bytes."""
    info = f"bakrypt_proxy {purpose}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret.encode())
