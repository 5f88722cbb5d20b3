"""Members of a fleet in this process, and what they have in Redis."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from misbehaving import TOKEN_REPLY, Received, Upstream, replying
from redis import Redis

from bakrypt_proxy import BakryptError, Settings, UpstreamFailedError
from bakrypt_proxy.account import Account

TIMEOUT = 1.0  # seconds
TOKEN = str(TOKEN_REPLY["access_token"])
WRONG = {"username": "alice", "password": "wrong"}


def member(environ: dict[str, str], **other: str) -> Account:
    """What a new process of the fleet has."""
    return Account(Settings.from_mapping(environ | other))


def token_of(account: Account, rejected: str | None = None) -> str:
    """Get the shared token of a process."""
    return account.shared_token.get(rejected)["access_token"]


def key_of(redis: "Redis", kind: str) -> bytes:
    """The key of this kind, whether it is there or not."""
    found = [key for key in redis.keys("bakrypt_proxy:{*}:*:*") if isinstance(key, bytes)]
    (name,) = {key.rpartition(b":")[0] for key in found}
    return name + b":" + kind.encode()


def value_of(redis: "Redis", kind: str) -> bytes:
    """The value that is stored under the key of this kind."""
    value = redis.get(key_of(redis, kind))
    assert isinstance(value, bytes)
    return value


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings about Redis."""
    texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [text for text in texts if "Redis" in text]


def numbered(upstream: Upstream, expires_in: float = 36000) -> None:
    """Have bakrypt give out `token-1`, `token-2` and so on."""

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        name = f"token-{len(upstream.requests)}"
        body = TOKEN_REPLY | {"access_token": name, "expires_in": expires_in}
        replying(200, body)(upstream, connection, received)

    upstream.behave = behave


def sealed_values(upstream: Upstream, environ: dict[str, str], redis: "Redis") -> dict[str, bytes]:
    """Real values of all three keys, from a renewal that fails and one that succeeds."""
    values = {}

    def behave(upstream: Upstream, connection: socket.socket, received: Received) -> None:
        values["lease"] = value_of(redis, "lease")
        replying(503, {}, "Retry-After: 60")(upstream, connection, received)

    upstream.behave = behave
    with pytest.raises(BakryptError):
        token_of(member(environ))
    values["error"] = value_of(redis, "error")
    redis.delete(key_of(redis, "error"))
    upstream.behave = replying(200, TOKEN_REPLY)
    token_of(member(environ))
    values["token"] = value_of(redis, "token")
    upstream.requests.clear()
    return values


def attempt(account: Account) -> str:
    """Get the token, or the end of the error."""
    try:
        return token_of(account)
    except UpstreamFailedError as error:
        return (error.description or "").removeprefix("bakrypt ")


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that says one thing over and over, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while connection.recv(65536):
                    connection.sendall(answer)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],)).start()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"redis://:planted-password@127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
