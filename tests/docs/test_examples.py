"""The examples in Chromium: an app with users, a page of another origin, bakrypt's component."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import existing_app
import launchpad
import pytest
from browsing import browser, needs_chromium
from conftest import serve
from flask import Flask, Response
from packages import needs_npm, packages
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from app import create_app
from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser", "packages"]  # a fixture is used by its name
EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = needs_chromium


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser; an error in a page's code fails the test."""
    faults: list[str] = []
    with browser.new_context() as context:
        context.set_default_timeout(10_000)
        context.on("weberror", lambda error: faults.append(str(error.error)))
        yield context
        for page in context.pages:
            page.close()
    assert faults == []


class TestExistingApp:
    """`examples/existing_app`: the account's token for those whom Flask-Login knows."""

    @pytest.fixture
    def address(self) -> Iterator[str]:
        """The app, served."""
        with serve(existing_app.create_app("a-password")) as url:
            yield url

    def sign_in(self, page: Page, password: str) -> None:
        """Fill the form in."""
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()

    def test_who_is_signed_in_gets_the_token(self, context: BrowserContext, address: str) -> None:
        """And nobody before, and nobody after."""
        page = context.new_page()
        page.goto(address)
        assert self.exchange(page) == [403, "access_denied"]
        self.sign_in(page, "a-password")
        expect(page.get_by_role("status")).to_have_text("The account has 0 assets.")
        assert self.exchange(page) == [200, None]
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert self.exchange(page) == [403, "access_denied"]

    def exchange(self, page: Page) -> object:
        """Call the route as any script on the page could."""
        return page.evaluate("""async () => {
            const response = await fetch("/auth/exchange/", { method: "POST" });
            return [response.status, (await response.json()).error ?? null];
        }""")

    def test_a_wrong_password(self, context: BrowserContext, address: str) -> None:
        """Is said on the page."""
        page = context.new_page()
        page.goto(address)
        self.sign_in(page, "another")
        expect(page.get_by_role("alert")).to_contain_text("do not belong together")

    def test_signing_out_signs_out_of_all_tabs(self, context: BrowserContext, address: str) -> None:
        """None goes on with a token that its user has given back."""
        page, other = context.new_page(), context.new_page()
        page.goto(address)
        self.sign_in(page, "a-password")
        expect(page.get_by_role("status")).to_contain_text("0 assets")
        other.goto(address)
        expect(other.get_by_role("status")).to_contain_text("0 assets")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        expect(other.get_by_role("heading", name="Sign in")).to_be_visible()

    def test_signing_out_without_a_token(self, context: BrowserContext, address: str) -> None:
        """The user is signed out on the page, too, where there was no token to be had."""
        page = context.new_page()
        page.route(
            "**/auth/exchange/",
            lambda route: route.fulfill(status=500, json={"error": "server_error"}),
        )
        page.goto(address)
        self.sign_in(page, "a-password")
        expect(page.get_by_role("status")).to_have_text("server_error")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

    def test_its_password_is_a_new_one_each_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Whoever copies the example copies no password."""
        existing_app.create_app()
        existing_app.create_app()
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith("Sign in as ada with the password ")
        assert first != second


class TestSpa:
    """`examples/spa`: a static page on one port, the proxy on another."""

    @contextmanager
    def spa_and_proxy(self, *, listed: bool) -> Iterator[tuple[str, Sandbox]]:
        """Serve both and return the page's address. Only the proxy's address in it is changed."""
        site = Flask("spa", static_folder=EXAMPLES / "spa", static_url_path="")
        with serve(site) as page_url:
            proxy = create_app(
                {
                    "BAKRYPT_NETWORK": "sandbox",
                    "BAKRYPT_ALLOWED_ORIGINS": page_url if listed else "http://other.test",
                }
            )
            with proxy.extensions["bakrypt_sandbox"] as sandbox, serve(proxy) as proxy_url:
                html = (EXAMPLES / "spa" / "index.html").read_text("utf-8")
                assert "http://127.0.0.1:5000/auth" in html
                moved = html.replace("http://127.0.0.1:5000", proxy_url)
                site.add_url_rule("/", view_func=lambda: Response(moved, mimetype="text/html"))
                yield page_url, sandbox

    def sign_in(self, page: Page) -> None:
        """Fill the form in."""
        page.get_by_label("Name").fill("alice")
        page.get_by_label("Password").fill("alice-password")
        page.get_by_role("button", name="Sign in").click()

    def test_listed(self, context: BrowserContext) -> None:
        """It signs in, and its token is renewed, all across origins."""
        with self.spa_and_proxy(listed=True) as (url, sandbox):
            sandbox.expires_in = 2
            page = context.new_page()
            page.goto(url)
            self.sign_in(page)
            expect(page.get_by_role("status")).to_have_text(
                re.compile(r"^Token [3-9]: it lives 2 s\.$")
            )
            page.close()

    def test_errors_are_readable_across_origins(self, context: BrowserContext) -> None:
        """The description, and not a network error."""
        with self.spa_and_proxy(listed=True) as (url, sandbox):
            sandbox.fail = 503
            page = context.new_page()
            page.goto(url)
            self.sign_in(page)
            expect(page.get_by_role("status")).to_have_text("bakrypt failed (status 503)")
            page.close()

    def test_not_listed(self, browser: Browser) -> None:
        """The page says which origin to list where."""
        with self.spa_and_proxy(listed=False) as (url, _), browser.new_context() as context:
            page = context.new_page()
            page.goto(url)
            expect(page.get_by_role("status")).to_contain_text(
                f"does its BAKRYPT_ALLOWED_ORIGINS list {url}?"
            )
            expect(page.get_by_role("button", name="Sign in")).to_be_hidden()
            page.close()

    def test_not_listed_with_a_module_of_its_own(self, context: BrowserContext) -> None:
        """So does the session's error, where the module comes with the page."""

        def bring_the_module(route: Route) -> None:
            route.fulfill(
                response=route.fetch(), headers={"Access-Control-Allow-Origin": "*"} | TYPE
            )

        with self.spa_and_proxy(listed=False) as (url, sandbox):
            page = context.new_page()
            page.route("**/auth/bakrypt.js", bring_the_module)
            page.goto(url)
            self.sign_in(page)
            expect(page.get_by_role("status")).to_contain_text(
                f"does its BAKRYPT_ALLOWED_ORIGINS list {url}?"
            )
            assert sandbox.calls == {}
            page.close()


