"""Sealed values: a reader of the store without `BAKRYPT_TOKEN` learns nothing and can forge nothing."""

import base64
import json
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Seal:
    """Encrypts JSON objects with a key derived from a secret (HKDF, RFC 5869; Fernet)."""

    def __init__(self, secret: str) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(derive_key(secret, b"seal")))

    def close(self, body: dict[str, Any]) -> bytes:
        """Return an object, sealed."""
        return self._fernet.encrypt(json.dumps(body).encode())

    def open(self, sealed: bytes | None) -> dict[str, Any] | None:
        """Return what was sealed, or None if there is nothing or somebody without the secret wrote it."""
        try:
            return None if sealed is None else json.loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            return None


def derive_key(secret: str, purpose: bytes) -> bytes:
    """Return 32 bytes derived from a secret; another purpose gives other bytes."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"bakrypt_proxy " + purpose).derive(
        secret.encode()
    )
