"""A `requests.Session` that is passed in: what hooks in there works, and nothing mixes."""

import gc
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy, MozillaCookieJar
from pathlib import Path
from typing import Any

import pytest
import requests
import requests_mock
import responses
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from misbehaving import (
    TOKEN_REPLY,
    Behaviour,
    Received,
    Upstream,
    close_half_way,
    endlessly,
    hang,
    head,
    reply_to_each,
    replying,
    sending,
)
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import create_cookie
from urllib3.util import Retry

from bakrypt_proxy import (
    BakryptClient,
    CredentialsRefusedError,
    Settings,
    UpstreamFailedError,
    UpstreamRefusedError,
)

MOCKED = Settings(
    url="https://bakrypt.invalid", token="planted", client_id="id", client_secret="planted-too"
)


def client_of(upstream: Upstream, session: requests.Session) -> BakryptClient:
    """A client with a session."""
    return BakryptClient(Settings.from_mapping(upstream.environ), session=session)


def test_the_cookie_jar_of_a_session_stays(upstream: Upstream, tmp_path: Path) -> None:
    """Its cookies do not, but its owner may use it for something else."""
    policy = DefaultCookiePolicy(blocked_domains=["example.com"])
    jar: Any = MozillaCookieJar(tmp_path / "cookies", policy=policy)
    with requests.Session() as session:
        session.cookies = jar
        jar.set_cookie(create_cookie("a", "b"))  # type: ignore[no-untyped-call]
        client_of(upstream, session).exchange()
        assert session.cookies is jar
        assert not list(jar)


@pytest.mark.parametrize(
    "error", [OSError("out of quota"), IsADirectoryError(21, "Is a directory", "/cache")]
)
def test_an_error_of_an_adapters_own(upstream: Upstream, error: OSError) -> None:
    """It is not one of certificates."""

    class Failing(HTTPAdapter):
        def send(self, *_: Any, **__: Any) -> Any:
            raise error

    with requests.Session() as session:
        session.mount("http://", Failing())
        with pytest.raises(UpstreamFailedError) as caught:
            client_of(upstream, session).exchange()
    assert "certificates" not in str(caught.value)


def test_a_session_of_ones_own_is_used_and_left_open(upstream: Upstream) -> None:
    """Users' adapters and test tools hook in there."""
    closed: list[bool] = []

    class Session(requests.Session):
        def close(self) -> None:
            closed.append(True)
            super().close()

    with Session() as session:
        session.headers["User-Agent"] = "mine"
        session.headers["X-Mine"] = "too"
        with client_of(upstream, session) as bakrypt:
            bakrypt.exchange()
        assert closed == []
    assert upstream.requests[0].headers["user-agent"] == "mine"
    assert upstream.requests[0].headers["x-mine"] == "too"


def test_the_request_is_the_documented_one(upstream: Upstream) -> None:
    """As over the client's own connections."""
    with requests.Session() as session:
        session.headers.update({"authorization": "Basic eA==", "content-type": "text/plain"})
        client = client_of(upstream, session)
        assert client.exchange() == TOKEN_REPLY
        client.password("älice", "a&b")
    exchange, password = upstream.requests
    assert exchange.line == "POST /auth/exchange/ HTTP/1.1"
    assert exchange.headers["authorization"] == "Token planted-exchange-secret"
    assert exchange.headers["content-type"] == "application/json"
    assert exchange.headers["accept"] == "application/json"
    assert exchange.headers["content-length"] == "0"
    assert password.headers["content-type"] == "application/x-www-form-urlencoded"
    assert password.form["username"] == ["älice"]
    assert password.form["password"] == ["a&b"]


