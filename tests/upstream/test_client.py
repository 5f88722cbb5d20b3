"""The client sends the documented requests, returns what came, and takes every precaution."""

import errno
import gzip
import json
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import create_app
from misbehaving import TOKEN_REPLY, Behaviour, Received, Upstream, close_at_once, replying

from bakrypt_proxy import (
    BakryptClient,
    BakryptError,
    CredentialsRefusedError,
    InvalidRequestError,
    Settings,
    SettingsError,
    UpstreamFailedError,
    UpstreamRefusedError,
)
from bakrypt_proxy.sandbox import Sandbox

AWKWARD = [
    "a b",
    "a&b=c",
    "a+b",
    "100%",
    "%41",
    "é ü ß",
    "密码",
    "🔑 key",
    'quote"\\',
    " padded ",
    "tab\t",
    "\x7f",
]


@pytest.fixture
def to_upstream(upstream: Upstream) -> BakryptClient:
    """A client of the upstream that a test commands."""
    return BakryptClient(Settings.from_mapping(upstream.environ))


def test_exchange_is_an_empty_post_with_the_token_header(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """The documented request, to the letter."""
    assert to_upstream.exchange() == TOKEN_REPLY
    (received,) = upstream.requests
    assert received.line == "POST /auth/exchange/ HTTP/1.1"
    assert received.headers["authorization"] == "Token planted-exchange-secret"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["content-length"] == "0"
    assert received.body == b""


@pytest.mark.parametrize("text", AWKWARD)
def test_password_arrives_intact(upstream: Upstream, to_upstream: BakryptClient, text: str) -> None:
    """Names and passwords are form-encoded, whatever is in them."""
    assert to_upstream.password(text, text[::-1]) == TOKEN_REPLY
    (received,) = upstream.requests
    assert received.line == "POST /auth/token/ HTTP/1.1"
    assert received.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in received.headers
    assert received.form == {
        "client_id": ["planted-client-id"],
        "client_secret": ["planted-client-secret"],
        "username": [text],
        "password": [text[::-1]],
        "grant_type": ["password"],
    }


def test_refresh_sends_the_refresh_grant(upstream: Upstream, to_upstream: BakryptClient) -> None:
    """RFC 6749 section 6, with the client's credentials in the form."""
    to_upstream.refresh("r+/=")
    assert upstream.requests[0].form == {
        "client_id": ["planted-client-id"],
        "client_secret": ["planted-client-secret"],
        "refresh_token": ["r+/="],
        "grant_type": ["refresh_token"],
    }


def test_unknown_members_pass_through(upstream: Upstream, to_upstream: BakryptClient) -> None:
    """What bakrypt adds to its reply is not ours to drop."""
    reply = TOKEN_REPLY | {"id_token": "x", "nested": {"list": [1, 2.5, None, True, "ü"]}}
    upstream.behave = replying(200, reply)
    assert to_upstream.exchange() == reply


def test_against_the_sandbox(bakrypt: BakryptClient) -> None:
    """All three grants, against the engine that bakrypt's own is built on."""
    token = bakrypt.password("alice", "alice-password")
    assert token["token_type"] == "Bearer"
    assert bakrypt.refresh(token["refresh_token"])["access_token"] != token["access_token"]
    assert bakrypt.exchange()["expires_in"] == 36000
    with pytest.raises(UpstreamRefusedError) as caught:
        bakrypt.refresh(token["refresh_token"])
    assert (caught.value.status, caught.value.response) == (400, {"error": "invalid_grant"})


def test_missing_credentials_are_named() -> None:
    """The error says what to set, and nothing is sent."""
    bakrypt = BakryptClient(Settings())
    with pytest.raises(SettingsError, match="set BAKRYPT_TOKEN or BAKRYPT_TOKEN_FILE"):
        bakrypt.exchange()
    with pytest.raises(SettingsError, match="set BAKRYPT_CLIENT_ID"):
        bakrypt.password("a", "b")
    with pytest.raises(SettingsError, match="BAKRYPT_CLIENT_SECRET or its _FILE"):
        BakryptClient(Settings(client_id="id")).refresh("r")


def test_half_a_surrogate_pair_is_refused_without_being_quoted(bakrypt: BakryptClient) -> None:
    """UTF-8 cannot carry it, and Python's error would carry the password."""
    with pytest.raises(InvalidRequestError, match="password is not valid Unicode") as caught:
        bakrypt.password("alice", "secret\ud800")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_netrc_does_not_replace_the_token(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests by itself would replace the Authorization header by a default entry of ~/.netrc."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    plain = requests.post(upstream.url, headers={"Authorization": "Token t"}, timeout=5)
    assert plain.ok
    assert upstream.requests[0].headers["authorization"].startswith("Basic ")  # the fault is real

    BakryptClient(Settings.from_mapping(upstream.environ)).exchange()
    assert upstream.requests[1].headers["authorization"] == "Token planted-exchange-secret"


def test_no_cookie_goes_from_one_call_to_the_next(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """One user's upstream session must not be replayed in the next user's call."""
    upstream.behave = replying(200, TOKEN_REPLY, "Set-Cookie: sessionid=alice; Path=/")
    to_upstream.password("alice", "a")
    to_upstream.password("bob", "b")
    assert len(upstream.requests) == 2
    assert "cookie" not in upstream.requests[1].headers


def test_connections_are_kept_alive(upstream: Upstream, to_upstream: BakryptClient) -> None:
    """A second call costs no second connection."""
    to_upstream.exchange()
    to_upstream.exchange()
    assert [received.connection for received in upstream.requests] == [1, 1]


def chunked(body: bytes) -> bytes:
    """A reply in chunks of eleven bytes."""
    chunks = [body[start : start + 11] for start in range(0, len(body), 11)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def test_each_kind_of_body_comes_over_a_kept_connection(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """In chunks and compressed; after a plain or a chunked one the connection is kept."""
    body = json.dumps(TOKEN_REPLY).encode()
    to_upstream.exchange()
    upstream.behave = lambda _, connection, __: connection.sendall(chunked(body))
    assert to_upstream.exchange() == TOKEN_REPLY
    upstream.behave = replying(200, gzip.compress(body), "Content-Encoding: gzip")
    assert to_upstream.exchange() == TOKEN_REPLY
    upstream.behave = replying(200, TOKEN_REPLY, "Connection: close")
    assert to_upstream.exchange() == TOKEN_REPLY
    upstream.behave = replying(200, TOKEN_REPLY)
    assert to_upstream.exchange() == TOKEN_REPLY
    connections = [received.connection for received in upstream.requests]
    assert connections[:3] == [1, 1, 1]
    assert connections[4] == connections[3] + 1


def test_a_small_gzip_that_is_large_is_cut_off(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """On a kept connection as on a new one."""
    bomb = gzip.compress(bytes(50_000_000))
    for _ in range(2):
        upstream.behave = replying(200, bomb, "Content-Encoding: gzip")
        with pytest.raises(UpstreamFailedError, match="too large"):
            to_upstream.exchange()
        upstream.behave = replying(200, TOKEN_REPLY)
        to_upstream.exchange()


class ClosingWhenReused:
    """Answers the first request of a connection, and closes it at the second without a byte."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def __call__(self, upstream: Upstream, connection: socket.socket, received: Received) -> None:
        """Behave."""
        behave = close_at_once if received.connection in self.seen else replying(200, TOKEN_REPLY)
        self.seen.add(received.connection)
        behave(upstream, connection, received)


def test_a_connection_closed_while_idle_is_tried_once_more(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """The race with an upstream that ends idle connections is nobody's failure."""
    upstream.behave = ClosingWhenReused()
    to_upstream.exchange()
    assert to_upstream.exchange() == TOKEN_REPLY
    assert [received.connection for received in upstream.requests] == [1, 1, 2]


def test_a_new_connection_is_not_tried_again(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """Only a kept-alive connection may have been stale; a closed new one is upstream's answer."""
    upstream.behave = close_at_once
    with pytest.raises(UpstreamFailedError):
        to_upstream.exchange()
    assert len(upstream.requests) == 1


def test_a_new_connection_over_tls_is_not_tried_again(tls_upstream: Upstream) -> None:
    """urllib3 connects before the request there, which does not make the connection an old one."""
    bakrypt = BakryptClient(Settings.from_mapping(tls_upstream.environ))
    tls_upstream.behave = close_at_once
    with pytest.raises(UpstreamFailedError):
        bakrypt.password("alice", "a")
    assert len(tls_upstream.requests) == 1


def answer_new_connections(known: int) -> Behaviour:
    """As seen from behind a NAT or a firewall that has forgotten the first few, silently."""

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        if received.connection <= known:
            upstream.stopped.wait()
        replying(200, TOKEN_REPLY)(upstream, connection, received)

    return behave


def call_together(upstream: Upstream, client: BakryptClient) -> None:
    """Make three calls, of which each needs a connection of its own."""
    together = threading.Barrier(3)

    def answer_together(*call: Any) -> None:
        together.wait(5)
        answer_new_connections(0)(*call)

    upstream.behave = answer_together
    threads = [threading.Thread(target=client.exchange) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    upstream.behave = replying(200, TOKEN_REPLY)


@pytest.mark.parametrize("clock", ["monotonic", "time"])
def test_a_connection_that_was_idle_for_long_is_not_used(
    any_upstream: Upstream, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    """Nobody tells that it is dead; each of them would cost a caller the whole timeout.

    A machine that slept sees it on the wall clock only.
    """
    client = BakryptClient(Settings.from_mapping(any_upstream.environ))
    call_together(any_upstream, client)
    any_upstream.behave = answer_new_connections(3)
    real = getattr(time, clock)
    monkeypatch.setattr(time, clock, lambda: real() + 61)
    assert [client.exchange()["access_token"] for _ in range(2)] == ["an-access-token"] * 2
    assert [received.connection for received in any_upstream.requests][3:] == [4, 4]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_connections_that_are_not_needed_are_closed(
    any_upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many calls at once, one connection is enough for those that come one by one."""
    client = BakryptClient(Settings.from_mapping(any_upstream.environ))
    call_together(any_upstream, client)
    before, real = len([*Path("/proc/self/fd").iterdir()]), time.monotonic
    for seconds in (50, 100):
        monkeypatch.setattr(time, "monotonic", lambda: real() + seconds)  # noqa: B023
        client.exchange()
    assert len({received.connection for received in any_upstream.requests}) == 3
    assert len([*Path("/proc/self/fd").iterdir()]) <= before - 2


def test_a_connection_that_was_idle_for_less_is_used(
    upstream: Upstream, to_upstream: BakryptClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open one costs more than a call."""
    to_upstream.exchange()
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 50)
    to_upstream.exchange()
    assert [received.connection for received in upstream.requests] == [1, 1]


def test_a_stale_connection_over_tls_is_tried_once_more(tls_upstream: Upstream) -> None:
    """As over plain HTTP, with the authority that the environment names."""
    bakrypt = BakryptClient(Settings.from_mapping(tls_upstream.environ))
    tls_upstream.behave = ClosingWhenReused()
    bakrypt.exchange()
    assert bakrypt.exchange() == TOKEN_REPLY
    assert [received.connection for received in tls_upstream.requests] == [1, 1, 2]


def test_nothing_is_tried_again_after_the_first_byte(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """A reply that broke off may stand for a password that was counted."""

    def break_off(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        connection.sendall(b"HTT")
        close_at_once(upstream, connection, received)

    to_upstream.exchange()
    upstream.behave = break_off
    with pytest.raises(UpstreamFailedError):
        to_upstream.exchange()
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_answer_is_never_asked_for_again(
    upstream: Upstream, to_upstream: BakryptClient, status: int
) -> None:
    """A hidden second try of a wrong password would lock the account."""
    upstream.behave = replying(status, {"error": "invalid_grant"}, "Retry-After: 0")
    with pytest.raises(BakryptError):
        to_upstream.password("alice", "wrong")
    assert len(upstream.requests) == 1


def test_many_silent_addresses_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib3 alone would wait for each of them as long."""
    with socket.create_server(("0.0.0.0", 0), backlog=0) as listener:  # noqa: S104 - any loopback address
        port = listener.getsockname()[1]
        waiting = [
            socket.socket() for _ in range(4)
        ]  # a full backlog: who comes next gets no answer
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        look_up = socket.getaddrinfo

        def look_up_six(host: str, *args: Any, **kwargs: Any) -> Any:
            names = [f"127.0.0.{n}" for n in range(1, 7)] if host == "localhost" else [host]
            return [found for name in names for found in look_up(name, *args, **kwargs)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up_six)
        started = time.monotonic()
        with pytest.raises(UpstreamFailedError, match="did not answer in time"):
            BakryptClient(Settings(url=f"http://localhost:{port}", token="t", timeout=1)).exchange()
        assert 0.9 < time.monotonic() - started < 2
        for sock in waiting:
            sock.close()


def test_the_next_address_is_tried(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with an address where nobody listens."""
    look_up = socket.getaddrinfo

    def look_up_two(host: str, *args: Any, **kwargs: Any) -> Any:
        names = ["127.0.0.2", "127.0.0.1"] if host == "localhost" else [host]
        return [found for name in names for found in look_up(name, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up_two)
    url = upstream.url.replace("127.0.0.1", "localhost")
    assert (
        BakryptClient(Settings.from_mapping(upstream.environ | {"BAKRYPT_URL": url})).exchange()
        == TOKEN_REPLY
    )


def test_an_address_keeps_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link-local one is good for nothing without (RFC 4007 section 11), as mDNS gives them."""
    found = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 443, 0, 1))
    tried = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UpstreamFailedError, match="bakrypt could not be reached"):
        BakryptClient(Settings(url="https://bakrypt.local", token="t")).exchange()
    assert tried == [(f"fe80::1%{socket.if_indextoname(1)}", 443)]


def test_a_socket_without_options(
    to_upstream: BakryptClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The BSDs and macOS refuse to set one where the other side has reset the connection."""
    connect = socket.create_connection

    class Stubborn(socket.socket):
        def setsockopt(self, *_: object) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    def connect_stubbornly(*arguments: Any) -> Stubborn:
        return Stubborn(fileno=connect(*arguments).detach())

    monkeypatch.setattr(socket, "create_connection", connect_stubbornly)
    assert to_upstream.exchange() == TOKEN_REPLY


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # the upstream has threads; the child uses none
def test_a_forked_process_opens_its_own_connections(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """Two processes on one socket would read each other's tokens."""
    to_upstream.exchange()
    child = os.fork()
    if child == 0:
        try:
            to_upstream.exchange()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    to_upstream.exchange()
    assert [received.connection for received in upstream.requests] == [1, 2, 1]


def fail(client: BakryptClient) -> None:
    """Make a call that fails."""
    with pytest.raises(BakryptError):
        client.exchange()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_the_certificates_are_read(
    tls_upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads them is not in the child, which must not wait for it."""
    to_upstream = BakryptClient(Settings.from_mapping(tls_upstream.environ))
    with monkeypatch.context() as patch:
        slow_disk = tmp_path / "pipe"
        os.mkfifo(slow_disk)
        patch.setenv("REQUESTS_CA_BUNDLE", str(slow_disk))
        reading = BakryptClient(Settings.from_mapping(tls_upstream.environ))
        thread = threading.Thread(target=fail, args=(reading,))
        thread.start()
        with slow_disk.open("wb"):  # waits for the reader
            child = os.fork()
            if child == 0:
                patch.undo()
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(10)  # ends it if it hangs
                os._exit("access_token" not in to_upstream.exchange())
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        thread.join()


def test_many_threads_share_a_client(sandbox: Sandbox, bakrypt: BakryptClient) -> None:
    """Each caller gets the reply to its own question."""
    mixed_up: list[str] = []

    def work(name: str) -> None:
        for _ in range(10):
            token = bakrypt.password(name, f"{name}-password")["access_token"]
            if sandbox.store.owner(token) != name:
                mixed_up.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ["alice", "bob"] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed_up == []
    assert sandbox.calls["/auth/token/"] == 160


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRefusedError("no", status=400, error="invalid_grant", retry_after="7"),
        SettingsError("x"),
    ],
)
def test_errors_can_be_pickled(error: BakryptError) -> None:
    """Process pools and task queues hand them on."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert vars(again) == vars(error)


def test_an_unreadable_reply_is_not_carried_by_the_error(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """Python's JSON error holds the whole document, and a crash reporter would send it on."""
    upstream.behave = replying(200, b'{"access_token": "planted-access-token"')
    with pytest.raises(UpstreamFailedError) as caught:
        to_upstream.exchange()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_closed_client_can_be_used_again(bakrypt: BakryptClient) -> None:
    """Closing is about connections, not about the object."""
    bakrypt.exchange()
    bakrypt.close()
    assert bakrypt.exchange()["token_type"] == "Bearer"


def test_refused_credentials_name_the_settings_to_look_at(
    upstream: Upstream, to_upstream: BakryptClient
) -> None:
    """In `str`, for a script and for the log; a caller hears that it is the server's fault."""
    upstream.behave = replying(401, {"detail": "Invalid token."})
    with pytest.raises(CredentialsRefusedError) as caught:
        to_upstream.exchange()
    assert "BAKRYPT_TOKEN" in str(caught.value)
    assert "BAKRYPT_TOKEN" not in str(caught.value.response)
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_the_client_shows_no_secret() -> None:
    """Neither itself nor its settings."""
    assert (
        repr(BakryptClient(Settings(token="planted")))
        == "BakryptClient(https://testnet.bakrypt.io)"
    )


def test_a_closed_blueprint_registration_costs_no_call(sandbox: Sandbox) -> None:
    """Registering the blueprint asks nothing of bakrypt."""
    create_app(sandbox.environ)
    assert not sandbox.calls


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e10, True, "soon", (1, 2)])
@pytest.mark.parametrize("kind", ["own", "given"])
def test_a_timeout_that_is_none(upstream: Upstream, timeout: Any, kind: str) -> None:
    """It is the caller's fault and not bakrypt's, whichever connections are used."""
    with requests.Session() as session:
        settings = Settings.from_mapping(upstream.environ)
        client = BakryptClient(settings, session=session if kind == "given" else None)
        with pytest.raises(ValueError, match=r"the timeout is .* set a number of seconds"):
            client.exchange(timeout=timeout)
    assert not upstream.requests
