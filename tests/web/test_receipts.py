"""Receipts: which visitor made which transaction, proved by signed cookies and by nothing else."""

import base64
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask, Response, request

from bakrypt_proxy import Settings
from bakrypt_proxy.web.receipts import MAX_AGE, Receipts

HTTPS = "https://shop.example.com"
KEY = "a-key-of-at-least-32-characters-000"
OTHER_KEY = "a-key-of-at-least-32-characters-111"
SETTINGS = Settings(token="account-token")


class Browser:
    """Keeps cookies as a browser does, for a server with these settings."""

    def __init__(self, settings: Settings = SETTINGS, visitor: str | None = None) -> None:
        self.cookies: dict[str, str] = {}
        self.url = HTTPS
        self.visitor = visitor
        self.headers: list[str] = []
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Talk to a server with other settings from now on."""
        self._receipts = Receipts(settings, lambda: self.visitor)

    def make(self, *transactions: UUID) -> None:
        """Get the receipts of new transactions."""
        with self.request():
            response = Response()
            visitor = self._receipts.name()
            self._receipts.add(request, response, list(transactions), visitor)
        self.headers = response.headers.getlist("Set-Cookie")
        for header in self.headers:
            name, _, value = header.partition(";")[0].partition("=")
            if "Max-Age=0" in header:
                del self.cookies[name]
            else:
                self.cookies[name] = value

    def owns(self, transaction: UUID) -> bool:
        """Whether the server lets this browser reach a transaction."""
        with self.request():
            return self._receipts.owns(request, transaction)

    def list(self) -> list[UUID]:
        """The transactions that the server lists."""
        with self.request():
            return self._receipts.transactions(request)

    def request(self) -> Any:
        """A request with its cookies."""
        sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"Cookie": sent} if sent else {}
        return Flask("host").test_request_context("/", base_url=self.url, headers=headers)


@pytest.mark.parametrize(
    ("url", "prefix", "secure"),
    [
        (HTTPS, "__Host-Http-bakrypt-", True),
        ("https://localhost", "__Host-Http-bakrypt-", True),
        ("http://localhost:5000", "bakrypt-", False),
        ("http://127.0.0.1:5000", "bakrypt-", False),
        ("http://[::1]:5000", "bakrypt-", False),
    ],
)
def test_the_cookie(url: str, prefix: str, secure: bool) -> None:
    """Its name, and all that keeps it from scripts and other hosts."""
    browser, transaction = Browser(), uuid4()
    browser.url = url
    browser.make(transaction)
    (header,) = browser.headers
    name = header.partition("=")[0]
    assert name.startswith(prefix)
    assert base64.urlsafe_b64decode(name.removeprefix(prefix) + "==") == transaction.bytes
    flags = set(header.split("; ")[1:])
    assert {"HttpOnly", "Path=/", "SameSite=Strict", f"Max-Age={MAX_AGE}"} <= flags
    assert ("Secure" in flags) is secure
    assert not any(flag.startswith("Domain") for flag in flags)
    assert browser.owns(transaction)


def test_nobody_else_owns_it() -> None:
    """Another browser, another transaction."""
    browser, transaction = Browser(), uuid4()
    browser.make(transaction)
    assert not Browser().owns(transaction)
    assert not browser.owns(uuid4())


def spoil(value: str) -> list[str]:
    """Return a receipt with a later date, without its signature, in another case, and so on."""
    empty, date, signature = value.split(".")
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    changed = signature[:middle] + other + signature[middle + 1 :]
    return [
        "",
        "x",
        ".",
        "..",
        f"{empty}.{date}",
        f"{empty}.{date}.",
        f"{empty}.{date}.{changed}",
        f"{empty}.zzzzzz.{signature}",
        f"{empty}.{date[:-1]}.{signature}",
        f"x.{date}.{signature}",
        value.upper(),
        value.swapcase(),
        "\xff",
        "." * 5000,
    ]


def test_forged_receipts() -> None:
    """None of them opens a transaction, and none is a fault."""
    browser, transaction = Browser(), uuid4()
    browser.make(transaction)
    ((name, value),) = browser.cookies.items()
    for forged in spoil(value):
        browser.cookies = {name: forged}
        assert not browser.owns(transaction), forged
        assert browser.list() == []


def test_a_renamed_receipt() -> None:
    """The signature is bound to the name."""
    browser, transaction, other = Browser(), uuid4(), uuid4()
    browser.make(transaction)
    ((name, value),) = browser.cookies.items()
    browser.make(other)
    (other_name,) = browser.cookies.keys() - {name}
    browser.cookies = {other_name: value}
    assert not browser.owns(other)


def test_a_name_that_is_spelt_otherwise() -> None:
    """Base64 has spare bits: only one spelling is listed."""
    browser, transaction = Browser(), uuid4()
    browser.make(transaction)
    ((name, value),) = browser.cookies.items()
    for spelling in (name[:-1] + chr(ord(name[-1]) + 1), f"{name}=", name + "A", name.lower()):
        if spelling != name:
            browser.cookies = {spelling: value}
            assert browser.list() == []


def test_the_other_prefix_is_not_taken() -> None:
    """A cookie without the prefix may come from a sibling host, or over http."""
    browser, transaction = Browser(), uuid4()
    browser.make(transaction)
    ((name, value),) = browser.cookies.items()
    browser.cookies = {name.removeprefix("__Host-Http-"): value}
    assert not browser.owns(transaction)
    browser.url = "http://localhost"
    assert not browser.owns(transaction)


def test_another_network_and_another_account() -> None:
    """A receipt is good for one network, and for one key."""
    browser, transaction = Browser(), uuid4()
    browser.make(transaction)
    for settings in (
        Settings(token="account-token", url="https://bakrypt.io"),
        Settings(token="another-token"),
        Settings(token="account-token", cookie_key=KEY),
    ):
        browser.use(settings)
        assert not browser.owns(transaction)
    browser.use(Settings(token="account-token"))
    assert browser.owns(transaction)


def test_another_visitor() -> None:
    """On the same browser, after signing out and in."""
    browser, transaction = Browser(visitor="alice"), uuid4()
    browser.make(transaction)
    assert browser.owns(transaction)
    for visitor in ("bob", "", None, "Alice"):
        browser.visitor = visitor
        assert not browser.owns(transaction)
        assert browser.list() == []


def test_before_signing_in() -> None:
    """What was made before stays reachable after it."""
    browser, before, after = Browser(visitor=None), uuid4(), uuid4()
    browser.make(before)
    browser.visitor = "alice"
    browser.make(after)
    assert browser.owns(before)
    assert set(browser.list()) == {before, after}


def test_no_two_lists_of_names_have_the_same_salt() -> None:
    """A visitor may choose any name."""
    browser, transaction = Browser(visitor='a", "b'), uuid4()
    browser.make(transaction)
    browser.visitor = "a"
    assert not browser.owns(transaction)


def test_a_key_is_rotated() -> None:
    """The first key signs, all are taken; a key that is gone is gone."""
    browser, old, new = Browser(Settings(token="t", cookie_key=KEY)), uuid4(), uuid4()
    browser.make(old)
    browser.use(Settings(token="t", cookie_key=f"{OTHER_KEY}, {KEY}"))
    browser.make(new)
    assert browser.owns(old)
    browser.use(Settings(token="t", cookie_key=OTHER_KEY))
    assert browser.owns(new)
    assert not browser.owns(old)


def test_a_new_secret_with_a_key_of_its_own() -> None:
    """Open transactions stay reachable; without `BAKRYPT_COOKIE_KEY` they do not."""
    browser, transaction = Browser(Settings(token="t", cookie_key=KEY)), uuid4()
    browser.make(transaction)
    browser.use(Settings(token="new", cookie_key=KEY))
    assert browser.owns(transaction)


def test_the_newest_are_kept() -> None:
    """The 21st hides the oldest."""
    browser = Browser()
    made = [uuid4() for _ in range(23)]
    for transaction in made:
        browser.make(transaction)
    assert len(browser.cookies) == 20
    assert set(browser.list()) >= set(made[-2:])
    assert sum(browser.owns(transaction) for transaction in made) == 20


def test_many_visitors_of_one_browser() -> None:
    """Their cookies stay short enough for a server: it would refuse everybody's requests."""
    browser, made = Browser(), {}
    for visitor in ("alice", "bob", "carol", "dave"):
        browser.visitor = visitor
        made[visitor] = [uuid4() for _ in range(20)]
        for transaction in made[visitor]:
            browser.make(transaction)
    assert len(browser.cookies) == 60
    for visitor in ("dave", "carol", "bob"):
        browser.visitor = visitor
        assert all(browser.owns(transaction) for transaction in made[visitor])


