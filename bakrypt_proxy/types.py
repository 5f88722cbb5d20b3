"""The two bodies of the contract, with the names of bakrypt's documentation."""

from typing import NotRequired, TypedDict


class AccessToken(TypedDict):
    """The body of a success (RFC 6749 section 5.1). Unknown members pass through untouched.

    `expires_in` is in seconds.
    """

    access_token: str
    expires_in: int
    token_type: str
    scope: str
    refresh_token: NotRequired[str]


class ErrorResponse(TypedDict):
    """The body of an error (RFC 6749 section 5.2)."""

    error: str
    error_description: NotRequired[str]
