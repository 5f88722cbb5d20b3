"""`bakrypt.js` where something is missing, and at other addresses than usual."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from browsing import CHROMIUM, browser, needs_chromium
from hosts import EXCHANGE, SIGN_IN, TOKEN, Host, context, host, open_tab, owner, page
from playwright.sync_api import Browser, BrowserContext, Page

from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser", "context", "host", "page"]  # a fixture is used by its name
MODULE = Path(__file__).parents[2] / "bakrypt_proxy" / "browser" / "bakrypt.js"
NODE = shutil.which("node")
ARGUMENTS = [] if os.geteuid() else ["--no-sandbox"]
REJECT = "async () => session.accessToken({ rejected: await session.accessToken() })"
THROWS = """
    const refuse = () => { throw new DOMException("denied", "SecurityError"); };
    for (const name of ["BroadcastChannel", "localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, { get: refuse, set: refuse });
    }
    Object.defineProperty(Navigator.prototype, "locks", { get: refuse });
"""
ABSENT = """
    delete window.BroadcastChannel;
    delete Navigator.prototype.locks;
"""
REJECTS = """
    const refuse = async () => { throw new DOMException("denied", "SecurityError"); };
    LockManager.prototype.request = refuse;
"""


class TestInTheBrowser:
    """Cookies are blocked, or the page is not a secure one."""

    pytestmark = needs_chromium

    @pytest.mark.parametrize("before", [THROWS, ABSENT, REJECTS])
    def test_alone(
        self, context: BrowserContext, host: Host, sandbox: Sandbox, before: str
    ) -> None:
        """It works in this tab."""
        page = open_tab(context, before)
        page.evaluate(SIGN_IN)
        assert owner(sandbox, page) == "alice"
        renewed = page.evaluate(REJECT)
        assert sandbox.store.owner(renewed) == "alice"
        page.evaluate(EXCHANGE)
        assert owner(sandbox, page) == "account"
        page.evaluate("session.signOut()")
        assert owner(sandbox, page) == "login_required"

    def test_blocked_cookies(
        self, browser: Browser, host: Host, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """As the browser's own setting blocks them."""
        preferences = {"profile": {"default_content_setting_values": {"cookies": 2}}}
        (tmp_path / "Default").mkdir()
        (tmp_path / "Default" / "Preferences").write_text(json.dumps(preferences))
        launch = browser.browser_type.launch_persistent_context
        with (
            host.serve() as url,
            launch(tmp_path, executable_path=CHROMIUM, args=ARGUMENTS, base_url=url) as context,
        ):
            page = open_tab(context)
            assert (
                page.evaluate("() => { try { return localStorage.length } catch { return -1 } }")
                == -1
            )
            page.evaluate(EXCHANGE)
            assert owner(sandbox, page) == "account"
            assert page.evaluate(REJECT) != ""

    @pytest.mark.parametrize("grant", [SIGN_IN, EXCHANGE])
    def test_tabs_without_locks(
        self, context: BrowserContext, host: Host, sandbox: Sandbox, grant: str
    ) -> None:
        """As on a page that is not secure: all renew at once, and take the token of one."""
        sandbox.expires_in = 3
        tabs = [open_tab(context, "delete Navigator.prototype.locks") for _ in range(3)]
        tabs[0].evaluate(grant)
        for tab in tabs:
            tab.evaluate(TOKEN)
        for tab in tabs:
            tab.wait_for_function("() => count('renewed') >= 3")
        sandbox.expires_in = 600
        for tab in tabs:
            tab.wait_for_function("() => events.at(-1)[1].expiresIn > 500")
        assert {tab.evaluate("count('lost')") for tab in tabs} == {0}
        assert {owner(sandbox, tab) for tab in tabs} <= {"alice", "account"}

    @pytest.mark.parametrize(
        ("page_url", "base", "posts"),
        [
            ("/", "/auth", "/auth/exchange/"),
            ("/", "/auth/", "/auth/exchange/"),
            ("/", "/auth//", "/auth/exchange/"),
            ("/?x=1#y", "/auth", "/auth/exchange/"),
            ("/?x=1", "/", "/exchange/"),
            ("/?x=1#y", "auth", "/auth/exchange/"),
            ("/", "", "/exchange/"),
        ],
    )
    def test_base(
        self, context: BrowserContext, host: Host, page_url: str, base: str, posts: str
    ) -> None:
        """The routes are below it, whatever the page's own address is."""
        page = open_tab(context)
        page.goto(page_url)
        page.wait_for_function("window.attempt !== undefined")
        page.evaluate("(base) => attempt(() => create({ base }).exchange())", base)
        assert list(host.posts) == [posts]

    @pytest.mark.parametrize("base", ["/auth?x=1", "/auth?", "/auth#x", "/auth#", "?", "/?/"])
    def test_a_base_that_cannot_be(self, page: Page, base: str) -> None:
        """It says why at once, and quotes the address."""
        error = page.evaluate(
            """(base) => {
                try { create({ base }) } catch ({ name, message }) { return [name, message] }
            }""",
            base,
        )
        assert error[0] == "TypeError"
        assert error[1].startswith("base has a query: http://127.0.0.1:")

    def test_another_origin(self, context: BrowserContext, host: Host, sandbox: Sandbox) -> None:
        """A page that the server does not list learns what is missing."""
        page = open_tab(context)
        other = page.evaluate("location.origin").replace("127.0.0.1", "localhost")
        page.evaluate("(base) => { window.session = create({ base }) }", f"{other}/auth")
        error = page.evaluate(EXCHANGE)
        origin = page.evaluate("location.origin")
        wanted = f"no reply: is it up, and does its BAKRYPT_ALLOWED_ORIGINS list {origin}?"
        assert (error["error"], error["message"]) == ("network_error", wanted)

    @pytest.mark.parametrize("is_kept", [True, False])
    def test_the_back_forward_cache(
        self, browser: Browser, host: Host, sandbox: Sandbox, is_kept: bool
    ) -> None:
        """A page that comes back goes on; it is loaded again if another tab spoke meanwhile."""
        with (
            host.serve() as url,
            browser.browser_type.launch(
                executable_path=CHROMIUM,
                args=ARGUMENTS,
                ignore_default_args=["--disable-back-forward-cache"],  # as Playwright has it
            ) as caching,
            caching.new_context(base_url=url) as context,
        ):
            first, second = open_tab(context), open_tab(context)
            first.evaluate(SIGN_IN)
            second.evaluate(TOKEN)
            first.evaluate("() => { window.isKept = true }")
            first.goto(url.replace("127.0.0.1", "localhost"))
            if not is_kept:
                second.evaluate(REJECT)
            first.go_back(wait_until="commit")
            first.wait_for_function("window.attempt !== undefined")
            assert first.evaluate("window.isKept === true") is is_kept
            renewed = first.evaluate(REJECT)
            second.wait_for_function(
                "async (t) => (await session.accessToken()) === t", arg=renewed
            )
            assert owner(sandbox, first) == "alice"
            assert [tab.evaluate("count('lost')") for tab in (first, second)] == [0, 0]


class TestClose:
    """`close()`."""

    pytestmark = needs_chromium

    def test_it_ends_everything(
        self, context: BrowserContext, host: Host, sandbox: Sandbox
    ) -> None:
        """No timer, no event, no call; other sessions keep their token."""
        page, other = open_tab(context), open_tab(context)
        sandbox.expires_in = 2
        page.evaluate(SIGN_IN)
        other.evaluate(TOKEN)
        page.evaluate("session.close()")
        other.wait_for_function("() => count('renewed') === 3")
        assert page.evaluate("session.events.length") == 1
        for call in (TOKEN, EXCHANGE, SIGN_IN, "() => attempt(() => session.fetch('/'))"):
            assert page.evaluate(call)["error"] == "aborted"
        page.evaluate("session.signOut()")
        assert owner(sandbox, other) == "alice"
        assert set(host.posts) == {"/auth/token/"}
        assert page.evaluate("session.events.length") == 1

    def test_a_renewal_under_way_reaches_the_others(
        self, context: BrowserContext, sandbox: Sandbox
    ) -> None:
        """The server has ended the old pair, so the others must hear of the new one."""
        page, other = open_tab(context), open_tab(context)
        page.evaluate(SIGN_IN)
        other.evaluate(TOKEN)
        sandbox.delay = 0.5
        page.evaluate(f"() => {{ window.renewal = ({REJECT})() }}")
        page.wait_for_timeout(300)
        page.evaluate("session.close()")
        assert page.evaluate("session.events.length") == 1
        other.wait_for_function("() => count('renewed') === 2")
        assert owner(sandbox, other) == "alice"
        assert page.evaluate("count('renewed')") == 1

    def test_strict_mode(self, page: Page, host: Host) -> None:
        """React makes a session, closes it and makes another: there is one exchange."""
        outcome = page.evaluate("""async () => {
            const first = create();
            const exchange = attempt(() => first.exchange());
            first.close();
            window.session = create();
            await session.exchange();
            return (await exchange).error;
        }""")
        assert outcome == "aborted"
        assert host.posts == {"/auth/exchange/": 1}


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
class TestInNode:
    """A server that renders, and a test runner."""

    def run(self, tmp_path: Path, code: str) -> str:
        """Run a module beside a copy of ours, and return what it prints."""
        shutil.copy(MODULE, tmp_path / "bakrypt.mjs")
        file = tmp_path / "run.mjs"
        file.write_text(f'const {{ BakryptSession }} = await import("./bakrypt.mjs");\n{code}')
        assert NODE is not None
        command = [NODE, str(file)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout

    @pytest.mark.parametrize("missing", ["BroadcastChannel", "navigator", "location", "all"])
    def test_absent(self, tmp_path: Path, missing: str) -> None:
        """Importing and constructing work without what only a browser has."""
        names = ["BroadcastChannel", "navigator", "location"] if missing == "all" else [missing]
        code = f"""
            for (const name of {names}) delete globalThis[name];
            const session = new BakryptSession({{ base: "/auth" }});
            console.log(await session.accessToken().catch((error) => error.error));
            session.close();
        """
        assert self.run(tmp_path, code) == "login_required\n"

    def test_the_process_ends(self, tmp_path: Path, host: Host, sandbox: Sandbox) -> None:
        """After `close()`, with a token that would be renewed."""
        with host.serve() as url:
            code = f"""
                const session = new BakryptSession({{ base: "{url}/auth" }});
                await session.exchange();
                console.log(await session.accessToken());
                session.close();
            """
            token = self.run(tmp_path, code).strip()
        assert sandbox.store.owner(token) == "account"

    @pytest.mark.parametrize(
        ("body", "status", "exchanges"),
        [
            ('new Blob(["hello"]).stream()', 401, 1),
            ('(async function* () { yield new TextEncoder().encode("hello"); })()', 401, 1),
            ('(await import("node:stream")).Readable.from(["hello"])', 401, 1),
            ('\'[{"name": "Gold"}]\'', 201, 2),
            ('new DataView(new TextEncoder().encode(\'[{"name": "Gold"}]\').buffer)', 201, 2),
            ('new URLSearchParams("name=Gold")', 400, 2),
            ("new FormData()", 400, 2),
        ],
    )
    def test_a_stream_is_sent_once(
        self,
        tmp_path: Path,
        host: Host,
        sandbox: Sandbox,
        body: str,
        status: int,
        exchanges: int,
    ) -> None:
        """It cannot be read again, so the 401 is the answer; all other bodies are sent again."""
        with host.serve() as url:
            code = f"""
                const session = new BakryptSession({{ base: "{url}/auth" }});
                await session.exchange();
                const body = {body};
                const headers = {{ "Content-Type": "application/json" }};
                const init = {{ method: "POST", body, headers, duplex: "half" }};
                console.log(await session.accessToken());
                process.stdin.once("data", async () => {{
                    const url = "{sandbox.url}/v1/assets/";
                    const response = await session.fetch(url, init);
                    console.log(response.status);
                    session.close();
                    process.stdin.destroy();
                }});
            """
            shutil.copy(MODULE, tmp_path / "bakrypt.mjs")
            file = tmp_path / "run.mjs"
            file.write_text(f'const {{ BakryptSession }} = await import("./bakrypt.mjs");\n{code}')
            assert NODE is not None
            pipe = subprocess.PIPE
            with subprocess.Popen([NODE, str(file)], stdin=pipe, stdout=pipe, text=True) as process:
                assert process.stdout is not None
                sandbox.revoke(process.stdout.readline().strip())
                rest, _ = process.communicate("go\n", timeout=20)
        assert rest == f"{status}\n"
        assert host.posts == {"/auth/exchange/": exchanges}
