"""The sandbox answers as bakrypt's engines do and only works as a sandbox."""

import io
from typing import Any

import pytest
import requests
from conftest import Clock

from bakrypt_proxy import BakryptClient, Settings
from bakrypt_proxy.sandbox import CREDENTIALS, Sandbox

FORM = {
    "client_id": CREDENTIALS["BAKRYPT_CLIENT_ID"],
    "client_secret": CREDENTIALS["BAKRYPT_CLIENT_SECRET"],
    "username": "alice",
    "password": "alice-password",
    "grant_type": "password",
}


def post(url: str, **arguments: Any) -> requests.Response:
    """Post without following redirects."""
    return requests.post(url, timeout=5, allow_redirects=False, **arguments)


@pytest.mark.parametrize(
    ("change", "status", "body"),
    [
        (
            {"password": "x"},
            400,
            {"error": "invalid_grant", "error_description": "Invalid credentials given."},
        ),
        (
            {"username": "eve"},
            400,
            {"error": "invalid_grant", "error_description": "Invalid credentials given."},
        ),
        ({"client_secret": "x"}, 401, {"error": "invalid_client"}),
        ({"client_id": "x"}, 401, {"error": "invalid_client"}),
        (
            {"username": None},
            400,
            {
                "error": "invalid_request",
                "error_description": "Request is missing username parameter.",
            },
        ),
        (
            {"username": ["alice", "alice"]},
            400,
            {"error": "invalid_request", "error_description": "Duplicate username parameter."},
        ),
        ({"grant_type": "magic"}, 400, {"error": "unsupported_grant_type"}),
        ({"grant_type": None, "username": None}, 400, {"error": "unsupported_grant_type"}),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, {"error": "invalid_grant"}),
    ],
)
def test_token_errors(
    sandbox: Sandbox, change: dict[str, Any], status: int, body: dict[str, str]
) -> None:
    """The token route sends the error bodies of `upstream.md`, from the same engine."""
    response = post(f"{sandbox.url}/auth/token/", data=FORM | change)
    assert response.status_code == status
    assert response.json() == body
    if status == 401:
        assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_client"'


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ({}, "Authentication credentials were not provided."),
        ({"Authorization": "Bearer x"}, "Authentication credentials were not provided."),
        ({"Authorization": "Token wrong"}, "Invalid token."),
    ],
)
def test_exchange_errors(sandbox: Sandbox, header: dict[str, str], detail: str) -> None:
    """The exchange route sends the error bodies of Django REST framework."""
    response = post(f"{sandbox.url}/auth/exchange/", headers=header)
    assert (response.status_code, response.json()) == (401, {"detail": detail})
    assert response.headers["WWW-Authenticate"] == "Token"


def test_exchanges_are_independent(sandbox: Sandbox, bakrypt: BakryptClient) -> None:
    """A second exchange does not revoke the token of the first one."""
    first, second = bakrypt.exchange(), bakrypt.exchange()
    assert first["access_token"] != second["access_token"]
    assert (
        sandbox.store.owner(first["access_token"])
        == sandbox.store.owner(second["access_token"])
        == "account"
    )


def test_a_refresh_revokes_the_old_access_token(sandbox: Sandbox, bakrypt: BakryptClient) -> None:
    """A refresh revokes the old access token at once, as bakrypt does."""
    old = bakrypt.password("bob", "bob-password")
    bakrypt.refresh(old["refresh_token"])
    assert sandbox.store.owner(old["access_token"]) is None


def test_tokens_expire(clock: Clock) -> None:
    """A token expires `expires_in` seconds after it was issued."""
    with Sandbox(expires_in=60, clock=clock).listen() as sandbox:
        with BakryptClient(Settings.from_mapping(sandbox.environ)) as bakrypt:
            token = bakrypt.exchange()
        assert token["expires_in"] == 60
        clock.now += 59.9
        assert sandbox.store.owner(token["access_token"]) == "account"
        clock.now += 0.1
        assert sandbox.store.owner(token["access_token"]) is None


def test_a_path_without_its_slash_is_redirected(sandbox: Sandbox) -> None:
    """The status is 301, as from Django; a client then turns its POST into a GET."""
    response = post(f"{sandbox.url}/auth/exchange")
    assert response.status_code == 301
    assert response.headers["Location"].endswith("/auth/exchange/")


def test_wrong_method(sandbox: Sandbox) -> None:
    """A wrong method gets the 405 body of Django REST framework."""
    response = requests.get(f"{sandbox.url}/auth/exchange/", timeout=5)
    assert (response.status_code, response.json()) == (405, {"detail": 'Method "GET" not allowed.'})


