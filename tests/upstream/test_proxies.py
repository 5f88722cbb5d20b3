"""The whole way through a proxy of the environment: tunnel, TLS, own CA, and each failure."""

import select
import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme
from conftest import create_app, tls_server
from connect_proxy import ESTABLISHED, Answer, ConnectProxy
from misbehaving import (
    TOKEN_REPLY,
    Upstream,
    close_at_once,
    close_cleanly,
    reply_to_each,
    replying,
    sending,
)

from bakrypt_proxy import BakryptClient, BakryptError, Settings, SettingsError, UpstreamFailedError

HOST = "bakrypt.test"  # not of this machine: a loopback address is asked without the proxy
WORLD = {
    "BAKRYPT_URL": f"https://{HOST}",
    "BAKRYPT_TOKEN": "planted-exchange-secret",
    "BAKRYPT_CLIENT_ID": "planted-client-id",
    "BAKRYPT_CLIENT_SECRET": "planted-client-secret",
    "BAKRYPT_TIMEOUT": "2",
}
NAMED = "the proxy that HTTPS_PROXY names"


@pytest.fixture
def far_upstream(authority: trustme.CA, trusted: Path) -> Iterator[Upstream]:
    """An upstream that only a proxy can reach."""
    with Upstream(tls=tls_server(authority, HOST), behave=reply_to_each) as upstream:
        yield upstream


@pytest.fixture(params=["http", "https"])
def proxy(
    request: pytest.FixtureRequest,
    far_upstream: Upstream,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ConnectProxy]:
    """A proxy of the environment, spoken to in the clear, then one over TLS."""
    tls = tls_server(authority, "127.0.0.1") if request.param == "https" else None
    with ConnectProxy(int(far_upstream.url.rpartition(":")[2]), tls=tls) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"{request.param}://{proxy.address}")
        yield proxy


def world_client(**changes: str) -> BakryptClient:
    """A client of the upstream behind the proxy."""
    return BakryptClient(Settings.from_mapping(WORLD | changes))


def test_the_whole_way(proxy: ConnectProxy, far_upstream: Upstream) -> None:
    """The tunnel, TLS with our own CA inside it, and a kept connection through it."""
    with world_client() as client:
        for name in ("alice", "bob", "carol"):
            assert client.password(name, "p")["access_token"] == f"token-of-{name}"
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n")
    assert "authorization" not in head.lower()
    assert [received.connection for received in far_upstream.requests] == [1, 1, 1]


def test_plain_requests_goes_the_same_way(proxy: ConnectProxy, far_upstream: Upstream) -> None:
    """So that these tests show a fault of ours, and not of the proxy."""
    response = requests.post(f"https://{HOST}/", data={"username": "alice"}, timeout=5)
    assert response.json()["access_token"] == "token-of-alice"


