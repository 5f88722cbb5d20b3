"""The body of an `assets` call, parsed and written again, and the transactions in its response.

A filter that only looks at the body would be passed by another charset, by a form or by a
duplicate key. What bakrypt gets is what this module wrote.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn
from uuid import UUID

from flask import Request

from ..errors import InvalidRequestError
from .bodies import read_body

MAX_BODY = 2**20  # bytes
_SERVER_MADE = {"uuid", "transaction"}  # an asset is new: it has none yet


def read_assets(request: Request) -> bytes:
    """Return the body to send to bakrypt.

    :raises InvalidRequestError: if the body is not JSON in UTF-8 with an object or a list of
        objects, or if a key is given twice.
    :raises HTTPException: if it is larger than 1 MiB, or not all of it came.
    """
    if request.mimetype != "application/json":
        raise InvalidRequestError("send JSON with Content-Type: application/json")
    body = _parse(read_body(request, MAX_BODY))
    items = body if isinstance(body, list) else [body]
    for item in items:
        if not isinstance(item, dict):
            raise InvalidRequestError("the body must be an object or a list of objects")
        if not _SERVER_MADE.isdisjoint(item):
            raise InvalidRequestError("an asset is new: leave out uuid and transaction")
    return _write(body)


def made_transactions(body: object) -> list[UUID]:
    """Return the transactions in bakrypt's response to an `assets` call, each once."""
    found: dict[UUID, None] = {}
    for item in body if isinstance(body, list) else [body]:
        transaction = item.get("transaction") if isinstance(item, dict) else None
        key = transaction.get("uuid") if isinstance(transaction, dict) else transaction
        if isinstance(key, str):
            try:
                found[UUID(key)] = None
            except ValueError:
                continue
    return list(found)


def _parse(raw: bytes) -> Any:
    try:
        return _JSON.decode(raw.decode("utf-8-sig"))
    except InvalidRequestError:
        raise
    except (ValueError, RecursionError):
        raise InvalidRequestError("the body is not valid JSON in UTF-8") from None


def _write(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # half a surrogate pair
        raise InvalidRequestError("the body is not valid Unicode text") from None
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidRequestError("a key is given twice")
        found[key] = value
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidRequestError("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise InvalidRequestError("a number is out of range")
    return number


_JSON = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
)


def texts_in(body: bytes) -> Iterator[str]:
    """Yield all keys, texts and numbers in a body that `read_assets` wrote.

    Only an error needs them: kept during each call, they would take 15 times as much memory.
    """
    waiting = [json.loads(body)]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, int | float):
            yield str(item)
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list):
            waiting += item
