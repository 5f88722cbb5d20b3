"""One call to bakrypt's API with a token that the relay is given."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from ..settings import Settings
from ..telemetry.calls import UpstreamCall, observed
from ..telemetry.tracing import trace_headers
from .api_responses import MAX_RESPONSE, ApiResponse, read_api_response
from .masking import Masked
from .response_reader import Response
from .transport import Request, Transport

_PIECE = 64 * 1024  # bytes, each of which may take `timeout`; a part of `assets` may have a MiB


class ApiRequest(NamedTuple):
    """A request to the API.

    :param name: the call's name in signals, metrics and the log.
    :param path: the canonical path, below the origin.
    :param headers: those of the caller that go upstream.
    :param parts: the parts of the body.
    :param length: the length of the body, in bytes.
    :param said: returns the texts in the request, which no error may repeat; None if they are not
        known, as with a file.
    """

    name: str
    method: str
    path: str
    headers: Mapping[str, str]
    parts: Iterable[bytes] = ()
    length: int = 0
    said: Callable[[], Iterable[str]] | None = None


class Relay:
    """Sends API requests.

    :param transport: whose connections are used.
    :param settings: `timeout` bounds connecting and each silence, `upload_timeout` the wait for the
        first byte of the response to an upload, both in seconds.
    """

    def __init__(self, transport: Transport, settings: Settings) -> None:
        self._transport = transport
        self._settings = settings

    def send(self, api_request: ApiRequest, token: Masked[str]) -> ApiResponse:
        """Send a request and return bakrypt's response, also if it comes before the body is sent.

        Only a GET is sent a second time if a kept connection turns out to be closed: bakrypt may
        have taken anything else.

        :raises UpstreamRefusedError: if bakrypt refuses the request, with bakrypt's status.
        :raises CredentialsRefusedError: if bakrypt refuses the token.
        :raises UpstreamFailedError: if no usable response comes.
        """
        call = UpstreamCall(api_request.name, self._settings.network, shared=True)
        url = self._settings.url + api_request.path
        with observed(call, method=api_request.method, url=url):
            counted = api_request._replace(parts=_in_pieces(api_request.parts, call))
            response = self._send(counted, token)
            call.status = response.status
            return read_api_response(response, api_request.said, token)

    def _send(self, api_request: ApiRequest, token: Masked[str]) -> Response:
        headers = Masked(
            {
                "Authorization": f"Bearer {token.reveal()}",
                **api_request.headers,
                **trace_headers(),
            }
        )
        request = Request(api_request.path, headers, method=api_request.method)
        timeout = self._settings.timeout
        if api_request.method == "GET":
            return self._transport.send(request, timeout=timeout, limit=MAX_RESPONSE)
        return self._transport.stream(
            request,
            api_request.parts,
            length=api_request.length,
            silence=timeout,
            first_byte=self._settings.upload_timeout if api_request.name == "files" else timeout,
            limit=MAX_RESPONSE,
        )


def _in_pieces(parts: Iterable[bytes], call: UpstreamCall) -> Iterator[bytes]:
    """Yield the parts of a body in pieces, and count the bytes of those that were sent."""
    for part in parts:
        for start in range(0, len(part), _PIECE):
            yield part[start : start + _PIECE]
            call.bytes_sent += min(_PIECE, len(part) - start)
