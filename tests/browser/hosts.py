"""A host app whose page loads `bakrypt.js`, and tabs on it."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from conftest import create_app, serve
from flask import Request, Response
from flask.typing import ResponseReturnValue
from playwright.sync_api import Browser, BrowserContext, Page

from bakrypt_proxy.sandbox import Sandbox

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

HTML = {"Content-Type": "text/html"}
PAGE = """<!doctype html><title>test</title><script type="module">
import { BakryptSession, BakryptError } from "/auth/bakrypt.js";
Object.assign(window, { BakryptSession, BakryptError });
window.create = (options) => {
  const session = new BakryptSession(options);
  session.events = [];
  for (const name of ["renewed", "lost"]) {
    session.addEventListener(name, (event) => session.events.push([name, event.detail]));
  }
  return session;
};
window.plain = ({ name, status, error, message, retryAfter, isFinal }) => {
  return { name, status, error, message, retryAfter, isFinal };
};
window.attempt = (work) => work().catch(plain);
window.session = create({ base: "/auth", timeout: 5000 });
window.events = session.events;
window.count = (name) => session.events.filter((event) => event[0] === name).length;
</script>"""

SIGN_IN = "() => attempt(() => session.signIn('alice', 'alice-password'))"
SIGN_IN_BOB = "() => attempt(() => session.signIn('bob', 'bob-password'))"
EXCHANGE = "() => attempt(() => session.exchange())"
TOKEN = "() => attempt(() => session.accessToken())"


class Host:
    """An app with the blueprint and the page above.

    `posts` counts the POSTs of the pages by path; `given` are the access tokens that the blueprint
    gave them. `reply`, if set, is what something between the page and the blueprint answers
    instead. While `silent` is set, nothing is answered at all.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.posts: Counter[str] = Counter()
        self.given: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.reply: ResponseReturnValue | None = None
        self.silent = False
        self._end = threading.Event()
        self.app = create_app(sandbox.environ)
        self.app.add_url_rule("/", view_func=lambda: PAGE)
        self.app.after_request(self._note)
        self._app = self.app.wsgi_app
        self.app.wsgi_app = self._stand_between  # type: ignore[assignment]

    def _stand_between(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            request = Request(environ)
            self.posts[request.path] += 1
            self.headers.append(dict(request.headers))
            if self.silent:
                self._end.wait(20)
            if self.reply is not None:
                with self.app.app_context():
                    return self.app.make_response(self.reply)(environ, start)
        return self._app(environ, start)

    def _note(self, response: Response) -> Response:
        if response.is_json and "access_token" in (found := response.get_json()):
            self.given.add(found["access_token"])
        return response

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve it and give its address."""
        with serve(self.app) as url:
            try:
                yield url
            finally:
                self._end.set()


@pytest.fixture
def host(sandbox: Sandbox) -> Host:
    """A host app against the sandbox."""
    return Host(sandbox)


@pytest.fixture
def context(browser: Browser, host: Host) -> Iterator[BrowserContext]:
    """A browser on the app's address. An error that the page does not catch fails the test."""
    faults: list[str] = []
    with host.serve() as url, browser.new_context(base_url=url) as context:
        context.on("weberror", lambda error: faults.append(str(error.error)))
        yield context
        for page in context.pages:
            page.close()
    assert faults == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """One tab."""
    return open_tab(context)


def open_tab(context: BrowserContext, before: str = "") -> Page:
    """Open a tab with a session. `before` is a script that runs before those of the page."""
    page = context.new_page()
    page.add_init_script(before)
    page.goto("/")
    page.wait_for_function("window.attempt !== undefined")
    return page


@contextmanager
def frozen(*tabs: Page) -> Iterator[None]:
    """Freeze tabs, as a browser does to save memory: none of their code runs.

    Chromium freezes no tab that it thinks visible, as all of a test are; its debugger does.
    """
    debuggers = [tab.context.new_cdp_session(tab) for tab in tabs]
    for debugger in debuggers:
        debugger.send("Debugger.enable")
        debugger.send("Debugger.pause")
    yield
    for debugger in debuggers:
        debugger.send("Debugger.disable")


def owner(sandbox: Sandbox, page: Page) -> str | None:
    """Return whose living token a tab hands out."""
    token: Any = page.evaluate(TOKEN)
    return sandbox.store.owner(token) if isinstance(token, str) else token["error"]