def test_two_networks_in_one_app() -> None:
    """The receipts of one are not taken for another visitor's by the other."""
    browser, made = Browser(), {}
    mainnet = Settings(url="https://bakrypt.io", token="t")
    testnet = Settings(url="https://testnet.bakrypt.io", token="t2")
    browser.use(testnet)  # both are registered before the first request
    for settings, visitor, count in ((mainnet, "alice", 20), (testnet, "bob", 20)):
        browser.visitor = visitor
        browser.use(settings)
        made[visitor] = [uuid4() for _ in range(count)]
        for transaction in made[visitor]:
            browser.make(transaction)
    browser.visitor = "alice"
    browser.make(uuid4())
    browser.use(mainnet)
    assert set(browser.list()) == set(made["alice"])


def test_many_networks_in_one_app() -> None:
    """Their cookies stay short enough for a server, too."""
    browser = Browser()
    for number in range(6):
        browser.use(Settings(url=f"https://{number}.example.com", token="t"))
        made = [uuid4() for _ in range(20)]
        for transaction in made:
            browser.make(transaction)
        assert set(browser.list()) == set(made)
    assert len(browser.cookies) == 60


def test_a_visitor_of_one_blueprint_and_nobody_in_the_other() -> None:
    """The other one removes none of the visitor's receipts."""
    browser = Browser(visitor="7")
    made = [uuid4() for _ in range(20)]
    browser.make(*made)
    browser.visitor = "8"
    browser.make(*[uuid4() for _ in range(15)])
    browser.use(Settings(url="https://testnet.bakrypt.io", token="t2"))
    browser.visitor = None
    browser.make(uuid4())
    browser.use(SETTINGS)
    browser.visitor = "7"
    assert set(browser.list()) == set(made)


