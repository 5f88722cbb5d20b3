"""`bakrypt.js` in a real Chromium: tokens renewed ahead, once for all callers and tabs, and never lost."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import browser, needs_chromium
from conftest import create_app, serve
from flask import Flask
from flask.testing import FlaskClient
from packages import needs_npm, npm, packages
from playwright.sync_api import Browser, BrowserContext, Page

from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser", "packages"]  # a fixture is used by its name
MODULE = Path(__file__).parent.parent / "bakrypt_proxy" / "browser" / "bakrypt.js"
PAGE = """<!doctype html><title>test</title><script type="module">
import { BakryptSession, BakryptError } from "/auth/bakrypt.js";
window.session = new BakryptSession({ base: "/auth" });
window.events = [];
for (const name of ["renewed", "lost"]) session.addEventListener(name, (e) => events.push([name, e.detail]));
const plain = (e) => ({ status: e.status, error: e.error, isOurs: e instanceof BakryptError });
window.attempt = (work) => work().catch(plain);
</script>"""


@pytest.fixture
def app(sandbox: Sandbox) -> Flask:
    """A host app with a page that loads the module."""
    app = create_app(sandbox.environ)
    app.add_url_rule("/", view_func=lambda: PAGE)
    return app


@pytest.fixture
def context(browser: Browser, app: Flask) -> Iterator[BrowserContext]:
    """A browser on the app's address; its pages are tabs that share what tabs share."""
    with serve(app) as url, browser.new_context(base_url=url) as context:
        yield context
        for page in context.pages:
            page.close()


def open_tab(context: BrowserContext) -> Page:
    """A page with the module loaded."""
    page = context.new_page()
    page.goto("/")
    page.wait_for_function("window.attempt !== undefined")
    return page


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """One tab."""
    return open_tab(context)


SIGN_IN = "() => attempt(() => session.signIn('alice', 'alice-password'))"
EXCHANGE = "() => attempt(() => session.exchange())"
TOKEN = "() => attempt(() => session.accessToken())"


class TestServing:
    """How it comes to the page."""

    def test_type_and_etag(self, client: FlaskClient) -> None:
        """A browser keeps it, and asks whether it has changed."""
        reply = client.get("/auth/bakrypt.js")
        assert reply.content_type == "text/javascript; charset=utf-8"
        assert reply.headers["Cache-Control"] == "no-cache"
        assert client.get("/auth/bakrypt.js", headers={"If-None-Match": reply.headers["ETag"]}).status_code == 304
        assert client.post("/auth/bakrypt.js").status_code == 405


class TestReading:
    """What tools make of it."""

    pytestmark = needs_npm

    def test_types(self, packages: Path, tmp_path: Path) -> None:
        """TypeScript reads its JSDoc and its declarations."""
        strict = [
            "--noEmit",
            "--strict",
            "--target",
            "es2022",
            "--lib",
            "es2022,dom,dom.iterable",
            "--typeRoots",
            "none",
        ]
        npm(packages, "exec", "--", "tsc", "--allowJs", "--checkJs", *strict, str(MODULE))
        user = tmp_path / "user.ts"
        shutil.copy(MODULE.with_suffix(".d.ts"), tmp_path / "bakrypt.d.ts")
        user.write_text(
            'import { BakryptSession, BakryptError } from "./bakrypt.js";\n'
            'const session = new BakryptSession({ base: "/auth" });\n'
            'session.addEventListener("renewed", (event) => event.detail.expiresIn.toFixed());\n'
            "const token: string = await session.accessToken();\n"
            "export const error: BakryptError | string = token;\n"
        )
        npm(packages, "exec", "--", "tsc", *strict, "--module", "esnext", "--moduleResolution", "bundler", str(user))

    def test_size(self, packages: Path) -> None:
        """Minified it has less than 4 kB."""
        assert len(npm(packages, "exec", "--", "esbuild", "--minify", "--format=esm", str(MODULE)).encode()) < 4000


