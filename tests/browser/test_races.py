"""`bakrypt.js` when two things happen at once. In Node, where the sessions are the tabs."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, host

from bakrypt_proxy.sandbox import Sandbox

__all__ = ["host"]  # a fixture is used by its name
MODULE = Path(__file__).parents[2] / "bakrypt_proxy" / "browser" / "bakrypt.js"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")
START = """
const { BakryptSession } = await import("./bakrypt.mjs");
const create = () => new BakryptSession({ base, timeout: 5000 });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const attempt = (work) => work.catch(({ error }) => error);
const alice = (session) => session.signIn("alice", "alice-password");
const bob = (session) => session.signIn("bob", "bob-password");
const real = fetch;
let slow = 0; // by how many ms the reply to a refresh is late
globalThis.fetch = async (url, init) => {
  const late = init.body.includes("refresh") ? slow : 0;
  const reply = await real(url, init);
  await sleep(late);
  return reply;
};
const [one, two] = [create(), create()];
const print = (...values) => console.log(JSON.stringify(values));
"""
END = "\none.close(); two.close(); process.exit(0);"


@pytest.fixture
def tabs(tmp_path: Path, host: Host, sandbox: Sandbox) -> Any:
    """A function that runs code with two tabs, and returns what it prints."""
    sandbox.delay = 0.2

    def run(code: str) -> list[Any]:
        shutil.copy(MODULE, tmp_path / "bakrypt.mjs")
        file = tmp_path / "run.mjs"
        with host.serve() as url:
            file.write_text(f"const base = {url + '/auth'!r};{START}{code}{END}")
            command = [str(NODE), str(file)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        values: list[Any] = json.loads(done.stdout)
        return [sandbox.store.owner(value) or value for value in values]

    return run


@pytest.mark.parametrize("begin", ["", "attempt(one.exchange());"])
def test_a_call_of_a_session_that_is_closed(tabs: Any, begin: str) -> None:
    """It is aborted, which asks nobody to sign in again."""
    code = f"{begin} const call = attempt(one.accessToken()); one.close(); print(await call)"
    assert tabs(code) == ["aborted"]


@pytest.mark.parametrize(("begin", "owner"), [("one.exchange()", "account"), ("bob(one)", "bob")])
def test_a_call_just_before_it_begins(tabs: Any, begin: str, owner: str) -> None:
    """As of an effect of a child in React: the call waits, and takes no other user's token."""
    code = f"""
        await alice(two);
        const call = attempt(one.accessToken());
        const begun = {begin};
        await sleep(150);
        const later = attempt(one.accessToken());
        print(await call, await later);
    """
    assert tabs(code) == [owner, owner]


def test_two_calls_of_a_new_tab(tabs: Any) -> None:
    """The second asks the other tabs just before the first looks at their answers."""
    code = """
        await alice(two);
        const calls = [attempt(one.accessToken())];
        setTimeout(() => calls.push(attempt(one.accessToken())), 0);
        const start = performance.now();
        await sleep(60);
        while (performance.now() - start < 110); // both timers are due
        const second = attempt(one.accessToken());
        print(await calls[0], await second);
    """
    assert tabs(code) == ["alice", "alice"]


def test_a_sign_out_while_a_new_tab_asks(tabs: Any) -> None:
    """The token that it was told is forgotten."""
    code = """
        await alice(two);
        const call = attempt(one.accessToken());
        await sleep(50);
        two.signOut();
        print(await call);
    """
    assert tabs(code) == ["login_required"]


def test_a_sign_out_while_a_call_waits_for_a_renewal(tabs: Any) -> None:
    """The call does not fall back to the token, although it lives."""
    code = """
        await alice(one);
        const rejected = await one.accessToken();
        const first = attempt(one.accessToken({ rejected }));
        const second = attempt(one.accessToken());
        await sleep(200);
        one.signOut();
        print(await first, await second);
    """
    assert tabs(code) == ["aborted", "aborted"]


def test_a_refused_token_without_a_life(tabs: Any, host: Host) -> None:
    """Until the next try the tab is quiet."""
    host.reply = {"access_token": "access", "refresh_token": "refresh"}
    code = """
        await alice(one);
        const rejected = await one.accessToken();
        let messages = 0;
        const channel = new BroadcastChannel(base);
        channel.onmessage = () => (messages += 1);
        globalThis.fetch = (_, init) => real("http://127.0.0.1:9/", init); // nobody listens
        await attempt(one.accessToken({ rejected }));
        await sleep(2500);
        channel.close();
        print(messages);
    """
    assert tabs(code)[0] < 10


def test_another_users_renewal_ends(tabs: Any, host: Host) -> None:
    """Bob's, which began meanwhile, is still one for all callers."""
    code = """
        await alice(one);
        slow = 1500;
        const hers = attempt(one.accessToken({ rejected: await one.accessToken() }));
        await sleep(500);
        await bob(one);
        const rejected = await one.accessToken();
        await sleep(300);
        const calls = [attempt(one.accessToken({ rejected }))];
        hers.then(() => calls.push(attempt(one.accessToken({ rejected }))));
        await hers;
        await sleep(0);
        const [first, second] = await Promise.all(calls);
        print(first, first === second);
    """
    assert tabs(code) == ["bob", True]
    assert host.posts["/auth/token/"] == 4


def test_another_users_renewal_outlives_the_tab(tabs: Any) -> None:
    """Alice's other tab hears of it, although Bob signed in here before the tab was closed."""
    code = """
        await alice(one);
        const rejected = await two.accessToken();
        slow = 1500;
        attempt(one.accessToken({ rejected }));
        await sleep(500);
        await bob(one);
        await one.close();
        await sleep(100);
        print(await attempt(two.accessToken({ rejected })));
    """
    assert tabs(code) == ["alice"]


def test_another_user_signs_out_during_a_renewal(tabs: Any) -> None:
    """Alice's, which began before Bob signed in: her other tab hears of it all the same."""
    code = """
        await alice(one);
        const rejected = await two.accessToken();
        slow = 1000;
        const hers = attempt(one.accessToken({ rejected }));
        await sleep(400);
        await bob(one);
        one.signOut();
        const outcome = await hers;
        await sleep(100);
        print(outcome, await attempt(two.accessToken({ rejected })));
    """
    assert tabs(code) == ["aborted", "alice"]


def test_the_rejected_token_of_another_user(tabs: Any) -> None:
    """Alice's upload is not sent again as Bob."""
    code = """
        await alice(one);
        const rejected = await one.accessToken();
        await bob(one);
        print(await attempt(one.accessToken({ rejected })), await one.accessToken());
    """
    assert tabs(code) == ["aborted", "bob"]