def test_a_receipt_with_letters_that_base64_ignores() -> None:
    """Of one receipt there would be endlessly many long ones to remember."""
    browser, transaction = Browser(), uuid4()
    browser.make(transaction)
    ((name, value),) = browser.cookies.items()
    browser.cookies[name] = value + "!" * 1000
    assert not browser.owns(transaction)


def test_parallel_creations_keep_all() -> None:
    """None of twenty responses knows of the others' cookies."""
    browser = Browser()
    made = [uuid4() for _ in range(20)]
    together: dict[str, str] = {}
    for transaction in made:
        browser.cookies = {}
        browser.make(transaction)
        together |= browser.cookies
    browser.cookies = together
    assert all(browser.owns(transaction) for transaction in made)


def test_a_collection_of_more_than_the_limit() -> None:
    """No cookie is set and removed by the same response."""
    browser = Browser()
    browser.make(*[uuid4() for _ in range(25)])
    assert len(browser.headers) == 25


def test_cookies_of_others_are_left_alone() -> None:
    """The app's own are neither listed nor removed."""
    browser = Browser()
    browser.cookies = {"session": "x", "__Host-Http-other": "y", "bakrypt": "z"}
    browser.make(uuid4())
    assert {"session", "__Host-Http-other", "bakrypt"} <= browser.cookies.keys()
    assert len(browser.list()) == 1


def test_an_old_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after 30 days, whatever the browser keeps."""
    browser, transaction = Browser(), uuid4()
    browser.make(transaction)
    now = time.time()
    for later, owned in ((MAX_AGE - 60, True), (MAX_AGE + 60, False)):
        monkeypatch.setattr("time.time", lambda at=now + later: at)
        assert browser.owns(transaction) is owned
        assert browser.owns(transaction) is owned  # also when it was seen before


@pytest.mark.parametrize("seconds", [1, 30, 3600])
def test_a_clock_that_is_behind(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """The worker that is asked may have a slower clock than the one that signed."""
    browser, transaction = Browser(), uuid4()
    browser.make(transaction)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now - seconds)
    assert browser.owns(transaction)
    assert browser.list() == [transaction]
