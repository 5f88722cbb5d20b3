"""The two bodies of the contract, as the bakrypt documentation names them."""

from typing import NotRequired, TypedDict


class AccessToken(TypedDict):
    """A successful reply (RFC 6749 section 5.1). Members that bakrypt adds later pass through untouched.

    `expires_in` is in seconds.
    """

    access_token: str
    expires_in: int
    token_type: str
    scope: str
    refresh_token: NotRequired[str]


class ErrorResponse(TypedDict):
    """Any other reply (RFC 6749 section 5.2)."""

    error: str
    error_description: NotRequired[str]
