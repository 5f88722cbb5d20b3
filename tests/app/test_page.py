"""The page at `/`, used as a person would in Chromium."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browsing import browser, needs_chromium
from conftest import serve
from flask import Flask
from packages import needs_npm, packages
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from app import create_app
from bakrypt_proxy import BakryptClient, Settings
from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser", "packages"]  # a fixture is used by its name
pytestmark = needs_chromium
RENEWED = re.compile(r"^[1-9]\d*, the last at ")


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
def context(browser: Browser, app: Flask) -> Iterator[BrowserContext]:
    """A browser of a phone's width. An error in the page's code fails the test."""
    faults: list[str] = []
    with (
        serve(app) as url,
        browser.new_context(base_url=url, viewport={"width": 375, "height": 800}) as context,
    ):
        context.on("weberror", lambda error: faults.append(str(error.error)))
        yield context
        for page in context.pages:
            page.close()
    assert faults == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """The page."""
    return open_page(context)


def open_page(context: BrowserContext) -> Page:
    """Another tab with the page, ready."""
    page = context.new_page()
    page.goto("/")
    page.wait_for_load_state("networkidle")
    return page


def exchange(page: Page) -> None:
    """Press the button."""
    page.get_by_role("button", name="Exchange").click()


def sign_in(page: Page, password: str) -> None:
    """Fill the form in."""
    page.get_by_label("Name", exact=True).fill("alice")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


FOCUSED = "document.activeElement.textContent.trim() || document.activeElement.name"
WITH_TOKEN = "#with-token"
WITHOUT_TOKEN = "#without-token"


def upload(page: Page, file: Path, way: str = WITH_TOKEN) -> None:
    """Choose a file and send it."""
    forms = page.locator(way)
    forms.get_by_label("File", exact=True).set_input_files(file)
    forms.get_by_role("button", name="Upload").click()


def create_asset(page: Page, way: str = WITH_TOKEN) -> None:
    """Name it and press the button."""
    forms = page.locator(way)
    forms.get_by_label("Asset name").fill("Gold")
    forms.get_by_role("button", name="Create").click()


def call(page: Page, line: str) -> str:
    """What the list of calls lays open about the newest of this line."""
    item = page.locator("#calls li", has_text=line).first
    expect(item.locator(".reply")).not_to_be_empty()
    return "\n".join(item.locator("pre").all_text_contents())


class TestToken:
    """Get one and watch it."""

    def test_exchange_and_watch(self, page: Page, sandbox: Sandbox) -> None:
        """The token is masked until asked for, its life runs down, and it is forgotten for good."""
        sandbox.expires_in = 36000
        exchange(page)
        expect(page.locator("#whose")).to_have_text("It belongs to the account of this server.")
        expect(page.locator("#left")).to_have_text(re.compile(r"^(10 h 0 s|9 h 59 min \d+ s)$"))
        shown = page.locator("#access-token")
        expect(shown).to_have_text(re.compile("^•+$"))
        page.get_by_role("button", name="Show").click()
        expect(shown).to_have_text(re.compile(r"^\w{30}$"))
        page.get_by_role("button", name="Sign out").click()
        expect(page.locator("#whose")).to_have_text("Signed out.")
        expect(page.get_by_role("button", name="Exchange")).to_be_focused()
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
            0,
            0,
            "",
        ]

    def test_copy(self, page: Page, context: BrowserContext, sandbox: Sandbox) -> None:
        """To use it elsewhere."""
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        exchange(page)
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_text("Copied.")).to_be_visible()
        assert sandbox.store.owner(page.evaluate("navigator.clipboard.readText()")) == "account"

    def test_a_renewal_is_seen(self, page: Page, sandbox: Sandbox) -> None:
        """A user's token that expires soon is renewed again and again; the one shown is alive."""
        sandbox.expires_in = 2
        sign_in(page, "alice-password")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#renewals")).to_have_text(RENEWED)
        sandbox.expires_in = 60
        expect(page.locator("#left")).to_have_text(re.compile(r"^(1 min 0 s|5\d s)$"))
        expect(page.locator("#whose")).to_have_text("It belongs to alice.")
        assert sandbox.store.owner(page.locator("#access-token").text_content()) == "alice"
        assert '"grant_type": "refresh_token"' in call(page, "POST /auth/token/")

    def test_a_tab_finds_the_token_of_another(
        self, page: Page, context: BrowserContext, sandbox: Sandbox
    ) -> None:
        """And loses it with the other."""
        sign_in(page, "alice-password")
        expect(page.locator("#token")).to_be_visible()
        other = open_page(context)
        expect(other.locator("#whose")).to_have_text("It is the one of another tab.")
        page.get_by_role("button", name="Sign out").click()
        expect(other.locator("#whose")).to_have_text("Signed out.")
        assert sandbox.calls["/auth/token/"] == 1

    def test_two_tabs_renew_it_once(
        self, page: Page, context: BrowserContext, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """Past two ends of an exchanged token both count the same renewals, and can upload."""
        sandbox.expires_in = 3
        exchange(page)
        expect(page.locator("#token")).to_be_visible()
        other = open_page(context)
        exchange(other)
        for tab in (page, other):
            expect(tab.locator("#renewals")).to_have_text(re.compile("^[1-9]"), timeout=10_000)
        sandbox.expires_in = 60
        (tmp_path / "a.txt").write_bytes(b"x")
        for tab in (page, other):
            expect(tab.locator("#left")).to_have_text(
                re.compile(r"^(1 min 0 s|5\d s)$"), timeout=10_000
            )
            upload(tab, tmp_path / "a.txt")
            expect(tab.locator("#uploaded")).to_be_visible()
        renewals = page.locator("#renewals").text_content() or ""
        assert sandbox.calls["/auth/exchange/"] == 1 + int(renewals.split(",")[0])

    def test_an_upload_with_a_refused_token(
        self, page: Page, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """The token is renewed and the file sent once more, with its bar."""
        exchange(page)
        page.get_by_role("button", name="Show").click()
        shown = page.locator("#access-token")
        expect(shown).to_have_text(re.compile(r"^\w{30}$"))
        sandbox.revoke(shown.text_content() or "")
        (tmp_path / "a.txt").write_bytes(b"x")
        upload(page, tmp_path / "a.txt")
        expect(page.locator("#uploaded")).to_be_visible()
        assert sandbox.calls["/auth/exchange/"] == 2

    def test_a_token_that_ends(self, page: Page, sandbox: Sandbox) -> None:
        """It expires on the page when it expires upstream, and nothing is uploaded with it."""
        sandbox.expires_in = 2
        exchange(page)
        expect(page.locator("#left")).to_have_text(re.compile(r"^\d s$"))
        sandbox.fail = 503
        expect(page.locator("#left")).to_have_text("over", timeout=10_000)
        button = page.locator(WITH_TOKEN).get_by_role("button", name="Upload")
        expect(button).to_be_disabled()

    def test_a_token_that_does_not_say_how_long_it_lives(self, page: Page, tmp_path: Path) -> None:
        """Is used all the same."""

        def leave_out(route: Route) -> None:
            token = route.fetch().json()
            del token["expires_in"]
            route.fulfill(json=token)

        page.route("**/auth/exchange/", leave_out)
        exchange(page)
        expect(page.locator("#left")).to_have_text("not said")
        (tmp_path / "a.txt").write_bytes(b"x")
        upload(page, tmp_path / "a.txt")
        expect(page.locator("#uploaded")).to_be_visible()


class TestProblems:
    """What happened, what to do, and the code to search for."""

    def test_errors_read_well(self, page: Page, sandbox: Sandbox) -> None:
        """Each kind in its words, until the next attempt."""
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

    def test_no_answer_reads_well(self, page: Page) -> None:
        """The server is gone."""
        page.route("**/auth/exchange/", lambda route: route.abort())
        exchange(page)
        expect(page.get_by_role("alert")).to_contain_text("The server could not be reached.")
        expect(page.locator("#calls")).to_contain_text("no reply")

    def test_a_slow_call_says_so(self, page: Page, sandbox: Sandbox) -> None:
        """On its button, while it is at work."""
        sandbox.delay = 1
        exchange(page)
        expect(page.get_by_role("button", name="Asking…")).to_be_visible()
        expect(page.get_by_role("button", name="Exchange")).to_be_visible()


class TestWire:
    """The calls laid open."""

    def test_the_two_calls(self, page: Page) -> None:
        """The real request and the real reply."""
        exchange(page)
        exchanged = call(page, "POST /auth/exchange/")
        assert "200 OK" in exchanged
        assert "cache-control: no-store" in exchanged
        assert '"token_type": "Bearer"' in exchanged
        sign_in(page, "alice-password")
        signed_in = call(page, "POST /auth/token/")
        assert "content-type: application/json" in signed_in
        assert '"username": "alice"' in signed_in

    def test_secret_parts_are_masked(self, page: Page, sandbox: Sandbox, tmp_path: Path) -> None:
        """Neither a password nor a token nor a deposit address is in the list of calls."""
        replies: list[str] = []
        page.on(
            "response",
            lambda reply: replies.append(reply.text()) if "/auth/token/" in reply.url else None,
        )
        sign_in(page, "alice-password")
        (tmp_path / "a.txt").write_bytes(b"x")
        upload(page, tmp_path / "a.txt")
        expect(page.locator("#uploaded")).to_be_visible()
        create_asset(page)
        expect(page.locator("#created")).to_be_visible()
        for line in ("/auth/token/", "/v1/files/", "/v1/assets/"):
            assert "••••" in call(page, line)
        token = json.loads(replies[0])
        text = page.locator("#calls").text_content() or ""
        for secret in (
            "alice-password",
            token["access_token"],
            token["refresh_token"],
            "addr_test1",
        ):
            assert secret not in text

    def test_a_failure_is_laid_open_too(self, page: Page, sandbox: Sandbox) -> None:
        """With its headers."""
        sandbox.throttle = 7
        exchange(page)
        assert "retry-after: 7" in call(page, "POST /auth/exchange/")


class TestApi:
    """What the token opens."""

    def test_upload(self, page: Page, tmp_path: Path) -> None:
        """From the browser to the sandbox's API, with the token."""
        button = page.locator(WITH_TOKEN).get_by_role("button", name="Upload")
        expect(button).to_be_disabled()
        exchange(page)
        file = tmp_path / "ünï.txt"
        file.write_bytes(b"x" * 1234)
        upload(page, file)
        expect(page.locator("#uploaded")).to_contain_text("ünï.txt")
        expect(page.locator("#uploaded")).to_contain_text("1,234 bytes")
        expect(page.locator("#uploaded")).to_contain_text("ipfs://Qm")
        assert "file: ünï.txt, 1,234 bytes" in call(page, "/v1/files/")

    def test_the_progress_of_an_upload(self, page: Page, sandbox: Sandbox, tmp_path: Path) -> None:
        """The bar is there while the file is on its way, moves on, and is gone at the end."""
        exchange(page)
        expect(page.locator("#token")).to_be_visible()
        watch_bar(page, "#uploading")
        throttle(page)
        (tmp_path / "large.bin").write_bytes(bytes(3_000_000))
        upload(page, tmp_path / "large.bin")
        expect(page.locator("#uploaded")).to_contain_text("3,000,000 bytes", timeout=20_000)
        expect(page.locator("#uploading")).to_be_hidden()
        seen = page.evaluate("seen")
        assert seen == sorted(seen)
        assert seen[0] == 0
        assert any(0 < share < 1 for share in seen)
        assert seen[-1] == 1

    def test_an_upload_that_is_refused(self, page: Page, sandbox: Sandbox, tmp_path: Path) -> None:
        """The API's own words."""
        exchange(page)
        expect(page.locator("#token")).to_be_visible()

        def refuse(route: Route) -> None:
            body = json.dumps({"file": ["Too large for the sandbox."]})
            route.fulfill(status=400, headers={"Access-Control-Allow-Origin": "*"}, body=body)

        page.route("**/v1/files/", refuse)
        (tmp_path / "a.txt").write_bytes(b"x")
        upload(page, tmp_path / "a.txt")
        expect(page.get_by_role("alert")).to_contain_text("Too large for the sandbox.")

    def test_an_asset_and_its_transaction(
        self, page: Page, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """Its transaction waits for the deposit, is minted, and its status follows."""
        exchange(page)
        (tmp_path / "a.txt").write_bytes(b"x")
        upload(page, tmp_path / "a.txt")
        expect(page.locator("#uploaded")).to_be_visible()
        create_asset(page)
        created = page.locator("#created")
        expect(created).to_contain_text("Waiting for the deposit.")
        assert '"image": "ipfs://Qm' in call(page, "/v1/assets/")
        expect(page.locator("#calls")).to_contain_text(
            "GET", timeout=10_000
        )  # it is looked at by itself
        page.get_by_role("button", name="Mint").click()
        expect(created).to_contain_text("confirmed")
        expect(page.get_by_role("button", name="Mint")).to_be_hidden()

    def test_results_go_with_the_token(self, page: Page, sandbox: Sandbox, tmp_path: Path) -> None:
        """They stay through a renewal, and not through another sign-in."""
        sandbox.expires_in = 2
        sign_in(page, "alice-password")
        (tmp_path / "a.txt").write_bytes(b"x")
        upload(page, tmp_path / "a.txt")
        expect(page.locator("#uploaded")).to_be_visible()
        expect(page.locator("#renewals")).to_have_text(RENEWED)
        expect(page.locator("#uploaded")).to_be_visible()
        exchange(page)
        expect(page.locator("#uploaded")).to_be_hidden()


class TestWithoutToken:
    """The way for a public site."""

    def test_it_comes_first(self, page: Page) -> None:
        """And says why it is the one."""
        expect(page.locator("section").first).to_contain_text("The way for a public site.")

    def test_an_asset_and_its_transaction(
        self, page: Page, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """Made of the uploaded file; its status is followed, and the page never gets a token."""
        (tmp_path / "ünï.txt").write_bytes(b"x" * 1234)
        upload(page, tmp_path / "ünï.txt", WITHOUT_TOKEN)
        expect(page.locator("#public-uploaded")).to_contain_text("1,234 bytes")
        create_asset(page, WITHOUT_TOKEN)
        created = page.locator("#public-created")
        expect(created).to_contain_text("Waiting for the deposit.")
        assert '"image": "ipfs://Qm' in call(page, "POST /bakrypt/v1/assets/")
        assert "file: ünï.txt, 1,234 bytes" in call(page, "POST /bakrypt/v1/files/")
        uuid = created.locator("[data-member=transaction]").text_content()
        for line in ("/bakrypt/v1/files/", "/bakrypt/v1/assets/", f"/v1/transactions/{uuid}/"):
            assert "authorization" not in call(page, line)
        self.mint(sandbox, uuid)
        expect(created).to_contain_text("confirmed", timeout=20_000)
        assert "/auth/" not in (page.locator("#calls").text_content() or "")

    def mint(self, sandbox: Sandbox, uuid: str | None) -> None:
        """Let bakrypt mint it, as the account would."""
        with BakryptClient(Settings.from_mapping(sandbox.environ)) as account:
            headers = {"Authorization": f"Bearer {account.exchange()['access_token']}"}
        url = f"{sandbox.url}/v1/transactions/{uuid}/mint/"
        assert requests.post(url, headers=headers, timeout=5).ok

    def test_after_a_reload(self, page: Page, context: BrowserContext, tmp_path: Path) -> None:
        """The newest transaction of this browser is there again; scripts see no cookie."""
        create_asset(page, WITHOUT_TOKEN)
        shown = page.locator("#public-created [data-member=transaction]")
        expect(shown).to_have_text(re.compile("-"))
        uuid = shown.text_content() or ""
        page.reload()
        expect(shown).to_have_text(uuid)
        assert page.evaluate("document.cookie") == ""

    def test_the_progress_of_an_upload(self, page: Page, tmp_path: Path) -> None:
        """The bar is there while the file is on its way, and gone at the end."""
        watch_bar(page, "#public-uploading")
        throttle(page)
        (tmp_path / "large.bin").write_bytes(bytes(3_000_000))
        upload(page, tmp_path / "large.bin", WITHOUT_TOKEN)
        expect(page.locator("#public-uploaded")).to_contain_text("3,000,000 bytes", timeout=30_000)
        expect(page.locator("#public-uploading")).to_be_hidden()
        seen = page.evaluate("seen")
        assert seen == sorted(seen)
        assert any(0 < share < 1 for share in seen)

    def test_a_dead_token_and_a_large_file(
        self, page: Page, app: Flask, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """The server asks for the file again, and the page sends it."""
        token = app.test_client().post("/auth/exchange/").get_json()["access_token"]
        sandbox.revoke(token)
        (tmp_path / "large.bin").write_bytes(bytes(3_000_000))
        upload(page, tmp_path / "large.bin", WITHOUT_TOKEN)
        expect(page.locator("#public-uploaded")).to_contain_text("3,000,000 bytes", timeout=30_000)
        assert page.locator("#calls li", has_text="/bakrypt/v1/files/").count() == 2
        assert sandbox.calls["/v1/files/"] == 2

    def test_a_refusal_reads_well(self, page: Page, sandbox: Sandbox) -> None:
        """In the server's own words."""
        sandbox.throttle = 7
        create_asset(page, WITHOUT_TOKEN)
        expect(page.get_by_role("alert")).to_contain_text("Try again in 7 seconds.")


class TestForEverybody:
    """On a phone, with a keyboard, with a screen reader, by day and by night."""

    def test_it_fits_a_phone(self, page: Page, tmp_path: Path) -> None:
        """Nothing is cut off at the side."""
        fill_in_everything(page, tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375

    def test_with_the_keyboard_alone(self, page: Page) -> None:
        """Everything that can be pressed is reached, shows that it is, and works."""
        first = []
        for _ in range(6):
            page.keyboard.press("Tab")
            style = "getComputedStyle(document.activeElement).outlineStyle"
            first.append((page.evaluate(FOCUSED), page.evaluate(style)))
        names = ["file", "Upload", "name", "amount", "Create", "Exchange"]
        assert first == [(name, "solid") for name in names]
        page.keyboard.press("Enter")
        expect(page.locator("#token")).to_be_visible()
        page.get_by_role("button", name="Exchange").focus()
        reached = []
        for _ in range(14):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(FOCUSED))
        wanted = [
            "username",
            "password",
            "Sign in",
            "Show",
            "Copy",
            "Sign out",
            "file",
            "Upload",
            "name",
            "amount",
        ]
        assert [name for name in reached if name in wanted] == wanted

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("_", [pytest.param(None, marks=needs_npm)])
    def test_axe_finds_nothing(
        self, browser: Browser, app: Flask, packages: Path, tmp_path: Path, scheme: Any, _: None
    ) -> None:
        """axe-core on the empty page, on the full one, and with a problem on it."""
        axe = (packages / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
        with serve(app) as url, browser.new_context(base_url=url, color_scheme=scheme) as context:
            page = open_page(context)
            page.evaluate(axe)
            assert violations(page) == []
            fill_in_everything(page, tmp_path)
            sign_in(page, "wrong")
            expect(page.get_by_role("alert")).to_be_visible()
            assert violations(page) == []
            page.close()


def watch_bar(page: Page, selector: str) -> None:
    """Keep what a progress bar shows, in `seen` of the page."""
    page.evaluate(
        """(selector) => {
            window.seen = [];
            const bar = document.querySelector(selector);
            const note = () => bar.hidden || seen.push(bar.value);
            new MutationObserver(note).observe(bar, { attributes: true });
        }""",
        selector,
    )


def throttle(page: Page) -> None:
    """Let the page send 2 MB a second."""
    slow = {
        "offline": False,
        "latency": 0,
        "downloadThroughput": -1,
        "uploadThroughput": 2_000_000,
    }
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)


def fill_in_everything(page: Page, tmp_path: Path) -> None:
    """Bring every part of the page to sight."""
    exchange(page)
    page.get_by_role("button", name="Show").click()
    (tmp_path / "a.txt").write_bytes(b"x")
    upload(page, tmp_path / "a.txt")
    expect(page.locator("#uploaded")).to_be_visible()
    create_asset(page)
    expect(page.locator("#created")).to_be_visible()
    upload(page, tmp_path / "a.txt", WITHOUT_TOKEN)
    expect(page.locator("#public-uploaded")).to_be_visible()
    create_asset(page, WITHOUT_TOKEN)
    expect(page.locator("#public-created")).to_be_visible()
    page.locator("#calls summary").first.click()


def violations(page: Page) -> list[str]:
    """What axe-core objects to, and where."""
    found = page.evaluate("axe.run(document)")["violations"]
    return [
        f"{fault['id']}: {fault['help']} {node['html']}"
        for fault in found
        for node in fault["nodes"]
    ]
