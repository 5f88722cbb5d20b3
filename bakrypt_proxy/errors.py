"""The errors of this package, each with the reply that it becomes.

BakryptError
├── SettingsError            500  a setting is wrong or missing
├── InvalidRequestError      400  the caller's request is malformed
├── AccessDeniedError        403  the gate did not let the caller in
├── UpstreamRefusedError     4xx  bakrypt refuses what the caller sent
├── CredentialsRefusedError  500  bakrypt refuses this server's credentials
└── UpstreamFailedError      500  bakrypt gave no answer, or none that can be used
"""

from typing import Final

from .types import ErrorResponse


class BakryptError(Exception):
    """The root of all errors of this package.

    `status` is the HTTP status of the reply and `response` its body. `detail` is for the log alone: it says more
    than a caller should know, but never a secret.
    """

    status: int = 500
    error: str = "server_error"
    retry_after: str | None = None

    def __init__(self, description: str | None = None, *, detail: str = "") -> None:
        super().__init__(description)
        self.description: Final = description
        self.detail: Final = detail

    def __str__(self) -> str:
        return self.error if self.description is None else f"{self.error}: {self.description}"

    @property
    def response(self) -> ErrorResponse:
        """The body of the reply."""
        if self.description is None:
            return {"error": self.error}
        return {"error": self.error, "error_description": self.description}


class SettingsError(BakryptError):
    """One or more settings are wrong or missing. `problems` has a line for each, with the remedy."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: Final = problems


class InvalidRequestError(BakryptError):
    """The caller's request is malformed, or asks for a grant that we do not do."""

    status = 400

    def __init__(self, description: str, *, error: str = "invalid_request") -> None:
        super().__init__(description)
        self.error = error


class AccessDeniedError(BakryptError):
    """The gate did not let the caller in."""

    status = 403
    error = "access_denied"


class UpstreamRefusedError(BakryptError):
    """Bakrypt refuses what the caller sent: a wrong password, a dead refresh token, too many attempts.

    `status`, `error` and `retry_after` (the header's text) are bakrypt's own.
    """

    def __init__(self, status: int, error: str, description: str | None, *, retry_after: str | None) -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        self.retry_after = retry_after


class CredentialsRefusedError(BakryptError):
    """Bakrypt refuses this server's credentials. `detail` names the settings to look at."""


class UpstreamFailedError(BakryptError):
    """Bakrypt gave no answer, or none that can be used. The description names the kind of failure."""
