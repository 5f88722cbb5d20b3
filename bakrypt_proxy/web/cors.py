"""The seam to flask-cors: headers that let the pages of listed origins read a response."""

import re
from collections.abc import Callable

from flask import Response

_MAX_AGE = 600  # seconds for which a browser keeps the answer to a preflight
# What flask-cors sets on a response that it has seen. A test compares it with flask-cors's own.
EVALUATED = "_FLASK_CORS_EVALUATED"


class Cors:
    """Adds CORS headers for the listed origins and for no others.

    :param origins: exact origins, as a browser sends them.
    """

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins
        self._add_headers = _headers_by_flask_cors(origins)

    def apply(self, response: Response, origin: str | None) -> Response:
        """Return a response with this list's headers, whatever flask-cors does for the host's app.

        :param origin: the request's `Origin` header.
        """
        headers = response.headers
        for name in [name for name, _ in headers if name[:15].lower() == "access-control-"]:
            del headers[name]
        if headers.get("Vary") != "Origin":
            response.vary.add("Origin")
        if origin in self._origins:
            return self._add_headers(response)
        skip(response)
        return response


def skip(response: Response) -> None:
    """Keep the flask-cors of the host's app from adding headers to a response."""
    setattr(response, EVALUATED, True)


def _headers_by_flask_cors(origins: frozenset[str]) -> Callable[[Response], Response]:
    """Return flask-cors as a function on a response.

    flask-cors takes a string with brackets, as in `http://[::1]:3000`, for a pattern and ignores
    case; each of these patterns matches exactly one origin.
    """
    from flask_cors import cross_origin  # noqa: PLC0415 - a script that only calls needs none of it

    decorate = cross_origin(
        origins=[re.compile(re.escape(origin) + r"\Z") for origin in origins],
        methods=["GET", "POST"],
        allow_headers="*",
        expose_headers=["Retry-After", "X-Request-ID"],
        supports_credentials=True,
        max_age=_MAX_AGE,
        always_send=False,
        automatic_options=False,
    )
    return decorate(lambda response: response)
