"""What a peer can do below HTTP: with the records of TLS, before and after its handshake."""

import hmac
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from conftest import tls_server
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from urllib3.util import wait_for_read

from bakrypt_proxy import BakryptClient, Settings, UpstreamFailedError
from bakrypt_proxy.upstream.connection import Connection
from bakrypt_proxy.upstream.deadline_socket import BoundedSocket, DeadlineSocket, FloodError
from bakrypt_proxy.upstream.masking import Masked
from bakrypt_proxy.upstream.response_reader import Response
from bakrypt_proxy.upstream.tls import TlsSocket

TIMEOUT = 0.5
HELLO_REQUESTS = b"\x16\x03\x03\x40\x00" + bytes(0x4000)  # a record of 4,096 messages
FLOOD_ENDS = 3  # seconds
FLOOD_BYTES = 340_000
HANDSHAKE, APPLICATION_DATA = b"\x16", b"\x17"  # kinds of a record
LEGACY_SUITE = "ECDHE-ECDSA-AES128-GCM-SHA256"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def answer_with(name: str) -> bytes:
    """A whole response, with the token of this name."""
    body = b'{"access_token": "%b"}' % name.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that hands each connection to `serve`, one after the other."""

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # What is sent is there at once: a test may wait for it.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                try:
                    serve(connection)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def client_of(url: str, timeout: float = 5) -> BakryptClient:
    """A client of that server."""
    return BakryptClient(
        Settings(url=url, client_id="id", client_secret="planted", timeout=timeout)
    )


def test_a_flood_in_the_handshake_ends_by_its_size() -> None:
    """OpenSSL reads on as long as HelloRequests come, and so would each read of an `SSLSocket`."""

    def flood(connection: socket.socket) -> None:
        connection.recv(4096)
        end = time.monotonic() + FLOOD_ENDS
        while time.monotonic() < end:
            connection.sendall(HELLO_REQUESTS * 64)

    with serving(flood) as url, client_of(url, TIMEOUT) as client:
        started = time.monotonic()
        with pytest.raises(UpstreamFailedError, match="no secure connection to bakrypt"):
            client.password("alice", "a")
        assert time.monotonic() - started < TIMEOUT + 0.5


class TlsByHand:
    """A server's side of TLS that can send a record in two parts, and one with its handshake."""

    def __init__(
        self, connection: "socket.socket | TlsByHand", context: ssl.SSLContext, early: bytes = b""
    ) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.server_hello: bytes = b""
        self._loop(lambda: self._shake_hands(early))

    def _shake_hands(self, early: bytes) -> None:
        self._tls.do_handshake()
        if early:
            self._tls.write(early)

    def receive(self) -> str:
        """Return the name of the user that the next request is of, or nothing at the end."""
        received = b""
        while b"username=" not in received:
            data = self.recv(65536)
            if not data:
                return ""
            received += data
        return received.partition(b"username=")[2].partition(b"&")[0].decode()

    def recv(self, size: int) -> bytes:
        """Return what comes, or nothing at the end."""
        return self._loop(lambda: self._tls.read(size)) or b""

    def sendall(self, data: bytes) -> None:
        """Send a record."""
        self._connection.sendall(self.encrypt(data))

    def encrypt(self, data: bytes) -> bytes:
        """Return a record."""
        self._tls.write(data)
        return self._outgoing.read()

    def _loop(self, step: Callable[[], bytes | None]) -> bytes | None:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                flight = self._outgoing.read()
                self.server_hello = self.server_hello or flight
                self._connection.sendall(flight)
                data = self._connection.recv(65536)
                if not data:
                    return None
                self._incoming.write(data)
            else:
                self._connection.sendall(self._outgoing.read())
                return result


@pytest.mark.parametrize("early", [1, 4, 5, 6, 30])
def test_part_of_a_record_behind_a_response_is_nobodys(
    authority: trustme.CA, trusted: Path, early: int
) -> None:
    """The rest of it comes when the next request is there, and would be the response to that."""
    context, sent = tls_server(authority, "127.0.0.1"), threading.Event()

    def serve(connection: socket.socket) -> None:
        tls, rest = TlsByHand(connection, context), b""
        while name := tls.receive():
            connection.sendall(rest)
            tls.sendall(answer_with(f"token-of-{name}"))
            record = tls.encrypt(answer_with(f"stray-of-{name}"))
            connection.sendall(record[:early])
            rest = record[early:]
            sent.set()

    with serving(serve) as url, client_of(url) as client:
        for name in ("alice", "bob", "carol"):
            sent.clear()
            assert client.password(name, "p")["access_token"] == f"token-of-{name}"
            assert sent.wait(5)


