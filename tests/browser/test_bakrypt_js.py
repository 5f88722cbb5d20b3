"""`bakrypt.js` in one tab of a real Chromium: tokens renewed ahead of their end, and calls."""

import re
from pathlib import Path

import pytest
from browsing import browser, needs_chromium
from flask.testing import FlaskClient
from hosts import (
    EXCHANGE,
    SIGN_IN,
    SIGN_IN_BOB,
    TOKEN,
    Host,
    context,
    host,
    open_tab,
    owner,
    page,
)
from playwright.sync_api import BrowserContext, Page

from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser", "context", "host", "page"]  # a fixture is used by its name
MODULE = Path(__file__).parents[2] / "bakrypt_proxy" / "browser" / "bakrypt.js"


def test_type_and_etag(client: FlaskClient) -> None:
    """A browser keeps it, and asks whether it has changed."""
    reply = client.get("/auth/bakrypt.js")
    assert reply.content_type == "text/javascript; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-cache"
    etag = {"If-None-Match": reply.headers["ETag"]}
    assert client.get("/auth/bakrypt.js", headers=etag).status_code == 304
    assert client.post("/auth/bakrypt.js").status_code == 405


def test_it_has_no_dependencies_and_no_storage() -> None:
    """Nothing is imported, and nothing is written where it would outlive the page."""
    code = MODULE.read_text("utf-8")
    assert not re.search(r"^import ", code, re.MULTILINE)
    assert not re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie", code)


