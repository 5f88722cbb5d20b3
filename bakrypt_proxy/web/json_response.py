"""A JSON response that werkzeug does not check or wrap: the one shortcut past the frameworks.

werkzeug looks at each header for its type and for line breaks, when a response is created and once
more when it is sent. Without that, and with the request taken from Flask's proxy only once, a
shared exchange took 400,000 instructions instead of 447,000. It also hands out an iterator, which
granian sends part by part: over one connection, a list was 1.06 times as fast
(benchmarks/PROFILE.md).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Response
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class _ValidHeaders(Headers):
    """Headers that are known to be valid."""

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self._list = [*headers]


class JsonResponse(Response):
    """A response whose body is JSON already.

    :param text: the JSON.
    :param headers: besides those of the content; valid ones, without line breaks.
    """

    def __init__(self, text: str, status: int, headers: Iterable[tuple[str, str]]) -> None:
        body = text.encode()
        content = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        super().__init__([body], status, _ValidHeaders([*content, *headers]))
        self._count = len(self.headers)
        self._is_closed_later = False

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has added or removed a header, or changed the status."""
        return len(self.headers) == self._count and self._status_code == 200

    def get_wsgi_headers(self, environ: "WSGIEnvironment") -> Headers:
        """Return the headers to send; as they are, unless somebody has added one."""
        return self.headers if self.is_untouched else super().get_wsgi_headers(environ)

    def call_on_close(self, func: Callable[[], Any]) -> Callable[[], Any]:
        """Have a function called once the response is sent."""
        self._is_closed_later = True
        return super().call_on_close(func)

    def get_app_iter(self, environ: "WSGIEnvironment") -> Iterable[bytes]:
        """Return the body, as a list if it is one and nobody waits for its end."""
        found = super().get_app_iter(environ)
        return [*found] if self.is_sequence and not self._is_closed_later else found