TYPE = {"Content-Type": "text/javascript"}


class TestLaunchpad:
    """`examples/launchpad`: the real bundle, its two addresses led to the sandbox."""

    pytestmark = needs_npm

    @pytest.fixture
    def app(self, packages: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Flask:
        """The app, with the tests' own sandbox as its account."""
        for name, value in (sandbox.environ | {"BAKRYPT_EXCHANGE_PUBLIC": "true"}).items():
            monkeypatch.setenv(name, value)
        return launchpad.create_app(packages / "node_modules" / "bakrypt-launchpad" / "dist")

    @pytest.fixture
    def page(self, context: BrowserContext, app: Flask, sandbox: Sandbox) -> Iterator[Page]:
        """The page as on a real network; calls to bakrypt's two hosts go to the sandbox."""
        page = context.new_page()
        page.route("**/static/sandbox.js", lambda route: route.fulfill(body="", headers=TYPE))
        page.route(
            re.compile(r"^https://(testnet\.)?bakrypt\.io/"),
            lambda route: route.fulfill(
                response=route.fetch(url=re.sub(r"^https://[^/]+", sandbox.url, route.request.url))
            ),
        )
        with serve(app) as url:
            page.goto(url)
            yield page
            page.close()

    def upload(self, page: Page, tmp_path: Path) -> None:
        """Send a cover image by the component's own form."""
        (tmp_path / "gold.png").write_bytes(b"x")
        button = page.locator("bk-asset-form sl-button", has_text="Upload file to IPFS").first
        if not button.is_visible():
            page.locator("bk-asset-form sl-details[summary='Upload file to IPFS']").locator(
                "summary, header"
            ).click()
        page.locator("#ipfs-fileinput").set_input_files(tmp_path / "gold.png")
        button.click()

    def expect_an_upload(self, page: Page) -> None:
        """The component has the file's address."""
        expect(page.locator("#cover-image-input input")).to_have_value(re.compile("^ipfs://Qm"))

    def submit(self, page: Page) -> None:
        """Name the asset and send it."""
        page.locator("input[placeholder='Set the name of the token']").fill("Gold")
        page.get_by_role("button", name="Submit request").click()

    def test_upload_submit_and_invoice(self, page: Page, sandbox: Sandbox, tmp_path: Path) -> None:
        """All three of its calls are taken, and the invoice says what to pay."""
        self.upload(page, tmp_path)
        self.expect_an_upload(page)
        self.submit(page)
        expect(page.get_by_role("dialog", name="Invoice Details")).to_be_visible()
        invoice = page.locator("bakrypt-invoice")
        expect(invoice.get_by_role("textbox", name="Deposit Address")).to_have_value(
            re.compile("^addr_test1_sandbox")
        )
        expect(invoice.get_by_role("textbox", name="Expires on")).to_have_value(re.compile(" GMT$"))
        assert {path.split("/")[2] for path in sandbox.calls if path.startswith("/v1/")} == {
            "files",
            "assets",
            "transactions",
        }

    def test_its_token_is_kept_fresh(self, page: Page, sandbox: Sandbox, tmp_path: Path) -> None:
        """Of 5 seconds: long after the first has died it uploads with one that lives."""
        sandbox.expires_in = 5
        page.reload()
        token = "document.querySelector('bakrypt-launchpad').getAttribute('access-token')"
        page.wait_for_function(f"{token} !== null")
        tokens = [page.evaluate(token)]
        for _ in range(2):
            page.wait_for_function(f"{token} !== '{tokens[-1]}'")
            tokens.append(page.evaluate(token))
        page.wait_for_function(f"{token} !== '{tokens[-1]}'")
        assert [sandbox.store.owner(dead) for dead in tokens[:2]] == [None, None]
        self.upload(page, tmp_path)
        self.expect_an_upload(page)

    def test_without_an_account(
        self, context: BrowserContext, packages: Path, tmp_path: Path
    ) -> None:
        """It brings a sandbox, and the page leads the component there by itself."""
        app = launchpad.create_app(packages / "node_modules" / "bakrypt-launchpad" / "dist")
        with serve(app) as url:
            page = context.new_page()
            page.goto(url)
            self.upload(page, tmp_path)
            self.expect_an_upload(page)
            page.close()
