"""The app's own tests. Its bakrypt is the fixture `bakrypt_sandbox`."""

import re

import pytest
from existing_app import create_app
from flask.testing import FlaskClient

from bakrypt_proxy.sandbox import Sandbox

PASSWORD = "a-password"  # noqa: S105 - of a user of this test


@pytest.fixture
def client(bakrypt_sandbox: Sandbox) -> FlaskClient:  # noqa: ARG001 - it is in the environment
    """Return a browser of the app."""
    return create_app(PASSWORD).test_client()


def csrf_token(client: FlaskClient, path: str) -> str:
    """Return the CSRF token of a page's form."""
    (token,) = re.findall(r'name="csrf_token".*value="(.+)"', client.get(path).text)
    return str(token)


def sign_in(client: FlaskClient) -> None:
    """Send the form of the page that signs in."""
    form = {"name": "ada", "password": PASSWORD, "csrf_token": csrf_token(client, "/sign-in")}
    assert client.post("/sign-in", data=form).location == "/"


def test_nobody_gets_a_token_without_signing_in(
    client: FlaskClient, bakrypt_sandbox: Sandbox
) -> None:
    """The page leads to the form, the route refuses, and bakrypt is not asked."""
    assert client.get("/").location.startswith("/sign-in")
    assert client.post("/auth/exchange/").status_code == 403
    assert not bakrypt_sandbox.calls


def test_a_user_gets_the_accounts_token(client: FlaskClient, bakrypt_sandbox: Sandbox) -> None:
    """The route is exempt from the CSRF protection of the forms."""
    sign_in(client)
    token = client.post("/auth/exchange/").get_json()
    assert bakrypt_sandbox.store.owner(token["access_token"]) == "account"


def test_two_users_cost_one_call(client: FlaskClient, bakrypt_sandbox: Sandbox) -> None:
    """The token is shared."""
    for browser in (client, client.application.test_client()):
        sign_in(browser)
        assert browser.post("/auth/exchange/").status_code == 200
    assert bakrypt_sandbox.calls == {"/auth/exchange/": 1}


def test_signing_out(client: FlaskClient) -> None:
    """Who has signed out gets no token any more."""
    sign_in(client)
    client.post("/sign-out", data={"csrf_token": csrf_token(client, "/")})
    assert client.post("/auth/exchange/").status_code == 403


def test_a_form_of_another_site(client: FlaskClient) -> None:
    """It has no CSRF token."""
    form = {"name": "ada", "password": PASSWORD}
    assert client.post("/sign-in", data=form).status_code == 400


def test_bakrypt_is_down(client: FlaskClient, bakrypt_sandbox: Sandbox) -> None:
    """The page gets an error in JSON, which it can show."""
    sign_in(client)
    bakrypt_sandbox.fail = 503
    response = client.post("/auth/exchange/")
    assert response.status_code == 500
    assert response.get_json()["error_description"] == "bakrypt failed (status 503)"
