"""The errors of this package, each with the reply that it becomes.

BakryptError
├── SettingsError            500  a setting is wrong or missing
├── InvalidRequestError      400  the caller's request is malformed
├── AccessDeniedError        403  the gate did not let the caller in
├── UpstreamRefusedError     4xx  bakrypt refuses what the caller sent
├── CredentialsRefusedError  500  bakrypt refuses this server's credentials
└── UpstreamFailedError      500  bakrypt gave no answer, or none that can be used
"""

from typing import Self

from .types import ErrorResponse


class BakryptError(Exception):
    """The root of all errors of this package.

    `status` is the HTTP status of the reply, `response` its body and `retry_after` its Retry-After header, if any.
    `detail` is for the log alone: it says more than a caller should know, but never a secret.
    `cooldown` is set where the failure is remembered: for so many seconds nobody asks bakrypt again.
    """

    status = 500
    error = "server_error"

    def __init__(
        self,
        description: str | None = None,
        *,
        status: int | None = None,
        error: str | None = None,
        detail: str = "",
        retry_after: str | None = None,
    ) -> None:
        super().__init__(description)
        self.description = description
        self.status = self.status if status is None else status
        self.error = self.error if error is None else error
        self.detail = detail
        self.retry_after = retry_after
        self.cooldown: float | None = None

    def __str__(self) -> str:
        return self.error if self.description is None else f"{self.error}: {self.description}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def again(self) -> Self:
        """Return a copy to raise: an exception that many threads raise collects all their tracebacks."""
        copy = type(self)(self.description)
        vars(copy).update(vars(self))
        return copy

    def explain(self) -> str:
        """Return all there is to say, for the log or for whoever runs this server."""
        return f"{self} ({self.detail})" if self.detail else str(self)

    @property
    def response(self) -> ErrorResponse:
        """The body of the reply."""
        if self.description is None:
            return {"error": self.error}
        return {"error": self.error, "error_description": self.description}


class SettingsError(BakryptError):
    """One or more settings are wrong or missing. The description has a line for each, with the remedy."""

    def __str__(self) -> str:
        return self.description or ""

    @property
    def problems(self) -> list[str]:
        """The lines of the description."""
        return (self.description or "").splitlines()


class InvalidRequestError(BakryptError):
    """The caller's request is malformed, or asks for a grant that we do not do."""

    status = 400
    error = "invalid_request"


class AccessDeniedError(BakryptError):
    """The gate did not let the caller in."""

    status = 403
    error = "access_denied"


class UpstreamRefusedError(BakryptError):
    """Bakrypt refuses what the caller sent: a wrong password, a dead refresh token, too many attempts.

    `status`, `error` and `retry_after` are bakrypt's own.
    """


class CredentialsRefusedError(BakryptError):
    """Bakrypt refuses this server's credentials. `detail` names the settings to look at."""


class UpstreamFailedError(BakryptError):
    """Bakrypt gave no answer, or none that can be used. The description names the kind of failure."""
