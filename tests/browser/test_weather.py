"""`bakrypt.js` in bad weather: foreign replies, silence, outages, and clocks that jump."""

from email.utils import formatdate
from time import time
from typing import Any

import pytest
from browsing import browser, needs_chromium
from flask.typing import ResponseReturnValue
from hosts import (
    EXCHANGE,
    HTML,
    SIGN_IN,
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
pytestmark = needs_chromium
BEGIN = [pytest.param(EXCHANGE, id="exchange"), pytest.param(SIGN_IN, id="sign-in")]
REJECT = """async () => {
    const rejected = await session.accessToken();
    return attempt(() => session.accessToken({ rejected }));
}"""

FOREIGN: dict[str, tuple[ResponseReturnValue, str]] = {
    "200 HTML": (("<h1>Welcome</h1>", 200, HTML), "bad_reply"),
    "200 nothing": (("", 200), "bad_reply"),
    "200 null": (("null", 200), "bad_reply"),
    "200 a list": (("[]", 200), "bad_reply"),
    "200 a string": (('"token"', 200), "bad_reply"),
    "200 no token": ({"expires_in": 60}, "bad_reply"),
    "200 an empty token": ({"access_token": ""}, "bad_reply"),
    "200 a number": ({"access_token": 7}, "bad_reply"),
    "200 an error": ({"error": "invalid_grant"}, "bad_reply"),
    "204": (("", 204), "bad_reply"),
    "400 HTML": (("<h1>Cookie too large</h1>", 400, HTML), "bad_reply"),
    "400 JSON of the host's": (({"message": "The CSRF token is missing."}, 400), "bad_reply"),
    "400 the host's own code": (({"error": "csrf_missing"}, 400), "csrf_missing"),
    "401 HTML": (("<h1>Sign in</h1>", 401, HTML), "bad_reply"),
    "403 HTML": (("<h1>Are you human?</h1>", 403, HTML), "bad_reply"),
    "403 a list": (("[]", 403), "bad_reply"),
    "403 an object as code": (({"error": {"code": "access_denied"}}, 403), "bad_reply"),
    "404 HTML": (("<h1>Not found</h1>", 404, HTML), "bad_reply"),
    "429": (({"error": "too_many_requests"}, 429), "too_many_requests"),
    "500": (({"error": "server_error"}, 500), "server_error"),
    "502 HTML": (("<h1>Bad gateway</h1>", 502, HTML), "bad_reply"),
}


class TestReplies:
    """The body says what a reply is, not its status."""

    @pytest.mark.parametrize("kind", FOREIGN)
    def test_not_final(self, page: Page, host: Host, kind: str) -> None:
        """What something in between answers ends no session; the old token and its pair stay."""
        reply, code = FOREIGN[kind]
        for begin in (EXCHANGE, SIGN_IN):
            host.reply = None
            page.evaluate("() => { window.session = create() }")
            page.evaluate(begin)
            token = page.evaluate(TOKEN)
            host.reply = reply
            error = page.evaluate(REJECT)
            assert (error["name"], error["error"]) == ("BakryptError", code)
            assert not error["isFinal"]
            assert page.evaluate("session.events.length") == 1
            assert page.evaluate(TOKEN) == token
            page.evaluate("session.close()")

    @pytest.mark.parametrize("begin", BEGIN)
    def test_it_goes_on_afterwards(
        self, page: Page, host: Host, sandbox: Sandbox, begin: str
    ) -> None:
        """By itself, with the pair that it had."""
        page.evaluate(begin)
        host.reply, _ = FOREIGN["403 HTML"]
        page.evaluate(REJECT)
        host.reply = None
        page.wait_for_function("() => count('renewed') === 2")
        assert owner(sandbox, page) in {"account", "alice"}

    @pytest.mark.parametrize("begin", BEGIN)
    @pytest.mark.parametrize(
        ("status", "code"), [(400, "invalid_grant"), (401, "invalid_grant"), (403, "access_denied")]
    )
    def test_final(self, page: Page, host: Host, begin: str, status: int, code: str) -> None:
        """An `ErrorResponse` of ours with a code that is."""
        page.evaluate(begin)
        host.reply = {"error": code, "error_description": "No more."}, status
        error = page.evaluate(REJECT)
        assert (error["status"], error["error"], error["isFinal"]) == (status, code, True)
        assert page.evaluate("session.events.at(-1)") == ["lost", "No more."]

    @pytest.mark.parametrize("begin", BEGIN)
    @pytest.mark.parametrize("kind", ["200 HTML", "200 no token", "200 a number"])
    def test_at_the_beginning(self, page: Page, host: Host, begin: str, kind: str) -> None:
        """`Bearer undefined` never goes out."""
        host.reply, code = FOREIGN[kind]
        assert page.evaluate(begin)["error"] == code
        assert page.evaluate(TOKEN)["error"] == "login_required"

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("7", 7),
            ("0", None),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("a date to come", pytest.approx(100_000, abs=60)),
            ("a date gone by", None),
        ],
    )
    def test_retry_after(self, page: Page, host: Host, text: str, seconds: Any) -> None:
        """Seconds or a date (RFC 9110 section 10.2.3); what is neither is left out."""
        for words, shift in (("a date to come", 100_000), ("a date gone by", -100_000)):
            text = formatdate(time() + shift, usegmt=True) if text == words else text
        host.reply = {"error": "too_many_requests"}, 429, {"Retry-After": text}
        error = page.evaluate(EXCHANGE)
        assert error.get("retryAfter") == seconds

    def test_retry_after_is_obeyed(self, page: Page, host: Host) -> None:
        """No renewal is tried before."""
        page.evaluate(EXCHANGE)
        host.reply = {"error": "too_many_requests"}, 429, {"Retry-After": "60"}
        for _ in range(3):
            assert page.evaluate(REJECT)["error"] == "too_many_requests"
        assert host.posts["/auth/exchange/"] == 2

    @pytest.mark.parametrize(
        "text", ["31536000", "Infinity", "a year ahead", "Fri, 31 Dec 9999 23:59:59 GMT"]
    )
    def test_retry_after_is_cut(self, page: Page, host: Host, text: str) -> None:
        """To an hour, as on the server: who says a year does not end the session."""
        page.evaluate(EXCHANGE)
        token = page.evaluate(TOKEN)
        ahead = formatdate(time() + 31_536_000, usegmt=True)
        wait = ahead if text == "a year ahead" else text
        host.reply = {"error": "too_many_requests"}, 429, {"Retry-After": wait}
        assert page.evaluate(REJECT)["retryAfter"] > 31_000_000
        host.reply = None
        page.evaluate(LATER.format(ms=3_590_000))
        assert page.evaluate(REJECT)["error"] == "too_many_requests"
        page.evaluate(LATER.format(ms=3_610_000))
        renewed = page.evaluate(TOKEN)
        assert isinstance(renewed, str)
        assert renewed != token
        assert host.posts["/auth/exchange/"] == 3

    def test_an_exchange_does_not_shorten_it(self, page: Page, host: Host) -> None:
        """A page may call it at each of its steps; the renewal waits all the same."""
        page.evaluate(EXCHANGE)
        token = page.evaluate(TOKEN)
        host.reply = {"error": "too_many_requests"}, 429, {"Retry-After": "60"}
        page.evaluate(REJECT)
        for _ in range(3):
            assert page.evaluate(EXCHANGE) is None
            assert page.evaluate(TOKEN) == token
        page.wait_for_timeout(1000)
        assert host.posts["/auth/exchange/"] == 2