def test_with_user_and_password(
    proxy: ConnectProxy, far_upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Basic authentication, percent-encoded in the address, and never sent to bakrypt."""
    scheme = "https" if proxy.tls else "http"
    address = f"{scheme}://user%40home:p%3A%C3%A9%20w@{proxy.address}"
    monkeypatch.setenv("HTTPS_PROXY", address)
    assert world_client().password("alice", "p")["access_token"] == "token-of-alice"
    assert "Proxy-Authorization: Basic dXNlckBob21lOnA6w6kgdw==\r\n" in proxy.heads[0]
    assert "proxy-authorization" not in far_upstream.requests[0].headers


def test_with_a_user_alone(proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some proxies take an API key so; the colon belongs there (RFC 7617 section 2)."""
    scheme = "https" if proxy.tls else "http"
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://user@{proxy.address}")
    assert world_client().password("alice", "p")["access_token"] == "token-of-alice"
    assert "Proxy-Authorization: Basic dXNlcjo=\r\n" in proxy.heads[0]


def test_with_a_password_that_is_not_unicode(
    proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy gets the bytes that the variable has, here Latin-1."""
    scheme = "https" if proxy.tls else "http"
    address = f"{scheme}://us\udce9r:p\udce9%20w@{proxy.address}"  # as Python reads such a variable
    monkeypatch.setenv("HTTPS_PROXY", address)
    assert world_client().password("alice", "p")["access_token"] == "token-of-alice"
    assert "Proxy-Authorization: Basic dXPpcjpw6SB3\r\n" in proxy.heads[0]


def test_a_port_goes_into_the_tunnel(proxy: ConnectProxy) -> None:
    """Where bakrypt is not at 443."""
    client = world_client(BAKRYPT_URL=f"https://{HOST}:8443")
    assert client.password("alice", "p")["access_token"] == "token-of-alice"
    assert proxy.heads[0].startswith(f"CONNECT {HOST}:8443 HTTP/1.1\r\n")


def test_an_address_of_ipv6_goes_in_brackets(proxy: ConnectProxy) -> None:
    """Its certificate is another's here, which is enough to see the request."""
    with pytest.raises(UpstreamFailedError, match="no secure connection to bakrypt"):
        world_client(BAKRYPT_URL="https://[2001:db8::1]").exchange()
    assert proxy.heads[0].startswith(
        "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443"
    )


def test_the_environment_is_read_in_either_form(
    proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small letters, and without a scheme."""
    if proxy.tls is None:
        monkeypatch.delenv("HTTPS_PROXY")
        monkeypatch.setenv("https_proxy", proxy.address)
        assert world_client().password("alice", "p")["access_token"] == "token-of-alice"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nProxy-Agent: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ],
)
def test_a_proxys_yes_has_no_body(proxy: ConnectProxy, answer: bytes) -> None:
    """Whatever it says of one (RFC 9110 section 9.3.6)."""
    proxy.answer = answer
    client = world_client()
    for name in ("alice", "bob"):
        assert client.password(name, "p")["access_token"] == f"token-of-{name}"
    assert len(proxy.heads) == 1


def end_tunnel_with_alert(proxy: ConnectProxy, sock: socket.socket) -> None:
    """Make a tunnel, and end TLS with the alert that says so when upstream ends."""
    sock.sendall(ESTABLISHED)
    with socket.create_connection(("127.0.0.1", proxy.port)) as upstream:
        data = ESTABLISHED
        while data:
            ready, _, _ = select.select([sock, upstream], [], [])
            source, target = (upstream, sock) if upstream in ready else (sock, upstream)
            data = source.recv(65536)
            target.sendall(data)
    if not proxy.stopped.is_set():
        close_cleanly(sock)


@pytest.mark.parametrize("answer", [ESTABLISHED, end_tunnel_with_alert], ids=["FIN", "alert"])
def test_a_stale_connection_through_a_tunnel_is_tried_once_more(
    proxy: ConnectProxy, far_upstream: Upstream, answer: bytes | Answer
) -> None:
    """By a new tunnel. An alert of the proxy's TLS is no byte of bakrypt's response."""
    proxy.answer = answer
    client = world_client()
    client.password("alice", "p")
    ended: list[int] = []

    def end_the_first(upstream: Upstream, connection: socket.socket, received: object) -> None:
        ended.append(1)
        behave = close_at_once if len(ended) == 1 else reply_to_each
        behave(upstream, connection, received)  # type: ignore[arg-type]

    far_upstream.behave = end_the_first
    assert client.password("bob", "p")["access_token"] == "token-of-bob"
    assert len(proxy.heads) == 2


def test_nothing_is_left_behind_in_a_tunnel(proxy: ConnectProxy, far_upstream: Upstream) -> None:
    """A second response in the same bytes, also where TLS is in TLS."""
    body = b'{"access_token": "token-of-%b"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    alice, mallory = body % b"alice", body % b"mallory"
    client = world_client()
    far_upstream.behave = sending(
        head % len(alice) + alice + head % len(mallory) + mallory, head % len(mallory) + mallory
    )
    assert client.password("alice", "p")["access_token"] == "token-of-alice"
    far_upstream.behave = reply_to_each
    assert client.password("bob", "p")["access_token"] == "token-of-bob"


def stall(proxy: ConnectProxy, sock: socket.socket) -> None:
    """Say nothing."""
    proxy.stopped.wait(10)


def drip(proxy: ConnectProxy, sock: socket.socket) -> None:
    """Never come to an end of the head."""
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    while not proxy.stopped.wait(0.02):
        sock.sendall(b"X-A: b\r\n")


def stall_after_yes(proxy: ConnectProxy, sock: socket.socket) -> None:
    """Make no tunnel."""
    sock.sendall(ESTABLISHED)
    proxy.stopped.wait(10)


FAILURES: dict[str, tuple[bytes | Answer, str]] = {
    "407": (
        b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nlogin",
        f"{NAMED} refused to connect (status 407)",
    ),
    "502": (b"HTTP/1.1 502 X\r\n\r\n", f"{NAMED} refused to connect (status 502)"),
    "a redirect": (
        b"HTTP/1.1 302 X\r\nLocation: https://login.example/\r\n\r\n",
        f"{NAMED} refused to connect (status 302)",
    ),
    "closes": (lambda proxy, sock: sock.shutdown(2), f"{NAMED} gave no usable answer"),
    "no HTTP": (b"SSH-2.0\r\n\r\n", f"{NAMED} gave no usable answer"),
    "more than a head": (
        ESTABLISHED + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        f"{NAMED} gave no usable answer",
    ),
    "stalls": (stall, f"{NAMED} did not answer in time"),
    "drips": (drip, f"{NAMED} did not answer in time"),
    "stalls in its tunnel": (stall_after_yes, "bakrypt did not answer in time"),
}


@pytest.mark.parametrize(("answer", "description"), FAILURES.values(), ids=FAILURES)
def test_a_proxys_failure_is_called_that(
    proxy: ConnectProxy, answer: bytes | Answer, description: str
) -> None:
    """With the setting to look at, in time, and nothing is asked twice."""
    proxy.answer = answer
    client = world_client(BAKRYPT_TIMEOUT="0.5")
    started = time.monotonic()
    with pytest.raises(UpstreamFailedError) as caught:
        client.exchange()
    assert caught.value.description == description
    assert time.monotonic() - started < 1
    assert len(proxy.heads) == 1


SESSIONS_FAILURES: dict[str, tuple[bytes | Answer, str]] = {
    "407": (b"HTTP/1.1 407 X\r\n\r\n", f"{NAMED} did not connect to bakrypt"),
    "502": (b"HTTP/1.1 502 X\r\n\r\n", f"{NAMED} did not connect to bakrypt"),
    "closes": (
        lambda proxy, sock: sock.shutdown(2),
        f"the reply of bakrypt or of {NAMED} broke off or could not be read",
    ),
    "no HTTP": (
        b"SSH-2.0\r\n\r\n",
        f"the reply of bakrypt or of {NAMED} broke off or could not be read",
    ),
    "stalls": (stall, f"bakrypt or {NAMED} did not answer in time"),
    "stalls in its tunnel": (stall_after_yes, f"bakrypt or {NAMED} did not answer in time"),
}


@pytest.mark.parametrize(
    ("answer", "description"), SESSIONS_FAILURES.values(), ids=SESSIONS_FAILURES
)
def test_a_sessions_failure_names_the_proxy_between(
    proxy: ConnectProxy, answer: bytes | Answer, description: str
) -> None:
    """The setting is told, also where requests does not tell which of the two failed."""
    proxy.answer = answer
    with requests.Session() as session:
        client = BakryptClient(Settings.from_mapping(WORLD), session=session)
        with pytest.raises(UpstreamFailedError) as caught:
            client.exchange(timeout=0.5)
    assert caught.value.description == description


@pytest.mark.parametrize("setting", ["HTTPS_PROXY", "ALL_PROXY"])
def test_a_sessions_proxy_that_is_not_there_is_named_by_its_setting(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """The environment's, which requests prefers to one of the session."""
    monkeypatch.setenv(setting, "http://user:planted-password@127.0.0.1:9")
    with requests.Session() as session:
        session.proxies["https"] = "http://127.0.0.1:8"
        client = BakryptClient(Settings.from_mapping(WORLD), session=session)
        with pytest.raises(UpstreamFailedError) as caught:
            client.exchange()
    assert caught.value.description == f"the proxy that {setting} names did not connect to bakrypt"
    assert "planted" not in str(caught.value)


def test_a_proxy_that_is_not_there(proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so in `check`, too."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:planted-password@127.0.0.1:9")
    with pytest.raises(UpstreamFailedError) as caught:
        world_client().exchange()
    assert caught.value.description == f"{NAMED} could not be reached"
    assert "planted" not in "".join(traceback.format_exception(caught.value))
    assert f"{NAMED} could not be reached" in check()


def check() -> str:
    """What `flask bakrypt check` prints, which fails."""
    result = create_app(WORLD).test_cli_runner().invoke(args=["bakrypt", "check"])
    assert result.exit_code == 1
    return result.output


def test_check_tells_a_proxy_that_refuses(proxy: ConnectProxy) -> None:
    """Rather than blame bakrypt."""
    proxy.answer = b"HTTP/1.1 407 X\r\n\r\n"
    assert f"{NAMED} refused to connect (status 407)" in check()


def test_an_https_proxy_that_speaks_no_tls(
    proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is wrong, and the error says whose."""
    if proxy.tls is None:
        monkeypatch.setenv("HTTPS_PROXY", f"https://{proxy.address}")
        with pytest.raises(UpstreamFailedError) as caught:
            world_client(BAKRYPT_TIMEOUT="0.5").exchange()
        assert caught.value.description in {
            f"no secure connection to {NAMED}",
            f"{NAMED} did not answer in time",
        }


def test_an_upstream_cannot_drip_through_a_tunnel(proxy: ConnectProxy) -> None:
    """Each byte of a TLS record in a read of its own: no single read would time out."""
    proxy.slowly = 0.05
    started = time.monotonic()
    with pytest.raises(UpstreamFailedError, match="bakrypt did not answer in time"):
        world_client(BAKRYPT_TIMEOUT="0.5").exchange()
    assert time.monotonic() - started < 1


def test_a_drip_in_a_tunnel_that_stands(proxy: ConnectProxy, far_upstream: Upstream) -> None:
    """The same after the greeting: the response drips."""
    client = world_client(BAKRYPT_TIMEOUT="0.5")
    client.password("alice", "p")
    far_upstream.behave = sending(
        *[part for letter in b"HTTP/1.1 200 OK\r\nX-A: bcdefg" for part in (bytes([letter]), 0.05)]
    )
    started = time.monotonic()
    with pytest.raises(UpstreamFailedError, match="bakrypt did not answer in time"):
        client.password("bob", "p")
    assert time.monotonic() - started < 1


def test_a_proxy_for_everything_is_named_so(
    proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALL_PROXY, where there is no HTTPS_PROXY."""
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with pytest.raises(UpstreamFailedError, match="the proxy that ALL_PROXY names could not be"):
        world_client().exchange()


def test_no_proxy_is_obeyed(proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name cannot be looked up here, and the proxy is not asked."""
    monkeypatch.setenv("NO_PROXY", HOST)
    with pytest.raises(UpstreamFailedError, match="bakrypt could not be reached"):
        world_client().exchange()
    assert proxy.heads == []


def test_loopback_is_asked_without_the_proxy(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which could not reach it."""
    with Upstream(behave=replying(502, b"no such host")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert BakryptClient(Settings.from_mapping(upstream.environ)).exchange() == TOKEN_REPLY
        assert proxy.requests == []


@pytest.mark.parametrize(
    "proxy_address",
    [
        "socks5://user:planted@127.0.0.1:1",
        "http:///nowhere",
        "http://user:planted@",
        "http://user:planted@127.0.0.1:port",
        "http://user:planted@[::1",
        "ftp://user:planted@127.0.0.1",
    ],
)
def test_a_proxy_that_is_none_is_a_problem_of_settings(
    monkeypatch: pytest.MonkeyPatch, proxy_address: str
) -> None:
    """Said without the proxy's password."""
    monkeypatch.setenv("HTTPS_PROXY", proxy_address)
    with pytest.raises(SettingsError, match="proxy") as caught:
        BakryptClient(Settings(url="https://bakrypt.invalid", token="t")).exchange()
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_a_no_proxy_that_cannot_be_read_is_a_problem_of_settings(
    proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compared with an address as a network: bytes that are not UTF-8 are none."""
    monkeypatch.setenv("NO_PROXY", "10.0.0.0\udcff/8")
    with pytest.raises(SettingsError, match="NO_PROXY cannot be read"):
        BakryptClient(Settings(url="https://192.0.2.1", token="t")).exchange()


CA_SETTINGS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.mark.parametrize("setting", CA_SETTINGS)
@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["absent", "empty", "text"])
def test_a_ca_bundle_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, content: str | None
) -> None:
    """Before anything is connected, and in `check`, too."""
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv(setting, str(bundle))
    with pytest.raises(UpstreamFailedError, match=f"the certificates that {setting} names"):
        BakryptClient(Settings(url="https://127.0.0.1:9", token="t", timeout=1)).exchange()
    assert f"the certificates that {setting} names could not be read" in check()


def test_a_ca_bundle_behind_a_closed_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its name is too long for any folder, or nobody may enter that: nothing logs keys."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / ("a" * 300)))
    with pytest.raises(UpstreamFailedError, match="the certificates that REQUESTS_CA_BUNDLE"):
        BakryptClient(Settings(url="https://127.0.0.1:9", token="t", timeout=1)).exchange()


def test_a_key_log_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python opens it with the certificates, which are well."""
    monkeypatch.setenv("SSLKEYLOGFILE", "/nowhere/keys")
    with pytest.raises(UpstreamFailedError, match="SSLKEYLOGFILE"):
        BakryptClient(Settings(url="https://127.0.0.1:9", token="t", timeout=1)).exchange()


def test_a_directory_of_certificates(
    tls_upstream: Upstream, trusted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenSSL has it. An empty one trusts nobody."""
    directory = tmp_path / "certificates"
    directory.mkdir()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(directory))
    with pytest.raises(UpstreamFailedError, match="no secure connection to bakrypt"):
        BakryptClient(Settings.from_mapping(tls_upstream.environ)).exchange()


def test_certificates_are_checked(
    tls_upstream: Upstream, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the usual authorities, and for the host's name."""
    url = tls_upstream.url.replace("127.0.0.1", "localhost")
    with pytest.raises(BakryptError, match="no secure connection to bakrypt"):
        BakryptClient(Settings(url=url, token="t")).exchange()
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(BakryptError, match="no secure connection to bakrypt"):
        BakryptClient(Settings.from_mapping(tls_upstream.environ)).exchange()
    assert tls_upstream.requests == []


@pytest.mark.parametrize("host", ["a..b", ".upstream.test", "a" * 64 + ".test", ".", ".."])
def test_a_host_that_tls_cannot_name_fails_as_the_rest(proxy: ConnectProxy, host: str) -> None:
    """Nobody looks its name up, so that TLS is the first to complain."""
    proxy.answer = b"HTTP/1.1 200 OK\r\n\r\n"
    with pytest.raises(UpstreamFailedError) as caught:
        world_client(BAKRYPT_URL=f"https://{host}").exchange()
    assert caught.value.description == "no secure connection to bakrypt"
