"""Any request from a caller and any response from bakrypt give a response of the contract.

The suite runs a small sample; `make fuzz` runs 30,000 cases.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import create_app
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from misbehaving import TOKEN_REPLY, Received, Upstream

from app import create_app as create_our_app
from bakrypt_proxy.sandbox import Sandbox

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
STATUSES = {200, 204, 400, 401, 403, 404, 405, 413, 429, 500}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """One upstream for all cases."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def host(upstream: Upstream) -> Flask:
    """A host app that does not share the token, so that each case calls upstream."""
    return create_app(
        {
            **upstream.environ,
            "BAKRYPT_SHARE_TOKEN": "false",
            "BAKRYPT_ALLOWED_ORIGINS": "https://a.example",
        }
    )


@pytest.fixture(scope="module")
def ours() -> Iterator[Flask]:
    """Our own app, in which every error has the contract's form."""
    with Sandbox().listen() as sandbox:
        yield create_our_app({"BAKRYPT_NETWORK": "sandbox", "BAKRYPT_URL": sandbox.url})


def assert_contract(response: Any, method: str) -> None:
    """Check status, body and headers of a response of ours."""
    assert response.status_code in STATUSES
    if response.status_code == 204 or method == "HEAD":
        return
    assert response.content_type == "application/json"
    body = json.loads(response.data)
    if response.status_code == 200:
        assert body["access_token"]
        assert isinstance(body["access_token"], str)
    else:
        assert isinstance(body["error"], str)
        assert isinstance(body.get("error_description", ""), str)
        assert set(body) <= {"error", "error_description"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["username", "password", "grant_type", "refresh_token", "rejected_token"]
) | st.text(max_size=5)
VALUES = st.sampled_from(["password", "refresh_token", "alice", ""]) | JSON
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
BODIES = st.one_of(
    st.binary(max_size=200),
    OBJECTS.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.lists(st.tuples(NAMES, st.text(max_size=10)), max_size=4).map(
        lambda pairs: urlencode(pairs, errors="surrogatepass").encode()
    ),
    st.integers(60_000, 70_000).map(lambda size: b"a" * size),
)
CONTENT_TYPES = st.sampled_from(
    [
        "application/json",
        "application/json; charset=latin-1",
        "application/problem+json",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-16",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/plain",
        "",
    ]
) | st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20)
HEADER_VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)
HEADER_NAMES = (
    *(
        "Origin",
        "Sec-Fetch-Site",
        "X-Request-ID",
        "Authorization",
        "Cookie",
        "Accept",
        "Accept-Encoding",
        "Expect",
    ),
    *(
        "Access-Control-Request-Method",
        "Access-Control-Request-Headers",
        "X-Forwarded-For",
        "Content-Encoding",
    ),
    *(
        "Range",
        "If-None-Match",
        "Content-Language",
        "X-HTTP-Method-Override",
        "Referer",
        "User-Agent",
    ),
)
HEADERS = st.dictionaries(
    st.sampled_from(HEADER_NAMES),
    st.sampled_from(["https://a.example", "null", "same-origin", "cross-site", "POST"])
    | HEADER_VALUES,
    max_size=4,
)
METHODS = st.sampled_from(
    ["POST"] * 8 + ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]
)
PATHS = st.sampled_from(["/auth/exchange/", "/auth/exchange", "/auth/token/", "/auth/token"])
QUERIES = st.sampled_from(["", "?", "?username=a&password=b"]) | st.text(max_size=10).map(
    lambda text: f"?{text}"
)


@SETTINGS
@given(METHODS, PATHS, QUERIES, HEADERS, CONTENT_TYPES, BODIES)
def test_any_request(
    host: Flask,
    ours: Flask,
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    content_type: str,
    body: bytes,
) -> None:
    """A host app and our app answer any request as the contract says."""
    for app in (host, ours):
        response = app.test_client().open(
            path + query, method=method, headers=headers, content_type=content_type, data=body
        )
        assert_contract(response, method)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers.get("Access-Control-Allow-Origin") in {None, "https://a.example"}


@SETTINGS
@given(
    st.text(max_size=20),
    METHODS,
    st.sampled_from(["Upgrade", "Host", "Content-Length"]),
    HEADER_VALUES,
)
def test_our_app_at_any_path(ours: Flask, path: str, method: str, header: str, value: str) -> None:
    """In our app, an error before Flask finds a route has the contract's form too."""
    headers = {header: "websocket" if header == "Upgrade" else value, "Connection": "Upgrade"}
    response = ours.test_client().open(f"/auth/{path.lstrip('/')}", method=method, headers=headers)
    if response.status_code not in {301, 308}:
        assert_contract(response, method)


TOKENS = st.fixed_dictionaries(
    {},
    optional={
        name: st.just(value) | JSON
        for name, value in (TOKEN_REPLY | {"error": "x", "detail": "y"}).items()
    },
)
UPSTREAM_BODIES = st.one_of(
    TOKENS.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=300),
    st.integers(60_000, 70_000).map(b'{"access_token": "a"}'.ljust),
)
UPSTREAM_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "Content-Type",
                "Content-Encoding",
                "Transfer-Encoding",
                "Retry-After",
                "Location",
                "Set-Cookie",
                "X-A",
            ]
        ),
        st.sampled_from(
            ["gzip", "deflate", "chunked", "identity", "7", "application/json", "https://b.example"]
        )
        | HEADER_VALUES,
    ),
    max_size=4,
)


@SETTINGS
@given(
    st.integers(200, 599) | st.integers(0, 999),
    UPSTREAM_HEADERS,
    UPSTREAM_BODIES,
    st.integers(-5, 5),
    PATHS,
)
def test_any_response_of_bakrypt(
    host: Flask,
    upstream: Upstream,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
    off_by: int,
    path: str,
) -> None:
    """Any status, headers, body and length from bakrypt give a response of the contract."""

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {max(0, len(body) + off_by)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        raise OSError("closed")

    upstream.behave = behave
    upstream.requests.clear()
    started = time.monotonic()
    response = host.test_client().post(path, data={"username": "alice", "password": "a"})
    assert time.monotonic() - started < 2
    assert response.status_code in {200, 500} or 400 <= response.status_code < 500
    assert response.content_type == "application/json"
    parsed = json.loads(response.data)
    assert isinstance(
        parsed["access_token"] if response.status_code == 200 else parsed["error"], str
    )
    if response.status_code != 200:
        assert set(parsed) <= {"error", "error_description"}
