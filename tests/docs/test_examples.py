"""The examples in Chromium: an app with users, a page of another origin, bakrypt's component."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import existing_app
import launchpad
import pytest
from browsing import browser, needs_chromium
from conftest import serve
from flask import Flask, Response
from packages import needs_npm, packages
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Route,
    expect,
)
from processes import ROOT, granian, gunicorn

from app import create_app
from bakrypt_proxy.sandbox import CREDENTIALS, Sandbox

__all__ = ["browser", "packages"]  # a fixture is used by its name
EXAMPLES = ROOT / "examples"
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

    def test_a_form_without_its_csrf_token(self, context: BrowserContext, address: str) -> None:
        """Does nothing: the user stays signed in, and is told."""
        page = context.new_page()
        page.goto(address)
        self.sign_in(page, "a-password")
        expect(page.get_by_role("status")).to_contain_text("0 assets")
        page.locator("input[name=csrf_token]").evaluate("(input) => input.remove()")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("status")).to_contain_text("not signed out")
        assert self.exchange(page) == [200, None]

    @pytest.mark.timeout(180)  # a run of pytest takes long on a busy machine
    def test_its_own_tests(self) -> None:
        """They pass, as the README of the examples runs them."""
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "existing_app"],
            cwd=EXAMPLES,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout
        assert "6 passed" in result.stdout

    def test_its_password_is_a_new_one_each_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A copy of the example contains no password."""
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
DEPOSIT = "addr_test1_sandbox_send_nothing_here"
STORAGE = """async () => [
    { ...localStorage },
    { ...sessionStorage },
    document.cookie,
    await indexedDB.databases(),
    await caches.keys(),
]"""
WHOLE_DOCUMENT = """() => {
    const texts = [];
    const visit = (root) => {
        texts.push(root.innerHTML);
        for (const element of root.querySelectorAll("*")) {
            if ("value" in element) texts.push(element.value);
            if (element.shadowRoot) visit(element.shadowRoot);
        }
    };
    visit(document.documentElement);
    return texts.join("\\n");
}"""


