"""The errors of this package, each with the response that it becomes.

BakryptError
├── SettingsError            500  a setting is wrong or missing
├── InvalidRequestError      400  the caller's request is malformed
├── AccessDeniedError        403  the caller is not let in
├── UnavailableError         503  try again in a moment
├── UpstreamRefusedError     4xx  bakrypt refuses what the caller sent
├── CredentialsRefusedError  500  bakrypt refuses this server's credentials
└── UpstreamFailedError      500  bakrypt gave no usable response
"""

from typing import Self

from .types import ErrorResponse


class BakryptError(Exception):
    """The root of all errors of this package.

    :param description: a sentence for the caller; without a secret.
    :param status: the HTTP status of the response; by default the class's.
    :param error: the code of RFC 6749 section 5.2; by default the class's.
    :param detail: more for the log, which the caller must not see; without a secret.
    :param retry_after: the value of the Retry-After header.

    `cooldown` is set if the failure is remembered: the seconds for which nobody asks bakrypt again.
    """

    status: int = 500
    error: str = "server_error"

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
        # For the log and for the person who runs the program; callers get `response`.
        said = self.error if self.description is None else f"{self.error}: {self.description}"
        return f"{said} ({self.detail})" if self.detail else said

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def again(self) -> Self:
        """Return a copy to raise.

        An exception that many threads raise would collect all their tracebacks.
        """
        copy = type(self)(self.description)
        vars(copy).update(vars(self))
        return copy

    @property
    def response(self) -> ErrorResponse:
        """The body of the response."""
        if self.description is None:
            return {"error": self.error}
        return {"error": self.error, "error_description": self.description}


class SettingsError(BakryptError):
    """Settings are wrong or missing. The description has a line for each, with the remedy."""

    def __str__(self) -> str:
        return self.description or ""

    @property
    def problems(self) -> list[str]:
        """The lines of the description."""
        return (self.description or "").splitlines()


class InvalidRequestError(BakryptError):
    """The caller's request is malformed, or asks for an unsupported grant."""

    status = 400
    error = "invalid_request"


class AccessDeniedError(BakryptError):
    """The caller is not let in: another site's page, or `authorize` said no."""

    status = 403
    error = "access_denied"


class UnavailableError(BakryptError):
    """The caller is to try again after `retry_after` seconds."""

    status = 503
    error = "temporarily_unavailable"


class UpstreamRefusedError(BakryptError):
    """Bakrypt refuses what the caller sent: a wrong password, for example.

    `status`, `error` and `retry_after` are bakrypt's own.
    """


class CredentialsRefusedError(BakryptError):
    """Bakrypt refuses this server's credentials. `detail` names the settings to look at."""


class UpstreamFailedError(BakryptError):
    """Bakrypt gave no usable response. The description names the kind of failure."""