class TestSilence:
    """The server takes the POST and says nothing."""

    @pytest.mark.parametrize("begin", BEGIN)
    def test_a_time_limit(self, context: BrowserContext, host: Host, begin: str) -> None:
        """Each tab's call ends with an error that is not final, and the token stays."""
        tabs = [open_tab(context) for _ in range(3)]
        for tab in tabs:
            tab.evaluate("() => { window.session = create({ timeout: 1000 }) }")
        tabs[0].evaluate(begin)
        tokens = [tab.evaluate(TOKEN) for tab in tabs]
        host.silent = True
        for tab in tabs:
            tab.evaluate(f"() => {{ window.renewal = ({REJECT})() }}")
        errors = [tab.evaluate("renewal") for tab in tabs]
        assert {error["error"] for error in errors} == {"timeout"}
        assert {error["isFinal"] for error in errors} == {False}
        assert sum(host.posts.values()) == 2
        assert [tab.evaluate(TOKEN) for tab in tabs] == tokens
        assert {tab.evaluate("count('lost')") for tab in tabs} == {0}

    def test_half_a_reply(self, page: Page, host: Host) -> None:
        """The body is within the limit, too."""

        def drip() -> Any:
            yield '{"access_token": '
            host._end.wait(20)  # noqa: SLF001 - it ends with the host

        page.evaluate("() => { window.session = create({ timeout: 500 }) }")
        from flask import Response  # noqa: PLC0415 - only here

        host.reply = Response(drip(), mimetype="application/json")
        assert page.evaluate(EXCHANGE)["error"] == "timeout"

    def test_no_server(self, page: Page) -> None:
        """The connection is refused."""
        page.evaluate("() => { window.session = create({ base: 'http://127.0.0.1:9/auth' }) }")
        error = page.evaluate(EXCHANGE)
        assert (error["status"], error["error"], error["isFinal"]) == (0, "network_error", False)


