"""One account for the blueprints of an app whose settings agree."""

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import create_app
from flask import Flask
from misbehaving import Upstream

from bakrypt_proxy import BakryptClient, Settings, create_blueprint, readiness_problems
from bakrypt_proxy.account import Account
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.upstream.masking import Masked


def register_two(first: Settings, second: Settings) -> Flask:
    """An app with two blueprints, at `/one` and `/two`."""
    app = Flask("host")
    for name, settings in (("one", first), ("two", second)):
        blueprint = create_blueprint(name=name, settings=settings, authorize=lambda: True)
        app.register_blueprint(blueprint, url_prefix=f"/{name}")
    return app


def exchange_at_both(app: Flask) -> set[str]:
    """The tokens that both routes give."""
    client = app.test_client()
    replies = [client.post(f"/{name}/exchange/") for name in ("one", "two")]
    return {reply.json["access_token"] for reply in replies if reply.json is not None}


def test_blueprints_with_equal_settings_share_one_token(sandbox: Sandbox) -> None:
    """One call to bakrypt serves both."""
    settings = Settings.from_mapping(sandbox.environ)
    other = dataclasses.replace(settings, allowed_origins=frozenset({"https://shop.example.com"}))
    assert len(exchange_at_both(register_two(settings, other))) == 1
    assert sandbox.calls["/auth/exchange/"] == 1


@pytest.mark.parametrize("change", [{"timeout": 3.0}, {"client_id": "another"}])
def test_blueprints_with_other_settings_have_accounts_of_their_own(
    sandbox: Sandbox, change: dict[str, object]
) -> None:
    """A change in url, credentials, timeout or Redis makes another account."""
    settings = Settings.from_mapping(sandbox.environ)
    other = dataclasses.replace(settings, **change)  # type: ignore[arg-type]
    assert len(exchange_at_both(register_two(settings, other))) == 2


def test_one_that_does_not_share_shares_with_nobody(sandbox: Sandbox) -> None:
    """`BAKRYPT_SHARE_TOKEN=false` is a setting of the blueprint, also on a shared account."""
    settings = Settings.from_mapping(sandbox.environ)
    other = dataclasses.replace(settings, share_token=False)
    assert len(exchange_at_both(register_two(settings, other))) == 2


def test_two_apps_share_nothing(sandbox: Sandbox) -> None:
    """State belongs to an app."""
    apps = [create_app(sandbox.environ) for _ in range(2)]
    replies = [app.test_client().post("/auth/exchange/").get_json() for app in apps]
    assert replies[0]["access_token"] != replies[1]["access_token"]


def test_a_client_that_is_passed_in_is_an_account_of_its_own(sandbox: Sandbox) -> None:
    """Its session may have other certificates or proxies than the settings say."""
    settings = Settings.from_mapping(sandbox.environ)
    client = BakryptClient(settings)
    assert Account(settings).serves(settings, None)
    assert not Account(settings).serves(settings, client)
    assert Account(settings, client).serves(settings, client)
    assert not Account(settings, client).serves(settings, None)


def test_nothing_of_an_account_shows_a_secret() -> None:
    """Neither the account nor what an app keeps of it."""
    settings = Settings(token="planted-token", client_id="id", client_secret="planted-secret")
    app = register_two(settings, settings)
    shown = repr((app.extensions, vars(app.extensions["bakrypt_proxy"])))
    assert "Settings(" in shown
    assert not re.search("planted", shown)


def test_readiness_is_that_of_all_accounts() -> None:
    """Each account without credentials is a problem."""
    app = register_two(Settings(), Settings(timeout=3))
    with app.app_context():
        assert readiness_problems() == ["no credentials are set"] * 2


def test_bakrypt_gives_the_refused_token_again(upstream: Upstream) -> None:
    """Many calls meet a 401, and a renewal brings the same token: bakrypt is asked once."""
    account = Account(Settings.from_mapping(upstream.environ))
    token = Masked(account.shared_token.get()["access_token"])
    account.note_accepted(token)
    upstream.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(account.renewed_token, [token] * 8))
    assert len(upstream.requests) == 1
