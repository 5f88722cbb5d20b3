"""`bakrypt.js` in several tabs: one token for all, and each user's own."""

from typing import Any

import pytest
from browsing import browser, needs_chromium
from hosts import (
    EXCHANGE,
    SIGN_IN,
    SIGN_IN_BOB,
    TOKEN,
    Host,
    context,
    frozen,
    host,
    open_tab,
    owner,
)
from playwright.sync_api import BrowserContext, Page

from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser", "context", "host"]  # a fixture is used by its name
pytestmark = needs_chromium
REJECT = "(rejected) => attempt(() => session.accessToken({ rejected }))"
LISTEN = """() => {
    window.heard = [];
    window.spy = new BroadcastChannel(new URL("/auth", location).href);
    spy.onmessage = ({ data }) => heard.push(data);
}"""

# What other tabs say is lost while `isDeaf` is set, as it may be in the back/forward cache.
DEAFNESS = """
    const Channel = BroadcastChannel;
    window.BroadcastChannel = class extends Channel {
        set onmessage(hear) {
            super.onmessage = (event) => window.isDeaf || hear(event);
        }
    };
"""


def wait_for_token(page: Page, token: str) -> None:
    """Wait until a tab hands this token out."""
    page.wait_for_function("async (token) => (await session.accessToken()) === token", arg=token)


