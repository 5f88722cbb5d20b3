"""Pages of other sites in Chromium whose requests a browser calls the user's own."""

from collections.abc import Iterator

import pytest
from browsing import browser, needs_chromium
from conftest import serve
from flask import Flask, Response, request
from playwright.sync_api import Browser, Page
from processes import wait_until

from bakrypt_proxy import create_api_blueprint, create_blueprint
from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser"]  # a fixture is used by its name
pytestmark = needs_chromium
WORKER = (
    "oninstall = () => skipWaiting(); onactivate = (event) => event.waitUntil(clients.claim());"
)
FETCH = """async (url) => {
    await navigator.serviceWorker.register("/worker.js");
    const registration = await navigator.serviceWorker.ready;
    const sent = new Request(url, { method: "POST", body: "x", credentials: "include" });
    await registration.backgroundFetch.fetch(url, [sent], { title: "x" });
}"""


@pytest.fixture
def answered(sandbox: Sandbox) -> Iterator[tuple[str, list[tuple[str, str | None, int]]]]:
    """An app that is open to everybody, and what it answered: path, Sec-Fetch-Site, status."""
    app = Flask("shop")
    app.config.from_mapping(sandbox.environ)
    app.register_blueprint(create_blueprint(authorize=lambda: True))
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    found: list[tuple[str, str | None, int]] = []

    @app.after_request
    def note(response: Response) -> Response:
        found.append((request.path, request.headers.get("Sec-Fetch-Site"), response.status_code))
        return response

    with serve(app) as url:
        yield url, found


@pytest.fixture
def foreign(browser: Browser) -> Iterator[Page]:
    """A page of another site, with a service worker."""
    app = Flask("foreign")
    app.add_url_rule("/", "page", view_func=lambda: "<!doctype html><title>foreign</title>")
    script = {"Content-Type": "text/javascript"}
    app.add_url_rule("/worker.js", "worker", view_func=lambda: (WORKER, script))
    with serve(app) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url.replace("127.0.0.1", "localhost"))
        yield page
        page.close()


@pytest.mark.parametrize("path", ["/auth/exchange/", "/bakrypt/v1/files/"])
def test_a_background_fetch(
    answered: tuple[str, list[tuple[str, str | None, int]]],
    foreign: Page,
    sandbox: Sandbox,
    path: str,
) -> None:
    """A service worker asks for it, and no page is open. It needs no preflight."""
    url, found = answered
    foreign.evaluate(FETCH, url + path)
    wait_until(lambda: bool(found))
    assert found == [(path, "none", 403)]
    assert not sandbox.calls
