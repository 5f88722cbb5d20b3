"""A Flask blueprint that gets bakrypt.io access tokens for a browser and keeps the secret."""

from .errors import (
    AccessDeniedError,
    BakryptError,
    CredentialsRefusedError,
    InvalidRequestError,
    SettingsError,
    UnavailableError,
    UpstreamFailedError,
    UpstreamRefusedError,
)
from .settings import Settings
from .telemetry import JsonFormatter
from .types import AccessToken, ErrorResponse
from .upstream.client import BakryptClient
from .web.api import create_api_blueprint
from .web.auth import create_blueprint, is_password_attempt
from .web.contract import render_http_error
from .web.registration import add_redis_probe, read_settings, readiness_problems

__all__ = [
    "AccessDeniedError",
    "AccessToken",
    "BakryptClient",
    "BakryptError",
    "CredentialsRefusedError",
    "ErrorResponse",
    "InvalidRequestError",
    "JsonFormatter",
    "Settings",
    "SettingsError",
    "UnavailableError",
    "UpstreamFailedError",
    "UpstreamRefusedError",
    "add_redis_probe",
    "create_api_blueprint",
    "create_blueprint",
    "is_password_attempt",
    "read_settings",
    "readiness_problems",
    "render_http_error",
]