class TestTokens:
    """Got, renewed and lost."""

    pytestmark = needs_chromium

    def test_exchange(self, page: Page, sandbox: Sandbox) -> None:
        """The token is the account's, and is in no storage."""
        assert page.evaluate(EXCHANGE) is None
        assert owner(sandbox, page) == "account"
        stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert stored == [0, 0, ""]
        ((name, detail),) = page.evaluate("events")
        assert name == "renewed"
        assert 35990 < detail["expiresIn"] <= 36000

    def test_exchange_again(self, page: Page, host: Host) -> None:
        """A living token is not asked for once more, and there is no second event."""
        page.evaluate("() => Promise.all([session.exchange(), session.exchange()])")
        page.evaluate(EXCHANGE)
        assert host.posts == {"/auth/exchange/": 1}
        assert page.evaluate("count('renewed')") == 1

    def test_sign_in(self, page: Page, sandbox: Sandbox) -> None:
        """The user's own."""
        page.evaluate(SIGN_IN)
        assert owner(sandbox, page) == "alice"

    def test_a_wrong_password(self, page: Page, sandbox: Sandbox) -> None:
        """An error with status and code; who was signed in before still is."""
        page.evaluate(SIGN_IN)
        error = page.evaluate("() => attempt(() => session.signIn('bob', 'wrong'))")
        assert (error["name"], error["status"]) == ("BakryptError", 400)
        assert error["error"] == "invalid_grant"
        assert owner(sandbox, page) == "alice"

    def test_nobody_is_signed_in(self, page: Page, host: Host) -> None:
        """An error, and nothing is asked of the server."""
        error = page.evaluate(TOKEN)
        assert (error["status"], error["error"]) == (401, "login_required")
        assert host.posts == {}

    def test_a_call_waits_for_a_sign_in_under_way(self, page: Page, sandbox: Sandbox) -> None:
        """Part of a page may ask for a token before another has signed the user in."""
        both = "Promise.all([session.accessToken(), session.signIn('alice', 'alice-password')])"
        token, _ = page.evaluate(f"async () => {{ const signing = {both}; return signing; }}")
        assert sandbox.store.owner(token) == "alice"

    def test_the_last_sign_in_counts(self, page: Page, sandbox: Sandbox) -> None:
        """Whatever the order of the replies: the earlier one is aborted."""
        sandbox.delay = 1
        page.evaluate(
            "() => { window.first = attempt(() => session.signIn('alice', 'alice-password')) }"
        )
        page.wait_for_timeout(300)
        sandbox.delay = 0
        page.evaluate(SIGN_IN_BOB)
        assert page.evaluate("first")["error"] == "aborted"
        assert owner(sandbox, page) == "bob"

    def test_many_callers_make_one_renewal(self, page: Page, host: Host, sandbox: Sandbox) -> None:
        """Each gets the new token."""
        page.evaluate(SIGN_IN)
        rejected = page.evaluate(TOKEN)
        tokens = page.evaluate(
            """(rejected) => Promise.all(
                Array.from({ length: 50 }, () => session.accessToken({ rejected })))""",
            rejected,
        )
        assert len(set(tokens)) == 1
        assert tokens[0] != rejected
        assert sandbox.store.owner(tokens[0]) == "alice"
        assert host.posts["/auth/token/"] == 2

    def test_renewed_ahead_by_itself(self, page: Page, sandbox: Sandbox) -> None:
        """With nobody asking; the token always lives."""
        sandbox.expires_in = 2
        page.evaluate(SIGN_IN)
        page.wait_for_function("() => count('renewed') >= 3")
        assert owner(sandbox, page) == "alice"
        assert page.evaluate("count('lost')") == 0

    def test_a_token_in_its_last_second_is_renewed_too(self, page: Page, sandbox: Sandbox) -> None:
        """The server shares it with `expires_in` 0, which is no reason to leave it."""
        sandbox.expires_in = 1
        page.evaluate(EXCHANGE)
        assert page.evaluate("events[0][1].expiresIn") <= 1
        page.wait_for_function("() => count('renewed') >= 4")

    @pytest.mark.parametrize("expires_in", [0, "0", 0.01])
    def test_the_server_gives_no_life(self, page: Page, host: Host, expires_in: object) -> None:
        """Each time: the token is renewed more and more rarely, and is handed out meanwhile."""
        host.reply = {"access_token": "a", "refresh_token": "b", "expires_in": expires_in}
        page.evaluate(SIGN_IN)
        assert page.evaluate("events[0][1].expiresIn") > 0
        calls = page.evaluate("""async () => {
            const end = performance.now() + 3000;
            const tokens = new Set();
            while (performance.now() < end) {
                tokens.add(await session.accessToken());
                await new Promise((resolve) => setTimeout(resolve, 20));
            }
            return [...tokens];
        }""")
        assert calls == ["a"]
        assert 2 <= host.posts["/auth/token/"] <= 6

    def test_a_token_without_a_life_is_used_until_it_is_refused(
        self, page: Page, host: Host, sandbox: Sandbox
    ) -> None:
        """It is not renewed at each call."""
        host.reply = {"access_token": "abc"}
        page.evaluate(SIGN_IN)
        assert [page.evaluate(TOKEN) for _ in range(3)] == ["abc"] * 3
        assert page.evaluate("session.events[0][1].expiresIn") == float("inf")
        assert host.posts["/auth/token/"] == 1

    def test_a_refresh_without_a_new_refresh_token_keeps_the_old(
        self, page: Page, host: Host
    ) -> None:
        """RFC 6749 section 6 lets the server leave it out."""
        host.reply = {"access_token": "one", "refresh_token": "same", "expires_in": 60}
        page.evaluate(SIGN_IN)
        for name, former in (("two", "one"), ("three", "two")):
            host.reply = {"access_token": name, "expires_in": 60}
            token = page.evaluate("(rejected) => session.accessToken({ rejected })", former)
            assert token == name

    def test_no_refresh_token(self, page: Page, host: Host) -> None:
        """There is no way on: the page is told, and the server is not asked."""
        host.reply = {"access_token": "one", "expires_in": 60}
        page.evaluate(SIGN_IN)
        error = page.evaluate("() => attempt(() => session.accessToken({ rejected: 'one' }))")
        assert error["isFinal"]
        assert page.evaluate("count('lost')") == 1
        assert host.posts["/auth/token/"] == 1

    def test_a_dead_refresh_token_ends_it(self, page: Page, sandbox: Sandbox) -> None:
        """The page is told, and asks its user to sign in."""
        sandbox.expires_in = 2
        page.evaluate(SIGN_IN)
        sandbox.revoke(page.evaluate(TOKEN))
        page.wait_for_function("() => count('lost') === 1")
        assert owner(sandbox, page) == "login_required"

    def test_sign_out(self, page: Page, sandbox: Sandbox) -> None:
        """Forgotten, until somebody signs in."""
        page.evaluate(SIGN_IN)
        page.evaluate("session.signOut()")
        assert owner(sandbox, page) == "login_required"
        assert page.evaluate("events.at(-1)") == ["lost", "signed out"]
        page.evaluate(SIGN_IN_BOB)
        assert owner(sandbox, page) == "bob"

    @pytest.mark.parametrize("begin", [SIGN_IN, EXCHANGE])
    def test_a_sign_out_during_a_sign_in(self, page: Page, sandbox: Sandbox, begin: str) -> None:
        """The reply that comes afterwards signs nobody in."""
        sandbox.delay = 0.5
        page.evaluate(f"() => {{ window.first = ({begin})() }}")
        page.wait_for_timeout(250)
        page.evaluate("session.signOut()")
        assert page.evaluate("first")["error"] == "aborted"
        assert owner(sandbox, page) == "login_required"
        assert page.evaluate("events") == []

    def test_a_sign_out_during_a_renewal(self, page: Page, host: Host, sandbox: Sandbox) -> None:
        """The reply that comes afterwards brings nobody back."""
        page.evaluate(SIGN_IN)
        sandbox.delay = 0.5
        rejected = page.evaluate(TOKEN)
        page.evaluate(
            "(rejected) => { window.renewal = attempt(() => session.accessToken({ rejected })) }",
            rejected,
        )
        page.wait_for_timeout(250)
        page.evaluate("session.signOut()")
        assert page.evaluate("renewal")["error"] == "aborted"
        assert page.evaluate("events.at(-1)") == ["lost", "signed out"]
        assert owner(sandbox, page) == "login_required"

    def test_a_sign_out_while_it_waits_for_the_lock(self, page: Page) -> None:
        """The renewal that was to begin is aborted."""
        page.evaluate(SIGN_IN)
        renewal = page.evaluate("""async () => {
            let release;
            const name = new URL("/auth", location).href;
            const hold = (resolve) => navigator.locks.request(
                name, () => new Promise((done) => { release = done; resolve(); }));
            await new Promise(hold);
            const rejected = await session.accessToken();
            const renewal = attempt(() => session.accessToken({ rejected }));
            session.signOut();
            release();
            return renewal;
        }""")
        assert renewal["error"] == "aborted"

    def test_an_error_without_words(self, page: Page, host: Host) -> None:
        """An empty description ends the session as any other does."""
        page.evaluate(SIGN_IN)
        rejected = page.evaluate(TOKEN)
        host.reply = {"error": "invalid_grant", "error_description": ""}, 400
        page.evaluate("(t) => attempt(() => session.accessToken({ rejected: t }))", rejected)
        assert page.evaluate("events.at(-1)") == ["lost", "invalid_grant"]

    def test_another_users_renewal_is_not_waited_for(self, page: Page, host: Host) -> None:
        """Alice's hangs; Bob has signed in meanwhile, and his token is renewed."""
        page.evaluate(SIGN_IN)
        host.silent = True
        page.evaluate("""async () => {
            const rejected = await session.accessToken();
            session.accessToken({ rejected }).catch(() => {});
        }""")
        page.wait_for_timeout(400)
        host.silent = False
        page.evaluate(SIGN_IN_BOB)
        token = page.evaluate(TOKEN)
        renewed = page.evaluate("(t) => attempt(() => session.accessToken({ rejected: t }))", token)
        assert isinstance(renewed, str)
        assert renewed != token