class TestOutages:
    """The proxy fails for a while."""

    def test_attempts_are_spaced(self, context: BrowserContext, host: Host) -> None:
        """They become rarer, and all tabs together make one."""
        tabs = [open_tab(context) for _ in range(3)]
        for tab in tabs:
            tab.evaluate(EXCHANGE)
        host.reply = {"error": "server_error"}, 500
        for tab in tabs:
            tab.evaluate(f"() => {{ ({REJECT})() }}")
        tabs[0].wait_for_timeout(4000)
        assert 2 <= host.posts["/auth/exchange/"] <= 1 + 5
        host.reply = None
        for tab in tabs:
            tab.wait_for_function("() => count('renewed') === 2")
        assert len({tab.evaluate(TOKEN) for tab in tabs}) == 1

    def test_a_living_token_is_handed_out_meanwhile(
        self, page: Page, host: Host, sandbox: Sandbox
    ) -> None:
        """It is in its last tenth and cannot be renewed."""
        sandbox.expires_in = 20
        page.evaluate(SIGN_IN)
        token = page.evaluate(TOKEN)
        host.reply = {"error": "server_error"}, 500
        page.evaluate(LATER.format(ms=18_500))
        assert page.evaluate(TOKEN) == token
        page.wait_for_timeout(300)
        assert host.posts["/auth/token/"] >= 2
        assert page.evaluate(TOKEN) == token

    def test_headers_that_throw(self, page: Page) -> None:
        """The page's own error comes out as it is; a later attempt goes on."""
        page.evaluate("""() => {
            window.broken = true;
            const headers = () => { if (broken) throw new RangeError("no cookie"); return {}; };
            window.session = create({ headers });
        }""")
        assert page.evaluate(EXCHANGE)["name"] == "RangeError"
        page.evaluate("() => { window.broken = false }")
        page.evaluate(EXCHANGE)
        page.evaluate("() => { window.broken = true }")
        assert page.evaluate(REJECT)["name"] == "RangeError"
        page.evaluate("() => { window.broken = false }")
        page.wait_for_function("() => session.events.length === 2")


# The clocks of a tab as a test sets them: one stops while the machine sleeps, the other can be set.
LATER = """() => {{
    const {{ now }} = Performance.prototype;
    performance.now = () => now.call(performance) + {ms};
}}"""
SET_CLOCK = "(ms) => { const real = Date.now.bind(Date); Date.now = () => real() + ms; }"


class TestClocks:
    """A token ends by the earlier of two clocks."""

    def test_the_clock_is_set_back(self, page: Page, host: Host, sandbox: Sandbox) -> None:
        """By two hours: the dead token is not handed out."""
        sandbox.expires_in = 3
        page.evaluate(SIGN_IN)
        page.evaluate(SET_CLOCK, -7_200_000)
        page.wait_for_timeout(3100)
        assert owner(sandbox, page) == "alice"

    def test_the_machine_sleeps(self, page: Page, host: Host, sandbox: Sandbox) -> None:
        """`performance.now` and timers stood still; the first call waits for a new token."""
        page.evaluate(SIGN_IN)
        token = page.evaluate(TOKEN)
        page.evaluate(SET_CLOCK, 36_000_000)
        assert page.evaluate(TOKEN) != token
        assert host.posts["/auth/token/"] == 2

    def test_the_clock_jumps_ahead_and_back(self, context: BrowserContext, host: Host) -> None:
        """A new token is taken by all tabs, though its time is before that of the old one."""
        tabs = [open_tab(context) for _ in range(2)]
        for tab in tabs:
            tab.evaluate(SET_CLOCK, 86_400_000)
        tabs[0].evaluate(SIGN_IN)
        token = tabs[1].evaluate(TOKEN)
        for tab in tabs:
            tab.evaluate(SET_CLOCK, -86_400_000)
        renewed = tabs[0].evaluate("(rejected) => session.accessToken({ rejected })", token)
        tabs[1].wait_for_function("() => count('renewed') === 2")
        assert tabs[1].evaluate(TOKEN) == renewed
        assert host.posts["/auth/token/"] == 2

    def test_a_shared_token_whose_end_was_misjudged(self, page: Page, host: Host) -> None:
        """The clock jumped ahead, the server gives the same token: it is not asked each time."""
        page.evaluate(EXCHANGE)
        token = page.evaluate(TOKEN)
        page.evaluate(SET_CLOCK, 86_400_000)
        for _ in range(5):
            assert page.evaluate(TOKEN) == token
        assert host.posts["/auth/exchange/"] == 2
        assert page.evaluate("count('renewed')") == 1