class TestLaunchpad:
    """`examples/launchpad`: the real bundle, on a page that holds no token."""

    pytestmark = needs_npm

    @pytest.fixture
    def bundle(self, packages: Path) -> Path:
        """Where npm has installed the component."""
        return packages / "node_modules" / "bakrypt-launchpad" / "dist"

    @pytest.fixture
    def app(self, bundle: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Flask:
        """The app, with the tests' own sandbox as its account."""
        for name, value in (sandbox.environ | {"BAKRYPT_API_PUBLIC": "true"}).items():
            monkeypatch.setenv(name, value)
        return launchpad.create_app(bundle)

    @pytest.fixture
    def policed(self, browser: Browser) -> Iterator[BrowserContext]:
        """A browser. An error in the page, a breach of its policy, or a call to bakrypt fails."""
        faults: list[str] = []

        def note_error(line: ConsoleMessage) -> None:
            if line.type == "error":
                faults.append(line.text)

        def note_call(sent: Request) -> None:
            if to_bakrypt(sent.url):
                faults.append(sent.url)

        with browser.new_context() as context:
            context.set_default_timeout(30_000)
            context.add_init_script("""
                addEventListener("securitypolicyviolation", (event) =>
                    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
            """)
            context.on("weberror", lambda error: faults.append(str(error.error)))
            context.on("console", note_error)
            context.on("request", note_call)
            # Where the component looks for the image that was uploaded.
            context.route(
                "https://gateway.bakrypt.io/**",
                lambda route: route.fulfill(
                    status=200, headers={"Access-Control-Allow-Origin": "*"}, body="x"
                ),
            )
            yield context
            for page in context.pages:
                page.close()
        assert faults == []

    @pytest.fixture(params=["werkzeug", "gunicorn", "granian"])
    def url(self, app: Flask, bundle: Path, request: pytest.FixtureRequest) -> Iterator[str]:
        """The app on each server, two workers where there are any."""
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(EXAMPLES / "launchpad")])
        environ = {"BUNDLE": str(bundle), "PYTHONPATH": paths}
        servers = {
            "werkzeug": lambda: serve(app),
            "gunicorn": lambda: gunicorn(
                environ, "--workers", "2", app="launchpad_app:create_app()"
            ),
            "granian": lambda: granian(environ, "--workers", "2", app="launchpad_app:create_app"),
        }
        with servers[request.param]() as url:
            yield url

    @contextmanager
    def opened(self, context: BrowserContext, app: Flask) -> Iterator[Page]:
        """Serve the app and open its page."""
        with serve(app) as url:
            page = context.new_page()
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

    def expect_an_invoice(self, page: Page) -> None:
        """It says what to pay, and until when."""
        invoice = page.locator("bakrypt-invoice:visible")
        expect(invoice.get_by_role("textbox", name="Deposit Address")).to_have_value(DEPOSIT)
        expect(invoice.get_by_role("textbox", name="Expires on")).to_have_value(re.compile(" GMT$"))

    @pytest.mark.timeout(300)  # it polls by its own clock, each 10 s
    def test_no_secret_reaches_the_page(
        self,
        policed: BrowserContext,
        url: str,
        sandbox: Sandbox,
        issued: list[str],
        tmp_path: Path,
    ) -> None:
        """Upload, submit, invoice, and three polls past the end of two tokens."""
        sandbox.expires_in = 5
        network, page = Network(policed), policed.new_page()
        page.goto(url)
        self.upload(page, tmp_path)
        self.expect_an_upload(page)
        self.submit(page)
        expect(page.get_by_role("dialog", name="Invoice Details")).to_be_visible()
        self.expect_an_invoice(page)
        for _ in range(3):
            page.wait_for_event("response", lambda reply: "/v1/transactions/" in reply.url)
        assert len(issued) >= 2 * 3  # an access and a refresh token each
        places = {
            "heap": heap_snapshot(page),
            "document": page.evaluate(WHOLE_DOCUMENT),
            "network": network.text(),
        }
        assert page.evaluate(STORAGE) == [{}, {}, "", [], []]
        secrets = [*issued, *CREDENTIALS.values()]
        for place, text in places.items():
            assert [secret for secret in secrets if is_in(secret, text)] == [], place
        for place in ("heap", "document", "network"):
            assert is_in(DEPOSIT, places[place]), place

    def test_the_invoice_is_there_after_a_reload(
        self, policed: BrowserContext, app: Flask, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """It polls again; another browser has none."""
        with self.opened(policed, app) as page:
            expect(page.get_by_text("What you made with this browser")).to_be_hidden()
            self.submit(page)
            self.expect_an_invoice(page)
            page.reload()
            expect(page.get_by_text("What you made with this browser")).to_be_visible()
            self.expect_an_invoice(page)
            (path,) = {path for path in sandbox.calls if path.startswith("/v1/transactions/")}
            calls = sandbox.calls[path]
            page.wait_for_event("response", lambda reply: "/v1/transactions/" in reply.url)
            assert sandbox.calls[path] > calls
            with page.context.browser.new_context() as other:  # type: ignore[union-attr]
                stranger = other.new_page()
                stranger.goto(page.url)
                stranger.wait_for_load_state("networkidle")
                expect(stranger.get_by_text("What you made with this browser")).to_be_hidden()
                stranger.close()

    @pytest.mark.parametrize("network", ["mainnet", "testnet"])
    def test_a_real_network(
        self,
        browser: Browser,
        bundle: Path,
        network: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """By setting; it is closed, and the component shows how to open it."""
        monkeypatch.setenv("BAKRYPT_TOKEN", "planted")
        monkeypatch.setenv("BAKRYPT_NETWORK", network)
        sent: list[str] = []
        with browser.new_context() as context:
            context.on("request", lambda request: sent.append(request.url))
            with self.opened(context, launchpad.create_app(bundle)) as page:
                self.upload(page, tmp_path)
                alert = page.locator("sl-alert[open]", has_text="set BAKRYPT_API_PUBLIC=true")
                expect(alert).to_be_visible()
                assert f"{page.url}bakrypt/v1/files/" in sent
        assert not [url for url in sent if to_bakrypt(url)]

    def test_without_an_account(
        self, policed: BrowserContext, bundle: Path, tmp_path: Path
    ) -> None:
        """It brings a sandbox, which everybody may use."""
        with self.opened(policed, launchpad.create_app(bundle)) as page:
            self.upload(page, tmp_path)
            self.expect_an_upload(page)


@pytest.fixture
def issued(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All access and refresh tokens that the sandbox issues."""
    found: list[str] = []
    save = sandbox.store.save_bearer_token

    def remember(token: Any, *arguments: Any, **more: Any) -> None:
        found.extend([token["access_token"], token["refresh_token"]])
        save(token, *arguments, **more)

    monkeypatch.setattr(sandbox.store, "save_bearer_token", remember)
    return found


def to_bakrypt(url: str) -> bool:
    """Whether an address is that of bakrypt's API."""
    return url.startswith(("https://bakrypt.io/", "https://testnet.bakrypt.io/"))


def is_in(secret: str, text: str) -> bool:
    """Whether a text has any 12 letters of a secret: a heap keeps joined strings in their parts."""
    return any(secret[start : start + 12] in text for start in range(len(secret) - 11))


def heap_snapshot(page: Page) -> str:
    """Everything in the page's memory."""
    session = page.context.new_cdp_session(page)
    parts: list[str] = []
    session.on("HeapProfiler.addHeapSnapshotChunk", lambda event: parts.append(event["chunk"]))
    session.send("HeapProfiler.takeHeapSnapshot", {"reportProgress": False})
    return "".join(parts)


class Network:
    """What a browser's pages send and receive, headers and bodies."""

    def __init__(self, context: BrowserContext) -> None:
        self._replies: list[Any] = []
        # Playwright takes no bound method of a list.
        context.on("response", lambda reply: self._replies.append(reply))  # noqa: PLW0108

    def text(self) -> str:
        """All of it."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for reply in self._replies:
            sent = reply.request
            yield f"{sent.method} {sent.url} {sent.all_headers()} {sent.post_data_buffer!r}"
            yield f"{reply.status} {reply.headers_array()} {reply.text()}"
