"""The page at `/`, used as a person would in Chromium."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import browser, needs_chromium
from conftest import serve
from flask import Flask
from playwright.sync_api import Browser, Page, expect

from app import create_app
from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser"]  # a fixture is used by its name
pytestmark = needs_chromium


@pytest.fixture
def app() -> Iterator[Flask]:
    """The app with its embedded sandbox."""
    app = create_app({"BAKRYPT_NETWORK": "sandbox"})
    with app.extensions["bakrypt_sandbox"]:
        yield app


@pytest.fixture
def sandbox(app: Flask) -> Sandbox:
    """The embedded sandbox."""
    sandbox: Sandbox = app.extensions["bakrypt_sandbox"]
    return sandbox


@pytest.fixture
def page(browser: Browser, app: Flask) -> Iterator[Page]:
    """The page, on a phone's width. An error in its code fails the test."""
    faults: list[str] = []
    with serve(app) as url, browser.new_context(viewport={"width": 375, "height": 800}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(url)
        yield page
        page.close()
    assert faults == []


def exchange(page: Page) -> None:
    """Press the button."""
    page.get_by_role("button", name="Exchange").click()


def sign_in(page: Page, password: str) -> None:
    """Fill the form in."""
    page.get_by_label("Name").fill("alice")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_exchange_and_watch(page: Page) -> None:
    """The token is masked until asked for, and its life runs down."""
    exchange(page)
    expect(page.locator("#left")).to_have_text(re.compile(r"^(10 h 0 s|9 h 59 min \d+ s)$"))
    shown = page.locator("[data-member=access_token]")
    expect(shown).to_have_text(re.compile("^•+$"))
    page.get_by_role("button", name="Show the token").click()
    expect(shown).to_have_text(re.compile(r"^\w{30}$"))
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_text("None yet.")).to_be_visible()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_sign_in_and_refresh(page: Page, sandbox: Sandbox) -> None:
    """A refresh brings another token."""
    sign_in(page, "alice-password")
    page.get_by_role("button", name="Show the token").click()
    first = page.locator("[data-member=access_token]").text_content()
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("[data-member=access_token]")).to_have_text(re.compile("^•+$"))
    page.get_by_role("button", name="Show the token").click()
    second = page.locator("[data-member=access_token]").text_content()
    assert (sandbox.store.owner(first), sandbox.store.owner(second)) == (None, "alice")


def test_errors_read_well(page: Page, sandbox: Sandbox) -> None:
    """What happened, what to do, and the code for whoever looks for it."""
    sign_in(page, "wrong")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("That was not accepted.")
    expect(alert).to_contain_text("Invalid credentials given.")
    expect(alert).to_contain_text("400 invalid_grant")
    sandbox.throttle = 7
    exchange(page)
    expect(alert).to_contain_text("Too many attempts.")
    expect(alert).to_contain_text("Try again in 7 seconds.")
    sandbox.throttle, sandbox.fail = None, 503
    sign_in(page, "alice-password")
    expect(alert).to_contain_text("Bakrypt failed (status 503).")
    sandbox.fail = None
    sign_in(page, "alice-password")
    expect(alert).to_be_hidden()


def test_no_answer_reads_well(page: Page) -> None:
    """The server is gone."""
    page.route("**/auth/exchange/", lambda route: route.abort())
    exchange(page)
    expect(page.get_by_role("alert")).to_contain_text("The server could not be reached.")


def test_upload(page: Page, tmp_path: Path) -> None:
    """From the browser to the sandbox's API, with the token."""
    upload = page.get_by_role("button", name="Upload")
    expect(upload).to_be_disabled()
    exchange(page)
    file = tmp_path / "ünï.txt"
    file.write_bytes(b"x" * 1234)
    page.get_by_label("File", exact=True).set_input_files(file)
    upload.click()
    expect(page.locator("#uploaded")).to_contain_text("ünï.txt")
    expect(page.locator("#uploaded")).to_contain_text("1,234 bytes")
    expect(page.locator("#uploaded")).to_contain_text("ipfs://Qm")


def test_an_upload_stays_on_the_page_as_long_as_its_user(page: Page, tmp_path: Path) -> None:
    """Through a refresh, and not through another sign-in."""
    sign_in(page, "alice-password")
    file = tmp_path / "a.txt"
    file.write_bytes(b"x")
    page.get_by_label("File", exact=True).set_input_files(file)
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#uploaded")).to_be_visible()
    with page.expect_response("**/auth/token/"):
        page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#uploaded")).to_be_visible()
    with page.expect_response("**/auth/exchange/"):
        exchange(page)
    expect(page.locator("#uploaded")).to_be_hidden()


def test_a_token_that_ends(page: Page, sandbox: Sandbox) -> None:
    """Its life is over on the page when it is over upstream, and nothing is uploaded with it."""
    sandbox.expires_in = 2
    exchange(page)
    expect(page.locator("#left")).to_have_text("over")
    expect(page.get_by_role("button", name="Upload")).to_be_disabled()


def test_it_fits_a_phone(page: Page) -> None:
    """Nothing is cut off at the side."""
    exchange(page)
    page.get_by_role("button", name="Show the token").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