def test_netrc_does_not_replace_the_token_in_a_session_of_ones_own(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which still reads the file."""
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with requests.Session() as session:
        client_of(upstream, session).exchange()
    assert upstream.requests[0].headers["authorization"] == "Token planted-exchange-secret"


@responses.activate
def test_responses_intercepts() -> None:
    """The most used of the tools that mock requests."""
    responses.post("https://bakrypt.invalid/auth/exchange/", json=TOKEN_REPLY)
    responses.post(
        "https://bakrypt.invalid/auth/token/",
        json={"error": "invalid_grant"},
        status=400,
        headers={"Retry-After": "3"},
    )
    with requests.Session() as session:
        client = BakryptClient(MOCKED, session=session)
        assert client.exchange() == TOKEN_REPLY
        with pytest.raises(UpstreamRefusedError) as caught:
            client.password("alice", "a")
    assert (caught.value.status, caught.value.retry_after) == (400, "3")
    assert responses.calls[0].request.headers["Authorization"] == "Token planted"


def test_requests_mock_intercepts() -> None:
    """The other one, which replaces the session's adapters."""
    with requests_mock.Mocker() as mocker, requests.Session() as session:
        mocker.post("https://bakrypt.invalid/auth/exchange/", json=TOKEN_REPLY)
        mocker.post("https://bakrypt.invalid/auth/token/", status_code=401, text="{}")
        client = BakryptClient(MOCKED, session=session)
        assert client.exchange() == TOKEN_REPLY
        with pytest.raises(UpstreamRefusedError):
            client.refresh("r")
        assert [call.path for call in mocker.request_history] == [
            "/auth/exchange/",
            "/auth/token/",
        ]


def test_an_adapter_of_ones_own_is_used() -> None:
    """It may answer by itself, without any connection."""

    class Adapter(requests.adapters.BaseAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, str(request.url)
            response._content = json.dumps(TOKEN_REPLY).encode()  # noqa: SLF001 - as such adapters do
            response._content_consumed = True  # type: ignore[attr-defined] # noqa: SLF001
            return response

        def close(self) -> None:
            pass

    with requests.Session() as session:
        session.mount("https://bakrypt.invalid", Adapter())
        assert BakryptClient(MOCKED, session=session).exchange() == TOKEN_REPLY


def test_a_hook_may_read_the_response(upstream: Upstream) -> None:
    """A hook that logs has read the body before us."""
    seen: list[str] = []

    def read(response: requests.Response, *args: Any, **kwargs: Any) -> None:
        seen.append(response.json()["token_type"])

    with requests.Session() as session:
        session.hooks["response"].append(read)
        assert client_of(upstream, session).exchange() == TOKEN_REPLY
    assert seen == ["Bearer"]


def test_a_hook_may_raise_for_a_status(upstream: Upstream) -> None:
    """`raise_for_status` in a hook is a known recipe; the refusal stays what bakrypt said."""
    upstream.behave = replying(400, {"error": "invalid_grant", "error_description": "wrong"})
    with requests.Session() as session:
        session.hooks["response"].append(lambda response, **_: response.raise_for_status())
        with pytest.raises(UpstreamRefusedError) as caught:
            client_of(upstream, session).password("alice", "wrong")
    assert (caught.value.error, caught.value.description) == ("invalid_grant", "wrong")


def test_what_tls_has_read_ahead_is_nobodys(tls_upstream: Upstream) -> None:
    """urllib3 looks at the socket only, and would give the rest of a record to the next call."""

    def send_two(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        (name,) = received.form["username"]
        token = json.dumps({"access_token": f"token-of-{name}"}).encode()
        room = 8192 - len(head(200, 8000))  # as much as http.client reads at once
        first = head(200, room) + token.ljust(room)
        stray = json.dumps({"access_token": f"stray-of-{name}"}).encode()
        connection.sendall(first + head(200, len(stray)) + stray)

    tls_upstream.behave = send_two
    with requests.Session() as session:
        client = client_of(tls_upstream, session)
        for name in ("alice", "bob", "carol"):
            assert client.password(name, "p")["access_token"] == f"token-of-{name}"


@pytest.mark.parametrize("status", [102, 103])
def test_an_interim_response_brings_nobody_anothers_token(
    any_upstream: Upstream, status: int
) -> None:
    """Requests takes it for the final one. That comes late, and not as the next response."""

    def work(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(f"HTTP/1.1 {status} X\r\n\r\n".encode())
        upstream.stopped.wait(0.1)
        reply_to_each(upstream, connection, received)

    with requests.Session() as session:
        client = client_of(any_upstream, session)
        any_upstream.behave = work
        got = []
        for name in ("alice", "bob", "carol"):
            try:
                got.append(client.password(name, "p")["access_token"])
            except UpstreamFailedError:
                got.append("nothing")
        assert got == ["nothing"] * 3


def refuse_alice_with_more(
    upstream: Upstream, connection: socket.socket, received: Received
) -> None:
    """Fail each of alice's requests, and send a token behind the response."""
    if received.form["username"] != ["alice"]:
        reply_to_each(upstream, connection, received)
        return
    stray = json.dumps(TOKEN_REPLY | {"access_token": "stray"}).encode()
    room = 8192 - len(head(503, 8000))  # as much as http.client reads at once
    connection.sendall(head(503, room) + b" " * room + head(200, len(stray)) + stray)


class Insisting(Retry):
    """Asks again after a 503, and lets somebody else call in between."""

    between: Callable[[], object] = lambda: None

    def sleep(self, response: object = None) -> None:
        """Do not wait."""
        type(self).between()


class Reading(HTTPAdapter):
    """Reads a response before the session's hooks see it."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send."""
        response = super().send(*args, **kwargs)
        assert response.content
        return response


ADAPTERS: dict[str, Callable[[], HTTPAdapter]] = {
    "retries that end": lambda: HTTPAdapter(
        max_retries=Insisting(2, status_forcelist=[503], allowed_methods=None)
    ),
    "retries that return the last response": lambda: HTTPAdapter(
        max_retries=Insisting(
            2, status_forcelist=[503], allowed_methods=None, raise_on_status=False
        )
    ),
    "an adapter that reads": Reading,
}


@pytest.mark.parametrize("mounted_at", ["", "/", "/auth/"])
@pytest.mark.parametrize("way", ["tcp", "tls", "proxy"])
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_no_adapter_keeps_a_connection(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    adapter: Callable[[], HTTPAdapter],
    way: str,
    mounted_at: str,
) -> None:
    """However a call ends, and also while it waits before it asks again.

    Only alice may get what came behind the responses to her.
    """
    upstream = request.getfixturevalue("tls_upstream" if way == "tls" else "upstream")
    upstream.behave, environ = refuse_alice_with_more, upstream.environ
    got: list[str] = []
    with requests.Session() as session:
        if way == "proxy":
            session.proxies["http"] = upstream.url
            environ["BAKRYPT_URL"] = "http://127.0.0.1:9"
        session.mount(environ["BAKRYPT_URL"] + mounted_at, adapter())
        client = BakryptClient(Settings.from_mapping(environ), session=session)

        def call(name: str) -> None:
            got.append(client.password(name, "p")["access_token"])

        monkeypatch.setattr(Insisting, "between", lambda: call("bob"))
        with suppress(UpstreamFailedError):
            client.password("alice", "a")
        call("carol")
    assert set(got) <= {"token-of-bob", "token-of-carol"}
    calls = [(received.form["username"][0], received.connection) for received in upstream.requests]
    alices = {connection for name, connection in calls if name == "alice"}
    others = [connection for name, connection in calls if name != "alice"]
    assert len({*others}) == len(others) == len(got)
    assert alices.isdisjoint(others)


def test_an_error_that_the_caller_handles_is_no_cause(upstream: Upstream) -> None:
    """It is not named and not quoted: it may hold a secret."""
    upstream.behave = close_half_way
    with requests.Session() as session:
        client = client_of(upstream, session)
        try:
            raise TimeoutError("redis://:planted@127.0.0.1")  # noqa: TRY301 - a caller's code
        except TimeoutError:
            with pytest.raises(UpstreamFailedError, match="broke off") as caught:
                client.exchange()
    assert "planted" not in str(caught.value)


def test_the_very_error_that_the_caller_handles(upstream: Upstream) -> None:
    """As with `responses`, or a circuit breaker that raises the same one each time."""
    down = requests.ConnectionError("planted")

    class Down(HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            raise down

    with requests.Session() as session:
        session.mount("http://", Down())
        client = client_of(upstream, session)
        try:
            session.post(upstream.url, timeout=5)
        except requests.ConnectionError:
            with pytest.raises(UpstreamFailedError) as caught:
                client.exchange()
    assert "planted" not in str(caught.value)


def test_causes_that_form_a_ring(upstream: Upstream) -> None:
    """As an adapter makes them that tries a second address and raises the first error."""
    first, second = requests.ConnectionError("first"), requests.ConnectionError("second")
    first.__cause__, second.__context__ = second, first

    class Failing(HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            raise first

    with requests.Session() as session:
        session.mount("http://", Failing())
        with pytest.raises(UpstreamFailedError):
            client_of(upstream, session).exchange()


@pytest.mark.parametrize("size", ["-ffffffffffffffffffffff", "f" * 15])
def test_a_size_that_no_memory_holds(upstream: Upstream, size: str) -> None:
    """http.client raises for it what it raises for nothing else."""
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.behave = sending(start + size.encode() + b"\r\nx\r\n0\r\n\r\n")
    with requests.Session() as session, pytest.raises(UpstreamFailedError):
        client_of(upstream, session).exchange()


class Wrapping(BaseAdapter):
    """An adapter that is made of another one, and reads each response."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = HTTPAdapter()

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send."""
        response = self.inner.send(*args, **kwargs)
        assert response.content
        return response

    def close(self) -> None:
        """Close."""
        self.inner.close()


def test_an_adapter_that_is_made_of_another(upstream: Upstream) -> None:
    """Its pools cannot be seen: bakrypt is asked to close each connection."""
    upstream.behave = reply_to_each
    with requests.Session() as session:
        session.mount("http://", Wrapping())
        client = client_of(upstream, session)
        for name in ("alice", "bob"):
            assert client.password(name, "p")["access_token"] == f"token-of-{name}"
    assert [received.headers["connection"] for received in upstream.requests] == ["close"] * 2


@pytest.mark.parametrize(
    ("variable", "proxy", "text"),
    [
        ("HTTP_PROXY", "http://127.0.0.1:9", "the proxy that HTTP_PROXY names did not connect"),
        ("ALL_PROXY", "http://127.0.0.1:9", "the proxy that ALL_PROXY names did not connect"),
        ("HTTP_PROXY", "socks5://127.0.0.1:9", "the proxy that HTTP_PROXY names cannot be used"),
        ("HTTP_PROXY", "http://[", "the proxy that HTTP_PROXY names cannot be used"),
    ],
)
def test_the_setting_of_the_proxy_is_named(
    monkeypatch: pytest.MonkeyPatch, upstream: Upstream, variable: str, proxy: str, text: str
) -> None:
    """Also where another one names a proxy for https."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:8")
    monkeypatch.setenv(variable, proxy)
    with (
        requests.Session() as session,
        pytest.raises(UpstreamFailedError, match=text),
    ):
        client_of(upstream, session).exchange()


def test_retries_that_fail_are_called_so(upstream: Upstream) -> None:
    """Bakrypt answered each time: no reply broke off."""
    upstream.behave = replying(503, {"detail": "busy"})
    with requests.Session() as session:
        session.mount("http://", ADAPTERS["retries that end"]())
        with pytest.raises(UpstreamFailedError) as caught:
            client_of(upstream, session).exchange()
    assert caught.value.description == "bakrypt failed, also when it was asked again"
    assert "503" in str(caught.value)
    assert len(upstream.requests) == 3


BROKEN = {
    "a length and chunks": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    "2\r\n{}\r\n0\r\n\r\n",
    "identity": "Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("start", BROKEN.values(), ids=BROKEN)
def test_a_broken_framing_ends_the_connection(upstream: Upstream, start: str) -> None:
    """What comes late belongs to that response (RFC 9112 section 6.3), and to nobody else."""

    def send_more(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\n{start}".encode())
        upstream.behave = reply_to_each
        upstream.stopped.wait(0.1)
        replying(200, TOKEN_REPLY | {"access_token": "stray"})(upstream, connection, received)

    upstream.behave = send_more
    with requests.Session() as session:
        client = client_of(upstream, session)
        with pytest.raises(UpstreamFailedError):
            client.password("alice", "a")
        assert client.password("bob", "b")["access_token"] == "token-of-bob"


def test_no_cookie_goes_from_one_call_to_the_next(upstream: Upstream) -> None:
    """Neither in our calls nor in others of that session."""
    upstream.behave = replying(200, TOKEN_REPLY, "Set-Cookie: sessionid=alice; Path=/")
    with requests.Session() as session:
        client = client_of(upstream, session)
        client.password("alice", "a")
        assert list(session.cookies) == []
        client.password("bob", "b")
        upstream.behave = replying(401, {"error": "invalid_client"}, "Set-Cookie: sessionid=x")
        with pytest.raises(CredentialsRefusedError):
            client.password("bob", "b")
        assert list(session.cookies) == []
    assert all("cookie" not in received.headers for received in upstream.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(upstream: Upstream, status: int) -> None:
    """A 307 would carry client secret and password to another host."""
    with Upstream() as other, requests.Session() as session:
        upstream.behave = replying(status, b"", f"Location: {other.url}/auth/token/")
        with pytest.raises(UpstreamFailedError, match="redirect"):
            client_of(upstream, session).password("alice", "a")
        assert other.requests == []
    assert len(upstream.requests) == 1


def test_the_body_of_a_redirect_is_not_read_to_its_end(upstream: Upstream) -> None:
    """It may have none; requests reads it to prepare the next request."""
    upstream.behave = endlessly(b"HTTP/1.1 307 X\r\nLocation: /other/\r\n\r\n", b"x" * 10_000)
    with requests.Session() as session, pytest.raises(UpstreamFailedError, match="redirect"):
        client_of(upstream, session).password("alice", "a")


FAILURES: dict[str, tuple[Behaviour, str]] = {
    "hangs": (hang, "bakrypt did not answer in time"),
    "closes half-way": (close_half_way, "bakrypt's reply broke off or could not be read"),
    "hangs in the body": (
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", 5.0),
        "bakrypt did not answer in time",
    ),
    "no HTTP": (
        sending(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", close=True),
        "bakrypt's reply broke off or could not be read",
    ),
    "too large": (replying(200, b" " * 100_000), "bakrypt's reply was too large"),
}


@pytest.mark.parametrize(("behave", "description"), FAILURES.values(), ids=FAILURES)
def test_failures_are_named(upstream: Upstream, behave: Behaviour, description: str) -> None:
    """As those of the client's own connections, without requests' errors behind them."""
    upstream.behave = behave
    with requests.Session() as session:
        client = client_of(upstream, session)
        with pytest.raises(UpstreamFailedError) as caught:
            client.exchange(timeout=0.3)
    assert caught.value.description == description
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_address_where_nobody_listens(upstream: Upstream) -> None:
    """Named before the time is over."""
    with Upstream() as gone:
        settings = Settings(url=gone.url, token="planted")
    with requests.Session() as session, pytest.raises(UpstreamFailedError) as caught:
        BakryptClient(settings, session=session).exchange()
    assert caught.value.description == "bakrypt could not be reached"


def test_a_certificate_that_is_not_trusted(tls_upstream: Upstream) -> None:
    """The session's own `verify` counts."""
    with requests.Session() as session:
        session.trust_env = False
        with pytest.raises(UpstreamFailedError, match="no secure connection to bakrypt"):
            client_of(tls_upstream, session).exchange()
        session.verify = os.environ["REQUESTS_CA_BUNDLE"]
        assert client_of(tls_upstream, session).exchange() == TOKEN_REPLY


def test_a_proxy_of_the_session_that_is_not_there() -> None:
    """It is the session's affair, and is called so."""
    with requests.Session() as session:
        session.trust_env = False
        session.proxies["https"] = "http://127.0.0.1:9"
        with pytest.raises(UpstreamFailedError, match="the session's proxy"):
            BakryptClient(MOCKED, session=session).exchange()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child uses no thread
@pytest.mark.parametrize("used_by", ["client", "user"])
def test_a_session_used_before_a_fork_mixes_nothing(upstream: Upstream, used_by: str) -> None:
    """Two processes on one socket would read each other's tokens."""
    upstream.behave = reply_to_each
    with requests.Session() as session:
        client = client_of(upstream, session)
        if used_by == "client":
            client.password("carol", "c")
        else:
            session.post(upstream.url, data={"username": "carol"}, timeout=5)
        child = os.fork()
        name = "child" if child == 0 else "parent"
        tokens = {client.password(name, "p")["access_token"] for _ in range(10)}
        is_right = tokens == {f"token-of-{name}"}
        if child == 0:
            os._exit(0 if is_right else 1)
        _, status = os.waitpid(child, 0)
    assert (is_right, status) == (True, 0)
    connections = {
        received.form["username"][0]: received.connection for received in upstream.requests
    }
    assert len(set(connections.values())) == 3
    assert connections["parent"] != connections["child"] != connections["carol"]


def test_adapters_stay_after_a_fork(upstream: Upstream) -> None:
    """They are emptied, not replaced: what a user mounted is still there."""
    adapter = HTTPAdapter()
    with requests.Session() as session:
        session.mount("http://", adapter)
        client = client_of(upstream, session)
        client.exchange()
        client.exchange()
        assert session.get_adapter(upstream.url) is adapter
    assert [received.connection for received in upstream.requests] == [1, 2]


@pytest.mark.parametrize("named_by", ["REQUESTS_CA_BUNDLE", "verify", "cert"])
@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["absent", "empty", "text"])
def test_certificates_that_cannot_be_read_are_named_for_a_given_session(
    monkeypatch: pytest.MonkeyPatch,
    tls_upstream: Upstream,
    tmp_path: Path,
    named_by: str,
    content: str | None,
) -> None:
    """No reply broke off, and bakrypt's certificate was never looked at."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    path = tmp_path / "broken.pem"
    if content is not None:
        path.write_text(content)
    with requests.Session() as session:
        if named_by == "REQUESTS_CA_BUNDLE":
            monkeypatch.setenv(named_by, str(path))
        else:
            setattr(session, named_by, str(path))
        with pytest.raises(UpstreamFailedError, match="REQUESTS_CA_BUNDLE or the session names"):
            client_of(tls_upstream, session).exchange()


@pytest.mark.parametrize("named_by", ["SSLKEYLOGFILE", "cert"])
def test_a_folder_in_place_of_a_file(
    monkeypatch: pytest.MonkeyPatch, tls_upstream: Upstream, tmp_path: Path, named_by: str
) -> None:
    """It is named, too."""
    with requests.Session() as session:
        if named_by == "cert":
            session.cert = str(tmp_path)
        else:
            monkeypatch.setenv(named_by, str(tmp_path))
        with pytest.raises(UpstreamFailedError, match=r"SSLKEYLOGFILE|the session names"):
            client_of(tls_upstream, session).exchange()


def test_a_certificate_of_bakrypts_that_nobody_signed(
    monkeypatch: pytest.MonkeyPatch, tls_upstream: Upstream
) -> None:
    """The session's own files are well."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    match = "no secure connection to bakrypt"
    with requests.Session() as session, pytest.raises(UpstreamFailedError, match=match):
        client_of(tls_upstream, session).exchange()


class Bare:
    """An adapter that has all that requests itself needs of it, and no more."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Answer."""
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, str(request.url)
        response._content = json.dumps(TOKEN_REPLY).encode()  # noqa: SLF001 - as tests do
        return response


class Unclosable(Bare, BaseAdapter):
    """Its `close` is that of `BaseAdapter`, which raises `NotImplementedError`."""


@pytest.mark.parametrize("fault", ["another kind", "encrypted"])
def test_a_key_of_ones_own_that_cannot_be_used(
    tls_upstream: Upstream, tmp_path: Path, fault: str
) -> None:
    """Nothing was sent: OpenSSL or urllib3 refuses it."""
    authority, key = trustme.CA(), tmp_path / "key"
    own = authority.issue_cert("me", key_type=trustme.KeyType.RSA)
    own.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    if fault == "encrypted":
        plain = load_pem_private_key(own.private_key_pem.bytes(), None)
        kind = BestAvailableEncryption(b"planted")
        key.write_bytes(plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, kind))
    else:
        other = authority.issue_cert("me", key_type=trustme.KeyType.ECDSA)
        other.private_key_pem.write_to_path(key)
    with requests.Session() as session:
        session.cert = (str(tmp_path / "certificate"), str(key))
        with pytest.raises(UpstreamFailedError, match="the session names cannot be used"):
            client_of(tls_upstream, session).exchange()


@pytest.mark.parametrize("kind", [Bare, Unclosable])
def test_an_adapter_that_cannot_be_closed(kind: type[Any]) -> None:
    """It keeps nothing that we know of."""
    with requests.Session() as session:
        session.adapters.clear()
        session.adapters["https://"] = kind()
        assert BakryptClient(MOCKED, session=session).exchange() == TOKEN_REPLY
        session.adapters.clear()


def test_a_session_whose_send_is_replaced() -> None:
    """By a test, with a response that no connection brought."""
    with requests.Session() as session:
        request = requests.Request("POST", MOCKED.url).prepare()
        response = Bare().send(request)
        session.send = lambda *_, **__: response  # type: ignore[method-assign]
        assert BakryptClient(MOCKED, session=session).exchange() == TOKEN_REPLY


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child uses no thread
def test_a_session_used_before_a_fork_mixes_nothing_if_its_clients_are_made_after_it(
    upstream: Upstream,
) -> None:
    """The kept socket is in both processes: at the same time, they would mix their tokens."""
    upstream.behave = reply_to_each
    with requests.Session() as session:
        session.post(upstream.url, data={"username": "carol"}, timeout=5)
        child = os.fork()
        if child:
            os.waitpid(child, 0)  # one after the other, so that this test fails each time
        name = "parent" if child else "child"
        client = BakryptClient(Settings.from_mapping(upstream.environ), session=session)
        try:
            client.password(name, "p")
        finally:
            if child == 0:
                os._exit(0)
    used = {received.form["username"][0]: received.connection for received in upstream.requests}
    assert used["child"] != used["parent"]


def test_a_process_that_forks_during_the_first_call_can_call(upstream: Upstream) -> None:
    """A lock that another thread holds at that moment stays locked in the child for ever."""
    is_closing, may_end = threading.Event(), threading.Event()

    class Slow(HTTPAdapter):
        def close(self) -> None:
            is_closing.set()
            may_end.wait(5)
            super().close()

    with requests.Session() as session:
        session.mount("http://", Slow())
        client = client_of(upstream, session)
        thread = threading.Thread(target=client.exchange)
        thread.start()
        assert is_closing.wait(5)
        child = os.fork()
        if child == 0:
            may_end.set()
            client.exchange()
            os._exit(0)
        may_end.set()
        thread.join()
        for _ in range(50):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child still waits")
        assert status == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("used_by", ["client", "user"])
def test_a_process_that_forks_while_the_pools_are_locked_can_call(
    upstream: Upstream, used_by: str
) -> None:
    """The thread that holds the lock is not in the child, which must not wait for it."""
    is_locked, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with adapter.poolmanager.pools.lock:
            is_locked.set()
            may_end.wait(10)

    with requests.Session() as session:
        adapter: Any = session.get_adapter(upstream.url)
        client = client_of(upstream, session)
        if used_by == "client":
            client.exchange()
        else:
            session.post(upstream.url, timeout=5)
        thread = threading.Thread(target=hold)
        thread.start()
        assert is_locked.wait(5)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)  # ends it if it hangs
            os._exit("access_token" not in client.exchange())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        may_end.set()
        thread.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child uses no thread
def test_a_child_does_not_end_its_parents_connection(any_upstream: Upstream) -> None:
    """It closes its own copy of the socket, without TLS's alert."""
    with requests.Session() as session:
        client = client_of(any_upstream, session)
        session.post(any_upstream.url, timeout=5)
        child = os.fork()
        if child == 0:
            try:
                client.exchange()
                gc.collect()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        session.post(any_upstream.url, timeout=5)
    assert [received.connection for received in any_upstream.requests] == [1, 2, 1]
