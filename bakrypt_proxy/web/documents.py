"""Files of this package that a browser or a tool reads."""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from flask import Response, request

from .contract import json_response

_PACKAGE = "bakrypt_proxy"


def script(name: str, values: Mapping[str, str] | None = None) -> Response:
    """Return a script of `browser/`.

    :param values: texts that replace words in the script. They are part of its ETag.
    """
    text = _read(f"browser/{name}").decode()
    for word, value in (values or {}).items():
        text = text.replace(word, value)
    response = Response(text, mimetype="text/javascript")
    # Not the tokens' no-store: a browser may keep it, and asks whether it has changed.
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.add_etag()
    response.make_conditional(request)
    return response


def openapi(name: str) -> Response:
    """Return an OpenAPI document of `web/`, with the address at which it is served."""
    document = json.loads(_read(f"web/{name}"))
    # Not "./": paths are appended to it, and two slashes are a redirect.
    path = request.path.rstrip("/").removesuffix("/openapi.json")
    document["servers"][0]["url"] = request.script_root + path
    return json_response(json.dumps(document))


@cache
def _read(path: str) -> bytes:
    """Return the content of a file of this package, read once."""
    return resources.files(_PACKAGE).joinpath(path).read_bytes()