def test_what_comes_with_the_handshake_is_no_response(authority: trustme.CA, trusted: Path) -> None:
    """From then on, each caller would get the former one's (RFC 9112 section 9.2)."""
    context, opened = tls_server(authority, "127.0.0.1"), []
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its last flight is the server's

    def serve(connection: socket.socket) -> None:
        opened.append(connection)
        tls = TlsByHand(
            connection, context, early=answer_with("stray") if len(opened) == 1 else b""
        )
        while name := tls.receive():
            tls.sendall(answer_with(f"token-of-{name}"))

    with serving(serve) as url, client_of(url) as client:
        with pytest.raises(UpstreamFailedError, match="a response before the request"):
            client.password("alice", "a")
        assert len(opened) == 1
        for name in ("bob", "carol"):
            assert client.password(name, "p")["access_token"] == f"token-of-{name}"
        assert len(opened) == 2


@pytest.mark.parametrize("is_in_another", [False, True], ids=["TLS", "TLS in TLS"])
def test_tickets_before_the_request_are_no_response(
    authority: trustme.CA, trusted: Path, is_in_another: bool
) -> None:
    """TLS 1.3 sends them as soon as the handshake is over, and the connection is kept."""
    context = tls_server(authority, "127.0.0.1")
    context.num_tickets = 5

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        if is_in_another:
            tls = TlsByHand(tls, context)
        while name := tls.receive():
            tls.sendall(answer_with(f"token-of-{name}"))

    client_side = ssl.create_default_context(cafile=trusted)
    with serving(serve) as url:
        raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        deadline = time.monotonic() + 5
        sock: BoundedSocket = DeadlineSocket(raw)
        for _ in range(1 + is_in_another):
            sock = TlsSocket(sock, client_side, "127.0.0.1", deadline)
        assert wait_for_read(raw, timeout=5)
        connection = Connection(sock)
        for name in (b"alice", b"bob"):
            response = connection.exchange(
                Masked(b"username=%b&" % name), deadline=deadline, limit=1000
            )
            assert name in response.body.reveal()
            assert connection.is_reusable
        connection.close()