class TestInTheBrowser:
    """What it does there."""

    pytestmark = needs_chromium

    def test_exchange(self, page: Page, sandbox: Sandbox) -> None:
        """The token is the account's, and stands in no storage."""
        assert page.evaluate(EXCHANGE) is None
        assert sandbox.store.owner(page.evaluate(TOKEN)) == "account"
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        ((name, detail),) = page.evaluate("events")
        assert name == "renewed"
        assert 35990 < detail["expiresIn"] <= 36000

    def test_sign_in(self, page: Page, sandbox: Sandbox) -> None:
        """A user's own."""
        page.evaluate(SIGN_IN)
        assert sandbox.store.owner(page.evaluate(TOKEN)) == "alice"

    def test_a_wrong_password(self, page: Page) -> None:
        """An error with status and code."""
        error = page.evaluate("() => attempt(() => session.signIn('alice', 'wrong'))")
        assert error == {"status": 400, "error": "invalid_grant", "isOurs": True}

    def test_nobody_is_signed_in(self, page: Page) -> None:
        """Said as an error, and nothing is asked of the server."""
        assert page.evaluate(TOKEN) == {"status": 401, "error": "login_required", "isOurs": True}

    def test_many_callers_make_one_renewal(self, page: Page, sandbox: Sandbox) -> None:
        """Each gets the new token."""
        sandbox.expires_in = 1
        page.evaluate(SIGN_IN)
        page.wait_for_timeout(990)
        sandbox.expires_in = 60
        tokens = page.evaluate("() => Promise.all(Array.from({ length: 50 }, () => session.accessToken()))")
        assert len(set(tokens)) == 1
        assert sandbox.store.owner(tokens[0]) == "alice"
        assert sandbox.calls["/auth/token/"] <= 3

    def test_renewed_ahead_by_itself(self, page: Page, sandbox: Sandbox) -> None:
        """At nine tenths of its life, with nobody asking; a refresh each time, and the token always lives."""
        sandbox.expires_in = 1
        page.evaluate(SIGN_IN)
        page.wait_for_function("() => events.filter(([name]) => name === 'renewed').length >= 4")
        assert sandbox.store.owner(page.evaluate(TOKEN)) == "alice"
        assert page.evaluate("events.filter(([name]) => name === 'lost').length") == 0

    def test_a_token_in_its_last_second_is_renewed_too(self, page: Page, sandbox: Sandbox) -> None:
        """The server shares it with `expires_in` 0, which is no reason to leave it."""
        sandbox.expires_in = 1
        page.evaluate(EXCHANGE)
        assert page.evaluate("events[0][1].expiresIn") <= 1
        page.wait_for_function("() => events.filter(([name]) => name === 'renewed').length >= 4")

    def test_a_network_failure_ends_no_session(self, page: Page, sandbox: Sandbox) -> None:
        """The proxy answers 500 for a while; then it goes on."""
        sandbox.expires_in = 1
        page.evaluate(SIGN_IN)
        sandbox.fail = 503
        page.wait_for_timeout(1500)
        assert page.evaluate(TOKEN)["status"] in {0, 500}
        sandbox.fail = None
        sandbox.expires_in = 60
        end = time.monotonic() + 10
        while isinstance(token := page.evaluate(TOKEN), dict) and time.monotonic() < end:
            page.wait_for_timeout(100)
        assert sandbox.store.owner(token) == "alice"

    def test_a_dead_refresh_token_ends_it(self, page: Page, sandbox: Sandbox) -> None:
        """There is no way on: the page is told, and asks its user to sign in."""
        sandbox.expires_in = 1
        page.evaluate(SIGN_IN)
        sandbox.store.revoke(page.evaluate(TOKEN))
        page.wait_for_function("() => events.some(([name]) => name === 'lost')")
        assert page.evaluate(TOKEN)["error"] == "login_required"

    def test_fetch(self, page: Page, sandbox: Sandbox) -> None:
        """With the token, and again with a new one after a 401; the body is sent both times."""
        page.evaluate(EXCHANGE)
        sandbox.store.revoke(page.evaluate(TOKEN))
        upload = f"""async () => {{
            const body = new FormData();
            body.append("file", new Blob(["hello"]), "a.txt");
            const response = await session.fetch("{sandbox.url}/v1/files/", {{ method: "POST", body }});
            return [response.status, (await response.json()).size];
        }}"""
        assert page.evaluate(upload) == [201, 5]
        assert sandbox.calls["/v1/files/"] >= 2
        assert sandbox.calls["/auth/exchange/"] == 2

    def test_fetch_gives_up_after_one_more(self, page: Page, sandbox: Sandbox) -> None:
        """A second 401 is the answer."""
        page.evaluate(EXCHANGE)
        page.route(
            f"{sandbox.url}/**", lambda route: route.fulfill(status=401, headers={"Access-Control-Allow-Origin": "*"})
        )
        status = page.evaluate(f"async () => (await session.fetch('{sandbox.url}/v1/assets/')).status")
        assert status == 401
        assert sandbox.calls["/auth/exchange/"] == 2

    def test_sign_out(self, page: Page) -> None:
        """Forgotten."""
        page.evaluate(SIGN_IN)
        page.evaluate("session.signOut()")
        assert page.evaluate(TOKEN)["error"] == "login_required"
        assert page.evaluate("events.at(-1)") == ["lost", "signed out"]

    def test_a_sign_out_while_a_renewal_is_under_way(self, page: Page, sandbox: Sandbox) -> None:
        """Stands: the reply that comes afterwards brings nobody back."""
        sandbox.expires_in = 1
        page.evaluate(SIGN_IN)
        sandbox.delay = 0.5
        end = time.monotonic() + 5
        while sandbox.calls["/auth/token/"] < 2 and time.monotonic() < end:
            page.wait_for_timeout(20)
        page.evaluate("session.signOut()")
        page.wait_for_timeout(1000)
        assert page.evaluate("events.at(-1)") == ["lost", "signed out"]
        assert page.evaluate(TOKEN)["error"] == "login_required"


