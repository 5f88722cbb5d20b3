"""A Flask blueprint that gets bakrypt.io access tokens for a browser, so that the secret stays on the server."""

from .blueprint import create_blueprint
from .client import BakryptClient
from .errors import (
    AccessDeniedError,
    BakryptError,
    CredentialsRefusedError,
    InvalidRequestError,
    SettingsError,
    UpstreamFailedError,
    UpstreamRefusedError,
)
from .settings import Settings
from .types import AccessToken, ErrorResponse

__all__ = [
    "AccessDeniedError",
    "AccessToken",
    "BakryptClient",
    "BakryptError",
    "CredentialsRefusedError",
    "ErrorResponse",
    "InvalidRequestError",
    "Settings",
    "SettingsError",
    "UpstreamFailedError",
    "UpstreamRefusedError",
    "create_blueprint",
]