class TestSharing:
    """What one tab has, the others find."""

    def test_a_token_without_a_life(self, context: BrowserContext, host: Host) -> None:
        """`expires_in` is 0: all sessions together ask ever more rarely, also if called often."""
        host.reply = {"access_token": "token", "expires_in": 0}
        tabs = [open_tab(context) for _ in range(2)]
        for tab in tabs:
            tab.evaluate("""async () => {
                window.sessions = Array.from({ length: 5 }, () => create());
                for (const session of sessions) await session.exchange();
            }""")
        host.posts.clear()
        for tab in tabs:
            tab.evaluate("() => { setInterval(() => sessions[0].accessToken(), 20) }")
        tabs[0].wait_for_timeout(3000)
        assert host.posts["/auth/exchange/"] <= 5
        host.reply = None
        for tab in tabs:
            tab.wait_for_function("async () => (await sessions[0].accessToken()) !== 'token'")

    def test_a_new_tab_finds_the_session(self, context: BrowserContext, host: Host) -> None:
        """Without asking the server."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        assert second.evaluate(TOKEN) == first.evaluate(TOKEN)
        assert second.evaluate("count('renewed')") == 1
        assert host.posts == {"/auth/token/": 1}

    @pytest.mark.parametrize("at_once", [False, True])
    def test_tabs_exchange_once(self, context: BrowserContext, host: Host, at_once: bool) -> None:
        """The first asks the server, the others ask the first."""
        tabs = [open_tab(context) for _ in range(3)]
        for tab in tabs:
            tab.evaluate("() => { window.exchange = session.exchange() }" if at_once else EXCHANGE)
        tokens = {
            tab.evaluate("async () => { await window.exchange; return session.accessToken() }")
            for tab in tabs
        }
        assert len(tokens) == 1
        assert host.posts == {"/auth/exchange/": 1}
        assert {tab.evaluate("count('renewed')") for tab in tabs} == {1}

    def test_a_refusal_in_all_tabs_is_one_renewal(
        self, context: BrowserContext, host: Host
    ) -> None:
        """Each reports the same token and gets the same new one."""
        tabs = [open_tab(context) for _ in range(3)]
        for tab in tabs:
            tab.evaluate(EXCHANGE)
        rejected = tabs[0].evaluate(TOKEN)
        for tab in tabs:
            tab.evaluate(f"(rejected) => {{ window.renewal = ({REJECT})(rejected) }}", rejected)
        renewed = {tab.evaluate("renewal") for tab in tabs}
        assert len(renewed) == 1
        assert renewed != {rejected}
        assert host.posts["/auth/exchange/"] == 2
        assert {tab.evaluate("count('renewed')") for tab in tabs} == {2}

    def test_a_tab_that_missed_two_renewals(self, context: BrowserContext, host: Host) -> None:
        """Its refresh token is dead, so it asks the other tab, and both sessions go on."""
        first, second = open_tab(context), open_tab(context, DEAFNESS)
        first.evaluate(SIGN_IN)
        token = rejected = second.evaluate(TOKEN)
        second.evaluate("() => { window.isDeaf = true }")
        for _ in range(2):
            token = first.evaluate(REJECT, token)
        second.evaluate("() => { window.isDeaf = false }")
        assert second.evaluate(REJECT, rejected) == token
        assert host.posts["/auth/token/"] == 3
        assert [tab.evaluate("count('lost')") for tab in (first, second)] == [0, 0]

    def test_a_refused_renewal_asks_the_others_again(
        self, context: BrowserContext, host: Host
    ) -> None:
        """They may have been busy at the first time: the session is not lost, here or there."""
        first, second = open_tab(context), open_tab(context, DEAFNESS)
        first.evaluate(SIGN_IN)
        token = rejected = second.evaluate(TOKEN)
        second.evaluate("() => { window.isDeaf = true }")
        token = first.evaluate(REJECT, token)
        second.evaluate("""() => {
            const send = window.fetch;
            window.fetch = async (...init) => {
                const response = await send(...init);
                window.isDeaf = false;
                return response;
            };
        }""")
        assert second.evaluate(REJECT, rejected) == token
        assert host.posts["/auth/token/"] == 3
        assert [tab.evaluate("count('lost')") for tab in (first, second)] == [0, 0]

    def test_a_tab_frozen_with_the_lock_is_not_waited_for(
        self, context: BrowserContext, host: Host
    ) -> None:
        """It got its turn while it was frozen; the others go on without the lock."""
        first, second = open_tab(context), open_tab(context)
        for tab in (first, second):
            tab.evaluate("() => { window.session = create({ timeout: 500 }) }")
        first.evaluate(EXCHANGE)
        rejected = second.evaluate(TOKEN)
        second.evaluate(
            """() => {
                const name = new URL("/auth", location).href;
                navigator.locks.request(name, () => new Promise(() => {}));
            }"""
        )
        with frozen(second):
            renewed = first.evaluate(REJECT, rejected)
        assert isinstance(renewed, str)
        assert renewed != rejected
        wait_for_token(second, renewed)

    def test_a_stolen_lock(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """The renewal goes on and its result counts; no raw DOMException."""
        page = open_tab(context)
        page.evaluate(SIGN_IN)
        rejected = page.evaluate(TOKEN)
        sandbox.delay = 0.5
        page.evaluate(f"(rejected) => {{ window.renewal = ({REJECT})(rejected) }}", rejected)
        page.wait_for_timeout(300)
        page.evaluate(
            "navigator.locks.request(new URL('/auth', location).href, { steal: true }, () => 0)"
        )
        assert sandbox.store.owner(page.evaluate("renewal")) == "alice"

    def test_a_crashed_tab(self, context: BrowserContext, host: Host, sandbox: Sandbox) -> None:
        """Its lock is free again, and the other tab goes on."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(EXCHANGE)
        rejected = second.evaluate(TOKEN)
        host.silent = True
        first.evaluate(f"(rejected) => {{ ({REJECT})(rejected) }}", rejected)
        first.wait_for_timeout(300)
        host.silent = False
        first.close()
        assert sandbox.store.owner(second.evaluate(REJECT, rejected)) == "account"