def test_failures_on_request(sandbox: Sandbox) -> None:
    """The sandbox fails, throttles or waits when told to, and counts every call."""
    sandbox.fail = 503
    assert post(f"{sandbox.url}/auth/token/", data=FORM).status_code == 503
    sandbox.fail, sandbox.throttle = None, 7
    response = post(f"{sandbox.url}/auth/token/", data=FORM)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    assert response.json() == {"detail": "Request was throttled. Expected available in 7 seconds."}
    sandbox.throttle, sandbox.delay = None, 0.2
    response = post(f"{sandbox.url}/auth/token/", data=FORM)
    assert response.status_code == 200
    assert response.elapsed.total_seconds() >= 0.2
    assert sandbox.calls == {"/auth/token/": 3}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"]
)
def test_foreign_host_names_are_refused(sandbox: Sandbox, host: str) -> None:
    """A page gets nothing through a foreign name whose DNS entry points at this machine."""
    assert post(f"{sandbox.url}/auth/exchange/", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:5001", "127.0.0.1", "[::1]:5001"])
def test_loopback_names_are_answered(sandbox: Sandbox, host: str) -> None:
    """The sandbox answers under every loopback name."""
    assert post(f"{sandbox.url}/auth/exchange/", headers={"Host": host}).status_code == 401


def test_it_listens_only_on_loopback(sandbox: Sandbox) -> None:
    """The sandbox listens on 127.0.0.1."""
    assert sandbox.url.startswith("http://127.0.0.1:")


class TestApi:
    """The API that a token opens."""

    @pytest.fixture
    def bearer(self, bakrypt: BakryptClient) -> dict[str, str]:
        """The `Authorization` header with alice's token."""
        token = bakrypt.password("alice", "alice-password")
        return {"Authorization": f"Bearer {token['access_token']}"}

    @pytest.mark.parametrize(
        "header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Token x"}]
    )
    def test_needs_a_bearer_token(self, sandbox: Sandbox, header: dict[str, str]) -> None:
        """Without a valid bearer token the API answers with 401."""
        response = post(f"{sandbox.url}/v1/files/", headers=header)
        assert response.status_code == 401
        assert response.json() == {"detail": "Authentication credentials were not provided."}

    def test_upload(self, sandbox: Sandbox, bearer: dict[str, str]) -> None:
        """An upload returns the attachment of bakrypt's reference."""
        response = post(
            f"{sandbox.url}/v1/files/",
            headers=bearer,
            files={"file": ("ü.txt", io.BytesIO(b"hello"), "text/plain")},
        )
        assert response.status_code == 201
        attachment = response.json()
        assert set(attachment) == {
            "uuid", "file", "name", "filename", "size", "mimetype", "ipfs", "gateway", "created_on",
        }  # fmt: skip
        assert (attachment["filename"], attachment["size"], attachment["mimetype"]) == (
            "ü.txt",
            5,
            "text/plain",
        )
        assert attachment["ipfs"].startswith("ipfs://Qm")

    def test_upload_without_a_file(self, sandbox: Sandbox, bearer: dict[str, str]) -> None:
        """The error names the field and has a list of messages."""
        response = post(f"{sandbox.url}/v1/files/", headers=bearer)
        assert (response.status_code, response.json()) == (
            400,
            {"file": ["No file was submitted."]},
        )

    def test_one_asset_contains_its_transaction(
        self, sandbox: Sandbox, bearer: dict[str, str]
    ) -> None:
        """One asset contains its whole transaction, which can be read and minted once."""
        asset = post(f"{sandbox.url}/v1/assets/", headers=bearer, json={"name": "A coin"}).json()
        transaction = asset["transaction"]
        url = f"{sandbox.url}/v1/transactions/{transaction['uuid']}/"
        assert requests.get(url, headers=bearer, timeout=5).json() == transaction
        assert transaction["status"] == "waiting"
        assert post(f"{url}mint/", headers=bearer).json()["status"] == "confirmed"
        assert post(f"{url}refund/", headers=bearer).json() == {
            "detail": "The transaction is confirmed."
        }

    def test_a_list_is_a_collection(self, sandbox: Sandbox, bearer: dict[str, str]) -> None:
        """The items of a list name one transaction by uuid; `GET` returns a page."""
        assets = post(
            f"{sandbox.url}/v1/assets/", headers=bearer, json=[{"name": "A"}, {"name": "B"}]
        ).json()
        assert len({asset["transaction"] for asset in assets}) == 1
        page = requests.get(f"{sandbox.url}/v1/assets/", headers=bearer, timeout=5).json()
        assert page == {"count": 2, "next": None, "previous": None, "results": assets}

    def test_assets_of_another_user_are_not_found(
        self, sandbox: Sandbox, bakrypt: BakryptClient, bearer: dict[str, str]
    ) -> None:
        """A user cannot see another user's assets and transactions."""
        asset = post(f"{sandbox.url}/v1/assets/", headers=bearer, json={"name": "A"}).json()
        bob = {"Authorization": f"Bearer {bakrypt.password('bob', 'bob-password')['access_token']}"}
        url = f"{sandbox.url}/v1/transactions/{asset['transaction']['uuid']}/"
        assert requests.get(url, headers=bob, timeout=5).status_code == 404
        assert (
            requests.get(f"{sandbox.url}/v1/assets/", headers=bob, timeout=5).json()["count"] == 0
        )

    def test_a_browser_may_call_it(self, sandbox: Sandbox) -> None:
        """CORS allows every origin, because the official web component runs on any page."""
        headers = {"Origin": "https://shop.example.com", "Access-Control-Request-Method": "POST"}
        response = requests.options(f"{sandbox.url}/v1/files/", headers=headers, timeout=5)
        assert response.ok
        assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example.com"