ONE_BYTE_RECORDS = {
    "a chunk extension": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"2;" + b"a" * FLOOD_BYTES,
    "trailers": (
        b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * (FLOOD_BYTES // 6)
    ),
    "100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n" * (FLOOD_BYTES // 25),
    "a header": b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * FLOOD_BYTES,
    "a body": b"HTTP/1.1 200 OK\r\n\r\n" + b" " * FLOOD_BYTES,
}


@pytest.mark.parametrize("flood", ONE_BYTE_RECORDS.values(), ids=ONE_BYTE_RECORDS)
def test_records_of_a_byte_keep_no_processor_busy(
    authority: trustme.CA, trusted: Path, flood: bytes
) -> None:
    """Each costs a read of its own: a limit on bytes alone comes too late."""
    context, is_ready, is_over = (
        tls_server(authority, "127.0.0.1"),
        threading.Event(),
        threading.Event(),
    )

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        tls.receive()
        tls.sendall(answer_with("token-of-bob"))
        records = b"".join(tls.encrypt(flood[at : at + 1]) for at in range(len(flood)))
        is_ready.set()
        tls.receive()
        connection.sendall(records)
        is_over.wait(5)

    with serving(serve) as url, client_of(url, timeout=1) as client:
        client.password("bob", "b")
        assert is_ready.wait(30)
        fail_at_leisure(client)
        is_over.set()


def fail_at_leisure(client: BakryptClient) -> None:
    """Make a call that fails, in its timeout of a second and less than half a processor."""
    started, busy = time.monotonic(), time.thread_time()
    with pytest.raises(UpstreamFailedError):
        client.password("alice", "a")
    assert time.thread_time() - busy < 0.5
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_hears_why_its_certificate_is_refused(
    authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """By an alert (RFC 8446 section 6.2). Its owner could not know otherwise."""
    context, heard = tls_server(authority, "127.0.0.1"), []
    context.maximum_version = version

    def serve(connection: socket.socket) -> None:
        try:
            context.wrap_socket(connection, server_side=True).recv(1)
        except ssl.SSLError as error:
            heard.append(error.reason)

    refused = pytest.raises(UpstreamFailedError, match="no secure connection to bakrypt")
    with serving(serve) as url, client_of(url) as client, refused:
        client.password("alice", "a")
    assert heard == ["TLSV1_ALERT_UNKNOWN_CA"]


def test_a_flood_in_the_handshake_keeps_no_processor_busy() -> None:
    """A server in bakrypt's place can send HelloRequests before it shows a certificate."""

    def flood(connection: socket.socket) -> None:
        connection.recv(4096)
        end = time.monotonic() + FLOOD_ENDS
        while time.monotonic() < end:
            connection.sendall(HELLO_REQUESTS * 64)

    with serving(flood) as url, client_of(url, timeout=1) as client:
        fail_at_leisure(client)


def test_a_flood_of_tickets_keeps_no_processor_busy(
    authority: trustme.CA, trusted: Path, tmp_path: Path
) -> None:
    """TLS reads on behind each of them, and no read of ours returns (RFC 8446 section 4.6.1)."""
    context, keys = tls_server(authority, "127.0.0.1"), tmp_path / "keys"
    context.num_tickets, context.keylog_filename = 0, str(keys)
    tickets, is_ready = ticket_of(4), threading.Event()

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        tls.receive()
        tls.sendall(answer_with("token-of-bob"))
        by_hand = RecordsByHand(keys)
        by_hand.number = 1
        records = b"".join(by_hand.record(tickets * 700) for _ in range(1500))
        is_ready.set()
        tls.receive()
        connection.sendall(records)
        connection.recv(1)

    with serving(serve) as url, client_of(url, timeout=1) as client:
        client.password("bob", "b")
        assert is_ready.wait(30)
        fail_at_leisure(client)


def new_keys(records: "RecordsByHand") -> bytes:
    """Requests for a new key."""
    return b"".join(records.new_key() for _ in range(8000))


def own_new_keys(records: "RecordsByHand") -> bytes:
    """New keys of the server's own."""
    return b"".join(records.new_key(is_asked=False) for _ in range(8000))


def small_tickets(records: "RecordsByHand") -> bytes:
    """Tickets that are hardly more than their heads."""
    return b"".join(records.record(ticket_of(4) * 700) for _ in range(16))


def hello_requests(records: "LegacyRecordsByHand") -> bytes:
    """Requests for a new handshake, which TLS 1.3 does not have (RFC 5246 section 7.4.1.1)."""
    return b"".join(records.record(bytes(4) * 4000) for _ in range(14))


@pytest.mark.parametrize("is_early", [False, True], ids=["with the response", "early"])
@pytest.mark.parametrize("flood", [new_keys, own_new_keys, small_tickets, hello_requests])
def test_what_tls_says_for_itself_ends(
    authority: trustme.CA,
    trusted: Path,
    tmp_path: Path,
    flood: Callable[[Any], bytes],
    is_early: bool,
) -> None:
    """Each message costs more than a part of a response, and the longest response has a MiB."""
    context, keys = tls_server(authority, "127.0.0.1"), tmp_path / "keys"
    context.num_tickets, context.keylog_filename = 0, str(keys)
    is_there = threading.Event()
    is_legacy = flood is hello_requests
    if is_legacy:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(LEGACY_SUITE)

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        by_hand = LegacyRecordsByHand(keys, tls.server_hello) if is_legacy else RecordsByHand(keys)
        records = flood(by_hand) + by_hand.record(answer_with("token"), APPLICATION_DATA)
        early = records[:20_000] if is_early else b""
        connection.sendall(early)
        is_there.set()
        if not is_early:
            tls.receive()
        connection.sendall(records[len(early) :])
        connection.recv(1)

    with serving(serve) as url, opened(url, trusted) as connection:
        assert is_there.wait(5)
        with pytest.raises(FloodError):
            exchange(connection)
        assert not connection.is_reusable


LONG_BODY = b"[%b]" % (b" " * 1_000_000)
LONG_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LONG_BODY), LONG_BODY)


def in_parts(response: bytes, size: int) -> Iterator[bytes]:
    """A response in parts of this size."""
    return (response[at : at + size] for at in range(0, len(response), size))


def test_padding_is_no_flood(authority: trustme.CA, trusted: Path, tmp_path: Path) -> None:
    """Servers such as nginx can pad each record (RFC 8446 section 5.4)."""
    context, keys = tls_server(authority, "127.0.0.1"), tmp_path / "keys"
    context.num_tickets, context.keylog_filename = 0, str(keys)

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        records = RecordsByHand(keys)
        while tls.receive():
            for part in in_parts(LONG_RESPONSE, 8000):
                padding = 16_384 - len(part)
                connection.sendall(records.record(part, APPLICATION_DATA, padding=padding))

    with serving(serve) as url, opened(url, trusted) as connection:
        for _ in range(2):
            assert exchange(connection).body.reveal() == LONG_BODY
            assert connection.is_reusable


def test_a_suite_with_large_frames_is_no_flood(authority: trustme.CA, trusted: Path) -> None:
    """CBC adds up to 85 bytes to each record (RFC 5246 section 6.2.3.2)."""
    context = tls_server(authority, "127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES256-SHA384")

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        while tls.receive():
            for part in in_parts(LONG_RESPONSE, 100):
                tls.sendall(part)

    with serving(serve) as url, opened(url, trusted) as connection:
        for _ in range(2):
            assert exchange(connection).body.reveal() == LONG_BODY
            assert connection.is_reusable


def test_records_of_a_byte_around_another_tls_end(authority: trustme.CA, trusted: Path) -> None:
    """A proxy can cut what it forwards. Nothing above counts these records."""
    context = tls_server(authority, "127.0.0.1")

    def serve(connection: socket.socket) -> None:
        outer = TlsByHand(connection, context)
        inner = TlsByHand(outer, context)
        inner.receive()
        for part in in_parts(inner.encrypt(LONG_RESPONSE[:60_000]), 1):
            outer.sendall(part)
        connection.recv(1)

    refused = pytest.raises(FloodError)
    with serving(serve) as url, opened(url, trusted, layers=2) as connection, refused:
        exchange(connection)


def exchange(connection: Connection) -> Response:
    """One that may be as long as the longest."""
    message = Masked(b"username=bob&")
    return connection.exchange(message, deadline=time.monotonic() + 20, limit=1_000_100)


@contextmanager
def opened(url: str, trusted: Path, *, layers: int = 1) -> Iterator[Connection]:
    """A connection over TLS, or over TLS in TLS."""
    context = ssl.create_default_context(cafile=trusted)
    raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    sock: BoundedSocket = DeadlineSocket(raw)
    for _ in range(layers):
        sock = TlsSocket(sock, context, "127.0.0.1", time.monotonic() + 5)
    connection = Connection(sock)
    yield connection
    connection.close()


@pytest.mark.parametrize("answer", [b"\x16HT@\0", b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad\r\n\r\n"])
@pytest.mark.parametrize("is_late", [False, True], ids=["handshake", "response"])
def test_what_is_no_record_fails_at_once(
    authority: trustme.CA, trusted: Path, answer: bytes, is_late: bool
) -> None:
    """Its third to fifth byte are no length, and the server waits for us to go on."""
    context = tls_server(authority, "127.0.0.1")

    def serve(connection: socket.socket) -> None:
        if is_late:
            TlsByHand(connection, context).receive()
        connection.sendall(answer)
        while connection.recv(4096):
            pass

    refused = pytest.raises(UpstreamFailedError, match="no secure connection to bakrypt")
    with serving(serve) as url, client_of(url) as client, refused:
        client.password("alice", "a")


def test_a_record_of_an_unknown_kind_fails_at_once(authority: trustme.CA, trusted: Path) -> None:
    """OpenSSL sees in TLS 1.2 that it is none when all of it is there, whatever comes alone."""
    context = tls_server(authority, "127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def serve(connection: socket.socket) -> None:
        TlsByHand(connection, context).receive()
        connection.sendall(b"\x19\x03\x03\0\x04")
        time.sleep(0.1)
        connection.sendall(b"abcd")
        while connection.recv(4096):
            pass

    refused = pytest.raises(UpstreamFailedError, match="no secure connection to bakrypt")
    with serving(serve) as url, client_of(url) as client, refused:
        client.password("alice", "a")


class RecordsByHand:
    """A server's records in TLS 1.3 (RFC 8446 sections 5.2, 5.3 and 7.3), also of TLS' own kind."""

    def __init__(self, keys: Path) -> None:
        self._secret = key_of(keys, "SERVER_TRAFFIC_SECRET_0")
        self._use()

    def record(self, content: bytes, kind: bytes = HANDSHAKE, *, padding: int = 0) -> bytes:
        """The next record."""
        inner = content + kind + bytes(padding)
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._nonce ^ self.number).to_bytes(12, "big")
        self.number += 1
        return head + self._cipher.encrypt(nonce, inner, head)

    def new_key(self, *, is_asked: bool = True) -> bytes:
        """A record with a KeyUpdate, which may ask for one of the client (section 4.6.3)."""
        record = self.record(b"\x18\0\0\x01" + bytes([is_asked]))
        self._secret = self._expand(b"traffic upd", len(self._secret))
        self._use()
        return record

    def _use(self) -> None:
        self._cipher = AESGCM(self._expand(b"key", 32 if len(self._secret) == 48 else 16))
        self._nonce = int.from_bytes(self._expand(b"iv", 12), "big")
        self.number = 0

    def _expand(self, label: bytes, length: int) -> bytes:
        algorithm = hashes.SHA384() if len(self._secret) == 48 else hashes.SHA256()
        full = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
        return HKDFExpand(algorithm, length, info).derive(self._secret)


class LegacyRecordsByHand:
    """A server's records in TLS 1.2 with `LEGACY_SUITE` (RFC 5246 section 6.3 and RFC 5288)."""

    def __init__(self, keys: Path, server_hello: bytes) -> None:
        line = next(line for line in keys.read_text().splitlines() if "CLIENT_RANDOM" in line)
        _, client_random, _ = line.split()
        seed = b"key expansion" + server_hello[11:43] + bytes.fromhex(client_random)
        block, value = b"", seed
        while len(block) < 40:  # two keys of 16 bytes, two salts of 4
            value = hmac.digest(key_of(keys, "CLIENT_RANDOM"), value, "sha256")
            block += hmac.digest(key_of(keys, "CLIENT_RANDOM"), value + seed, "sha256")
        self._cipher, self._salt = AESGCM(block[16:32]), block[36:40]
        self._number = 1  # after Finished

    def record(self, content: bytes, kind: bytes = HANDSHAKE) -> bytes:
        """The next record."""
        number = self._number.to_bytes(8, "big")
        self._number += 1
        start, size = kind + b"\x03\x03", len(content)
        sealed = self._cipher.encrypt(
            self._salt + number, content, number + start + size.to_bytes(2, "big")
        )
        return start + (size + 24).to_bytes(2, "big") + number + sealed


def key_of(keys: Path, label: str) -> bytes:
    """The newest secret with this label in a key log."""
    lines = [line.split() for line in keys.read_text().splitlines()]
    return bytes.fromhex([line[2] for line in lines if line[0] == label][-1])


@pytest.mark.parametrize("tickets", [0, 2], ids=["in one read", "in several"])
def test_a_response_is_there_whatever_tls_cannot_send(
    authority: trustme.CA,
    trusted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tickets: int,
) -> None:
    """The server asks for a new key (RFC 8446 section 4.6.3) and is gone before it hears of one.

    The response was lost, in a frame that a crash reporter collects.
    """
    context, keys, gone = tls_server(authority, "127.0.0.1"), tmp_path / "keys", threading.Event()
    context.num_tickets, context.keylog_filename = 0, str(keys)
    recv = TlsSocket.recv

    def recv_late(sock: TlsSocket, size: int) -> bytes:
        assert gone.wait(5)
        return recv(sock, size)

    def serve(connection: socket.socket) -> None:
        gone.clear()
        answer = answer_with(f"token-of-{TlsByHand(connection, context).receive()}")
        connection.sendall(behind_new_keys(keys, answer, tickets))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        gone.set()

    monkeypatch.setattr(TlsSocket, "recv", recv_late)
    with serving(serve) as url, client_of(url) as client:
        for name in ("alice", "bob", "carol"):
            assert client.password(name, "p")["access_token"] == f"token-of-{name}"


def test_a_connection_is_not_kept_while_tls_has_something_to_say(
    authority: trustme.CA, trusted: Path, tmp_path: Path
) -> None:
    """A server that waits for the answer may take no other request, as before TLS 1.3."""
    context, keys, behind = tls_server(authority, "127.0.0.1"), tmp_path / "keys", []
    context.num_tickets, context.keylog_filename = 0, str(keys)

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        answer = answer_with(f"token-of-{tls.receive()}")
        connection.sendall(behind_new_keys(keys, answer))
        behind.append(connection.recv(1))

    with serving(serve) as url, client_of(url) as client:
        for name in ("alice", "bob", "carol"):
            assert client.password(name, "p")["access_token"] == f"token-of-{name}"
    assert behind == [b"", b"", b""]


def test_no_handshake_follows_the_first_one(
    authority: trustme.CA, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of TLS 1.2 that asks for one again and again would keep a processor busy."""
    context, used = tls_server(authority, "127.0.0.1"), []
    wrap = ssl.SSLContext.wrap_bio

    def wrap_and_note(self: ssl.SSLContext, *arguments: Any, **options: Any) -> ssl.SSLObject:
        used.append((self, self.options & ssl.OP_NO_RENEGOTIATION))
        return wrap(self, *arguments, **options)

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        while name := tls.receive():
            tls.sendall(answer_with(f"token-of-{name}"))

    monkeypatch.setattr(ssl.SSLContext, "wrap_bio", wrap_and_note)
    with serving(serve) as url, client_of(url) as client:
        assert client.password("alice", "p")["access_token"] == "token-of-alice"
    assert [refuses for found, refuses in used if found is not context] == [ssl.OP_NO_RENEGOTIATION]


def behind_new_keys(keys: Path, answer: bytes, tickets: int = 0) -> bytes:
    """An answer behind two requests for a new key, and behind tickets."""
    records = RecordsByHand(keys)
    first = records.new_key()
    first += records.new_key()  # OpenSSL answers this one
    first += b"".join(records.record(ticket_of(16_000)) for _ in range(tickets))
    return first + records.record(answer, APPLICATION_DATA)


def ticket_of(size: int) -> bytes:
    """A message with a ticket for a later session (RFC 8446 section 4.6.1)."""
    ticket = bytes(8) + b"\x01\x01" + size.to_bytes(2, "big") + bytes(size) + b"\0\0"
    return b"\x04" + len(ticket).to_bytes(3, "big") + ticket


def test_records_that_come_byte_by_byte_keep_no_processor_busy(
    authority: trustme.CA, trusted: Path
) -> None:
    """Each byte is a read below TLS, and none above it before the record is whole."""
    context = tls_server(authority, "127.0.0.1")

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        tls.receive()
        tls.sendall(answer_with("token-of-bob"))
        tls.receive()
        start = b"HTTP/1.1 200 OK\r\nX: "
        records = tls.encrypt(start + b"a" * 16_000) + tls.encrypt(b"a" * 300_000)
        if os.fork() == 0:  # two interpreters: as fast as a machine of its own
            with suppress(OSError):
                for at in range(len(records)):
                    connection.sendall(records[at : at + 1])
            os._exit(0)
        connection.recv(1)
        os.wait()

    with serving(serve) as url, client_of(url, timeout=1) as client:
        client.password("bob", "b")
        fail_at_leisure(client)


@pytest.mark.parametrize("early", [1, 5, 30])
def test_a_request_is_not_sent_again_after_a_part_of_a_record(
    authority: trustme.CA, trusted: Path, early: int
) -> None:
    """Bytes of the response came back: a refresh token would be spent twice."""
    context, asked = tls_server(authority, "127.0.0.1"), []

    def serve(connection: socket.socket) -> None:
        tls = TlsByHand(connection, context)
        while name := tls.receive():
            asked.append(name)
            record = tls.encrypt(answer_with(f"token-of-{name}"))
            if asked == ["bob", "alice"]:
                connection.sendall(record[:early])
                return
            connection.sendall(record)

    with serving(serve) as url, client_of(url) as client:
        client.password("bob", "b")
        with suppress(UpstreamFailedError):
            client.password("alice", "a")
        assert asked == ["bob", "alice"]