class TestUsers:
    """Several users in one browser."""

    def test_two_users_in_two_tabs(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """Each keeps their own, also if both sign in at once; one's sign-out is not the other's."""
        first, second = open_tab(context), open_tab(context)
        for tab, sign_in in ((first, SIGN_IN), (second, SIGN_IN_BOB)):
            tab.evaluate(f"() => {{ window.signing = ({sign_in})() }}")
        for tab in (first, second):
            tab.evaluate("signing")
        assert [owner(sandbox, tab) for tab in (first, second)] == ["alice", "bob"]
        first.evaluate("session.signOut()")
        assert owner(sandbox, second) == "bob"

    def test_a_signed_out_tab_takes_nobodys_token(
        self, context: BrowserContext, sandbox: Sandbox
    ) -> None:
        """Alice signed out in one tab; what she does next must not go out as Bob."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        second.evaluate(SIGN_IN_BOB)
        first.evaluate("session.signOut()")
        assert owner(sandbox, first) == "login_required"
        second.evaluate(REJECT, second.evaluate(TOKEN))
        assert owner(sandbox, first) == "login_required"

    def test_a_lost_session_is_not_replaced_either(
        self, context: BrowserContext, sandbox: Sandbox
    ) -> None:
        """The end came from the server."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        second.evaluate(SIGN_IN_BOB)
        token = first.evaluate(TOKEN)
        sandbox.revoke(token)
        assert first.evaluate(REJECT, token)["error"] == "invalid_grant"
        assert owner(sandbox, first) == "login_required"

    def test_a_new_tab_among_two_users(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """Nobody can say whose it is, so it asks for a sign-in."""
        first, second, third = (open_tab(context) for _ in range(3))
        first.evaluate(SIGN_IN)
        second.evaluate(SIGN_IN_BOB)
        assert owner(sandbox, third) == "login_required"

    def test_another_user_is_no_renewal(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """A tab that shared a session keeps it when the other signs in as somebody else."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        second.evaluate(TOKEN)
        second.evaluate(SIGN_IN_BOB)
        assert [owner(sandbox, tab) for tab in (first, second)] == ["alice", "bob"]

    def test_another_sign_in_during_a_renewal(
        self, context: BrowserContext, sandbox: Sandbox
    ) -> None:
        """The tab that renews Alice's token becomes Bob's: the other still gets her new one."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        rejected = second.evaluate(TOKEN)
        sandbox.delay = 1
        first.evaluate(f"(rejected) => {{ window.renewal = ({REJECT})(rejected) }}", rejected)
        first.wait_for_timeout(300)
        sandbox.delay = 0
        first.evaluate(SIGN_IN_BOB)
        assert first.evaluate("renewal")["error"] == "aborted"
        second.wait_for_function("() => count('renewed') === 2")
        assert [owner(sandbox, tab) for tab in (first, second)] == ["bob", "alice"]

    def test_a_sign_out_during_a_renewal(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """A new tab that asks just then does not bring the session back."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        rejected = first.evaluate(TOKEN)
        sandbox.delay = 0.6
        first.evaluate(f"(rejected) => {{ window.renewal = ({REJECT})(rejected) }}", rejected)
        first.wait_for_timeout(300)
        first.evaluate("session.signOut()")
        second.evaluate(
            """async () => {
                window.tokens = [];
                const ask = () => attempt(() => session.accessToken());
                for (let i = 0; i < 10; i++) tokens.push(await ask());
            }"""
        )
        assert {token["error"] for token in second.evaluate("tokens")} == {"login_required"}

    def test_sign_out_of_all_tabs(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """That have the same token."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        second.evaluate(TOKEN)
        first.evaluate("session.signOut()")
        second.wait_for_function("() => count('lost') === 1")
        assert owner(sandbox, second) == "login_required"

    @pytest.mark.parametrize("begin", [SIGN_IN, EXCHANGE])
    def test_a_new_tab_signs_out(
        self, context: BrowserContext, sandbox: Sandbox, begin: str
    ) -> None:
        """As a sign-out page does, which has asked for no token: the session ends in all tabs."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(begin)
        second.evaluate("session.signOut()")
        first.wait_for_function("() => count('lost') === 1")
        assert first.evaluate("events.at(-1)") == ["lost", "signed out"]
        assert [owner(sandbox, tab) for tab in (first, second)] == ["login_required"] * 2
        assert second.evaluate("events") == []

    def test_a_sign_out_during_an_exchange(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """The account's session ends in the other tabs, too."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(EXCHANGE)
        second.evaluate(f"() => {{ window.exchange = ({EXCHANGE})(); session.signOut() }}")
        assert second.evaluate("exchange")["error"] == "aborted"
        first.wait_for_function("() => count('lost') === 1")
        assert [owner(sandbox, tab) for tab in (first, second)] == ["login_required"] * 2

    @pytest.mark.parametrize(
        "end",
        [
            f"async () => {{ await ({SIGN_IN_BOB})(); session.signOut(); session.signOut() }}",
            f"async () => {{ const call = ({SIGN_IN_BOB})(); session.signOut(); await call }}",
        ],
    )
    def test_a_sign_out_that_is_nobody_elses(
        self, context: BrowserContext, sandbox: Sandbox, end: str
    ) -> None:
        """Bob signs out twice, or thinks better of it: Alice stays in the other tab."""
        first, second = open_tab(context), open_tab(context)
        first.evaluate(SIGN_IN)
        second.evaluate(end)
        second.wait_for_timeout(200)
        assert [owner(sandbox, tab) for tab in (first, second)] == ["alice", "login_required"]


OLD_MESSAGES: list[Any] = [
    {"ask": True},
    {"held": {"token": {"access_token": "old"}, "way": "exchange", "endsAt": 9e15, "life": 9e9}},
    {"over": "signed out", "replaced": None},
]
ODD_MESSAGES: list[Any] = [
    None,
    "token",
    7,
    [],
    {},
    {"v": 2},
    {"v": 2, "id": "exchange", "gen": 9e15},
    {"v": 2, "id": "exchange", "gen": 9e15, "access": None},
    {"v": 2, "id": "exchange", "gen": 9e15, "access": {"toString": 1}},
    {"v": 2, "id": {"a": 1}, "gen": {}, "ask": 1},
    {"v": 2, "id": "another", "gen": 9e15, "over": "over"},
    {"v": 3, "id": "exchange", "gen": 9e15, "over": "over"},
    {"v": 3, "id": "exchange", "gen": 9e15, "access": "newer", "endsAt": 9e15, "due": 0},
    {"v": 2, "id": "exchange", "gen": 1, "access": "older", "endsAt": 9e15, "due": 0},
    {"v": 2, "id": "exchange", "gen": 1, "over": "older"},
    {"v": 2, "id": "exchange", "gen": 1, "pause": 9e9, "error": "older"},
]


class TestMessages:
    """What anybody may say on the channel."""

    @pytest.mark.parametrize("messages", [OLD_MESSAGES, ODD_MESSAGES])
    def test_others(self, context: BrowserContext, host: Host, messages: list[Any]) -> None:
        """Another version's and senseless messages change nothing, and no code of ours fails."""
        page, stranger = open_tab(context), open_tab(context)
        page.evaluate(EXCHANGE)
        token = page.evaluate(TOKEN)
        stranger.evaluate(LISTEN)
        for message in messages:
            stranger.evaluate("(message) => spy.postMessage(message)", message)
        stranger.evaluate("spy.postMessage(new Map([[1, new Uint8Array(8)]]))")
        stranger.evaluate(
            "() => { const loop = { v: 2 }; loop.access = loop; spy.postMessage(loop) }"
        )
        assert page.evaluate(TOKEN) == token
        renewed = page.evaluate(REJECT, token)
        assert isinstance(renewed, str)
        assert renewed != token
        assert page.evaluate("count('lost')") == 0
        assert host.posts["/auth/exchange/"] == 2

    def test_messages_in_the_wrong_order(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """An older token, or the end of an older one, that comes late is too late."""
        first, second, stranger = (open_tab(context) for _ in range(3))
        stranger.evaluate(LISTEN)
        first.evaluate(SIGN_IN)
        second.evaluate(TOKEN)
        token = first.evaluate(REJECT, first.evaluate(TOKEN))
        wait_for_token(second, token)
        stranger.evaluate("""() => {
            const [older] = heard.filter((message) => message.access);
            spy.postMessage(older);
            spy.postMessage({ v: 2, id: older.id, gen: older.gen, over: "late" });
        }""")
        stranger.wait_for_timeout(200)
        for tab in (first, second):
            assert tab.evaluate(TOKEN) == token
            assert tab.evaluate("count('lost')") == 0

    def test_tabs_are_quiet(self, context: BrowserContext) -> None:
        """An exchange is one question, one answer and one token, however many tabs there are."""
        tabs = [open_tab(context) for _ in range(3)]
        stranger = open_tab(context)
        stranger.evaluate(LISTEN)
        tabs[0].evaluate(EXCHANGE)
        tabs[0].evaluate(EXCHANGE)
        stranger.wait_for_timeout(300)
        assert stranger.evaluate("heard.length") == 2
        tabs[1].evaluate(EXCHANGE)
        stranger.wait_for_timeout(300)
        assert stranger.evaluate("heard.length") == 4

    def test_closed_sessions_say_nothing(self, context: BrowserContext) -> None:
        """Twenty were made and closed: one more asks, and only the one that is open answers."""
        page, stranger = open_tab(context), open_tab(context)
        page.evaluate(EXCHANGE)
        page.evaluate("""async () => {
            for (let i = 0; i < 20; i++) {
                const session = create();
                await session.accessToken();
                session.close();
            }
        }""")
        stranger.evaluate(LISTEN)
        page.evaluate("create().accessToken()")
        stranger.wait_for_timeout(300)
        assert stranger.evaluate("heard.length") == 2
