"""`bakrypt.js`, each grant in each number of tabs, through what happens in a day: calls go on."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from browsing import browser, needs_chromium
from hosts import Host, frozen, open_tab
from playwright.sync_api import Browser, Page

from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser"]  # a fixture is used by its name
pytestmark = [*needs_chromium, pytest.mark.timeout(120)]

GRANTS = {"exchange": "/auth/exchange/", "sign-in": "/auth/token/"}
TABS = {"one tab": [1], "two tabs": [1, 1], "five tabs": [1] * 5, "two sessions in a tab": [2]}
LIFE = 3  # seconds
OPEN_SESSIONS = """async ({ api, grant, isFirst, count }) => {
    window.sessions = Array.from({ length: count }, () => create({ timeout: 5000 }));
    for (const [i, session] of sessions.entries()) {
        if (grant === "exchange") await session.exchange();
        else if (isFirst && i === 0) await session.signIn("alice", "alice-password");
        else await session.accessToken();
        session.answers = [];
        session.timer = setInterval(async () => {
            const ask = async () => (await session.fetch(`${api}/v1/assets/`)).status;
            session.answers.push(await ask().catch((error) => error.error));
        }, 300);
    }
}"""
LOOK = """() => sessions.map(({ events, answers }) => ({
    renewed: events.filter(([name]) => name === "renewed").length,
    lost: events.filter(([name]) => name === "lost").length,
    answers,
}))"""
EACH = "() => sessions.every((session) => {condition})"
RENEWED = "session.events.filter(([name]) => name === 'renewed').length"


class Group:
    """The tabs of one cell: a browser context, a host and a sandbox of their own."""

    def __init__(self, sandbox: Sandbox, host: Host, tabs: list[Page], grant: str) -> None:
        self.sandbox = sandbox
        self.host = host
        self.tabs = tabs
        self.grant = grant

    @property
    def calls(self) -> int:
        """The tokens that bakrypt was asked for."""
        return self.sandbox.calls[GRANTS[self.grant]]

    @property
    def given(self) -> int:
        """The tokens that reached a page.

        The server may have asked for one more, in the background, which ended before a page asked.
        """
        given = len(self.host.given)
        assert given <= self.calls <= given + (self.grant == "exchange")
        return given

    def wait(self, condition: str, *, but: Page | None = None) -> None:
        """Wait until it holds for each session of all tabs but one."""
        for tab in self.tabs:
            if tab is not but:
                tab.wait_for_function(EACH.format(condition=condition))

    def look(self) -> list[dict[str, Any]]:
        """Return what each session has met."""
        return [found for tab in self.tabs for found in tab.evaluate(LOOK)]

    def wait_for_the_last(self, *, but: Page | None = None) -> None:
        """Wait until all sessions have the token that lives long."""
        self.wait("session.events.at(-1)[1].expiresIn > 500", but=but)


@contextmanager
def open_groups(browser: Browser, grant: str) -> Iterator[list[Group]]:
    """Open all numbers of tabs at once."""
    with ExitStack() as stack:
        groups = []
        for counts in TABS.values():
            sandbox = stack.enter_context(Sandbox(expires_in=LIFE).listen())
            host = Host(sandbox)
            url = stack.enter_context(host.serve())
            context = stack.enter_context(browser.new_context(base_url=url))
            tabs = [open_tab(context) for _ in counts]
            groups.append(Group(sandbox, host, tabs, grant))
        for group in groups:
            for tab, count in zip(
                group.tabs, list(TABS.values())[groups.index(group)], strict=True
            ):
                options = {"api": group.sandbox.url, "grant": grant, "count": count}
                tab.evaluate(OPEN_SESSIONS, options | {"isFirst": tab is group.tabs[0]})
        yield groups


@pytest.mark.parametrize("grant", GRANTS)
def test_past_two_ends_of_a_token(browser: Browser, grant: str) -> None:
    """One call of bakrypt for all and one event in each, each time."""
    with open_groups(browser, grant) as groups:
        for group in groups:
            group.wait(f"{RENEWED} >= 2")
            group.sandbox.expires_in = 600
        for group in groups:
            group.wait_for_the_last()
            found = group.look()
            assert group.calls >= 3
            assert [met["renewed"] for met in found] == [group.calls] * len(found)
            assert {met["lost"] for met in found} == {0}
            assert {answer for met in found for answer in met["answers"]} == {200}


@pytest.mark.parametrize("grant", GRANTS)
def test_during_an_outage(browser: Browser, grant: str) -> None:
    """It lasts past the end of the token. Nothing is lost, and all together make a few attempts."""
    with open_groups(browser, grant) as groups:
        before = []
        for group in groups:
            group.host.reply = "<h1>Bad gateway</h1>", 502, {"Content-Type": "text/html"}
            before.append(sum(group.host.posts.values()))
        for group in groups:
            group.wait("session.answers.includes('bad_reply')")
        groups[0].tabs[0].wait_for_timeout(1500)
        for group, count in zip(groups, before, strict=True):
            assert sum(group.host.posts.values()) - count <= 7
            group.sandbox.expires_in = 600
            group.host.reply = None
        for group in groups:
            group.wait_for_the_last()
            group.wait("session.answers.at(-1) === 200")
            found = group.look()
            assert {met["lost"] for met in found} == {0}
            assert {answer for met in found for answer in met["answers"]} == {200, "bad_reply"}
            assert [met["renewed"] for met in found] == [group.given] * len(found)


@pytest.mark.parametrize("grant", GRANTS)
def test_with_a_frozen_tab(browser: Browser, grant: str) -> None:
    """It sleeps through the ends of two tokens; the others go on, and afterwards it does, too."""
    with open_groups(browser, grant) as groups:
        several = [group for group in groups if len(group.tabs) > 1]
        with frozen(*(group.tabs[-1] for group in groups)):
            for group in several:
                group.wait(f"{RENEWED} >= 2", but=group.tabs[-1])
            for group in groups:
                group.sandbox.expires_in = 600
            for group in several:
                group.wait_for_the_last(but=group.tabs[-1])
        for group in several:
            awake, *_, asleep = group.look()
            assert len(asleep["answers"]) < len(awake["answers"]) / 2
        for group in groups:
            group.wait_for_the_last()
            group.wait("session.answers.at(-1) === 200")
            found = group.look()
            assert max(met["renewed"] for met in found) == group.given
            assert {met["lost"] for met in found} == {0}
            assert {answer for met in found for answer in met["answers"]} == {200}


@pytest.mark.parametrize("grant", GRANTS)
def test_after_a_sign_out_in_one(browser: Browser, grant: str) -> None:
    """All are told, and none begins by itself; one signs in as Bob, and only it makes calls."""
    with open_groups(browser, grant) as groups:
        for group in groups:
            group.tabs[0].evaluate("sessions[0].signOut()")
        for group in groups:
            group.wait("session.events.at(-1)[0] === 'lost'")
            group.sandbox.calls.clear()
            group.sandbox.expires_in = 600
            group.tabs[0].evaluate("sessions[0].signIn('bob', 'bob-password')")
            group.tabs[0].wait_for_function("() => sessions[0].answers.at(-1) === 200")
            signed_in, *others = group.look()
            group.tabs[0].wait_for_timeout(300)
            assert (signed_in["lost"], signed_in["answers"][-1]) == (1, 200)
            for met in others:
                assert (met["lost"], met["answers"][-1]) == (1, "login_required")
            assert [group.sandbox.calls[path] for path in GRANTS.values()] == [0, 1]