class TestTabs:
    """Several tabs of one page."""

    pytestmark = needs_chromium

    def test_a_new_tab_finds_the_session(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """Without asking the server."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        assert second.evaluate(TOKEN) == first.evaluate(TOKEN)
        assert sandbox.calls["/auth/token/"] == 1

    def test_one_renewal_for_all_tabs(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """A refresh kills the old token, so two at once would lose the session."""
        tabs = [open_tab(context) for _ in range(4)]
        sandbox.expires_in = 2
        tabs[0].evaluate(SIGN_IN)
        assert len({tab.evaluate(TOKEN) for tab in tabs}) == 1
        end = time.monotonic() + 6
        while time.monotonic() < end:
            tokens = [tab.evaluate(TOKEN) for tab in tabs]
            assert all(isinstance(token, str) for token in tokens)
        # Three lives, each renewed at nine tenths: one refresh each, whichever tab makes it.
        assert sandbox.calls["/auth/token/"] <= 1 + 4
        assert {tab.evaluate("events.filter(([name]) => name === 'lost').length") for tab in tabs} == {0}

    def test_tabs_exchange_once(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """The account's token is asked for by the first alone."""
        tabs = [open_tab(context) for _ in range(3)]
        for tab in tabs:
            tab.evaluate(EXCHANGE)
        assert len({tab.evaluate(TOKEN) for tab in tabs}) == 1
        assert sandbox.calls["/auth/exchange/"] == 1

    def test_two_users_in_two_tabs(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """Each keeps its own, and one's sign-out is not the other's."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        second.evaluate("() => session.signIn('bob', 'bob-password')")
        owners = [sandbox.store.owner(tab.evaluate(TOKEN)) for tab in (first, second)]
        assert owners == ["alice", "bob"]
        first.evaluate("session.signOut()")
        assert sandbox.store.owner(second.evaluate(TOKEN)) == "bob"

    def test_another_user_is_no_renewal(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """A tab that shared a session keeps it when the other signs in as somebody else."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        second.evaluate(TOKEN)
        second.evaluate("() => session.signIn('bob', 'bob-password')")
        owners = [sandbox.store.owner(tab.evaluate(TOKEN)) for tab in (first, second)]
        assert owners == ["alice", "bob"]

    def test_sign_out_of_all_tabs(self, context: BrowserContext) -> None:
        """That hold the same token."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        second.evaluate(TOKEN)
        first.evaluate("session.signOut()")
        second.wait_for_function("() => events.some(([name]) => name === 'lost')")
        assert second.evaluate(TOKEN)["error"] == "login_required"


def test_it_has_no_dependencies_and_no_storage() -> None:
    """Nothing is imported, and nothing is written where it would outlive the page."""
    code = MODULE.read_text("utf-8")
    assert not re.search(r"^import ", code, re.MULTILINE)
    assert not re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie", code)