class TestCalls:
    """`fetch` and what else needs a token."""

    pytestmark = needs_chromium

    def test_fetch(self, page: Page, sandbox: Sandbox) -> None:
        """With the token, and again with a new one after a 401; the body is sent both times."""
        page.evaluate(EXCHANGE)
        sandbox.revoke(page.evaluate(TOKEN))
        upload = f"""async () => {{
            const body = new FormData();
            body.append("file", new Blob(["hello"]), "a.txt");
            const url = "{sandbox.url}/v1/files/";
            const response = await session.fetch(new Request(url, {{ method: "POST", body }}));
            return [response.status, (await response.json()).size];
        }}"""
        assert page.evaluate(upload) == [201, 5]
        assert sandbox.calls["/auth/exchange/"] == 2

    def test_fetch_gives_up_after_one_more(self, page: Page, sandbox: Sandbox) -> None:
        """A second 401 is the answer."""
        page.evaluate(EXCHANGE)
        refusal = {"status": 401, "headers": {"Access-Control-Allow-Origin": "*"}}
        page.route(f"{sandbox.url}/**", lambda route: route.fulfill(**refusal))
        url = f"{sandbox.url}/v1/assets/"
        assert page.evaluate("async (url) => (await session.fetch(url)).status", url) == 401
        assert sandbox.calls["/auth/exchange/"] == 2

    def test_it_is_not_sent_again_as_another_user(self, page: Page, sandbox: Sandbox) -> None:
        """Bob signs in while Alice's call is under way; the 401 is the answer to it."""
        page.evaluate(SIGN_IN)
        sandbox.revoke(page.evaluate(TOKEN))
        call = f"async () => (await session.fetch('{sandbox.url}/v1/assets/')).status"
        sandbox.delay = 0.5
        page.evaluate(f"() => {{ window.call = ({call})() }}")
        page.wait_for_timeout(250)
        sandbox.delay = 0
        page.evaluate(SIGN_IN_BOB)
        assert page.evaluate("call") == 401
        assert owner(sandbox, page) == "bob"

    def test_a_rejected_token(self, page: Page, host: Host, sandbox: Sandbox) -> None:
        """An XMLHttpRequest or axios reports the refused token and gets another."""
        page.evaluate(EXCHANGE)
        rejected = page.evaluate(TOKEN)
        sandbox.revoke(rejected)
        renew = "(rejected) => session.accessToken({ rejected })"
        renewed = page.evaluate(renew, rejected)
        assert sandbox.store.owner(renewed) == "account"
        assert page.evaluate(renew, rejected) == renewed
        assert host.posts["/auth/exchange/"] == 2

    @pytest.mark.parametrize("when", ["before", "during"])
    def test_an_aborted_call(self, page: Page, host: Host, when: str) -> None:
        """It rejects at once with the signal's reason, even while a renewal hangs."""
        page.evaluate(SIGN_IN)
        token = page.evaluate(TOKEN)
        host.silent = True
        page.evaluate("(rejected) => { session.accessToken({ rejected }).catch(() => {}) }", token)
        page.evaluate("() => { window.calls = new AbortController() }")
        abort = "calls.abort(new Error('enough'));"
        answer = page.evaluate(f"""async () => {{
            {abort if when == "before" else ""}
            const began = performance.now();
            const call = session.fetch("/", {{ signal: calls.signal }});
            {abort if when == "during" else ""}
            const error = await call.catch((error) => error.message);
            return [error, performance.now() - began < 1000];
        }}""")
        assert answer == ["enough", True]

    def test_unbound(self, page: Page, sandbox: Sandbox) -> None:
        """A generated client takes it as a function."""
        page.evaluate(EXCHANGE)
        call = "async (url) => { const { fetch } = session; return (await fetch(url)).status; }"
        assert page.evaluate(call, f"{sandbox.url}/v1/assets/") == 200

    def test_headers_for_the_host(self, context: BrowserContext, host: Host) -> None:
        """A host's CSRF protection gets its token, an object or the result of a function."""
        page = open_tab(context)
        page.evaluate("""async () => {
            await create({ headers: { "X-CSRFToken": "one" } }).exchange();
            let count = 1;
            const headers = () => new Headers({ "X-CSRFToken": `two ${count++}` });
            const session = create({ headers });
            await session.signIn("alice", "alice-password");
            await session.accessToken({ rejected: await session.accessToken() });
        }""")
        assert [sent["X-Csrftoken"] for sent in host.headers] == ["one", "two 1", "two 2"]
        assert {sent["Content-Type"] for sent in host.headers} == {"application/json"}
