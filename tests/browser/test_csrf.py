"""`bakrypt.js` in an app with Flask-WTF's CSRF protection, as `docs/existing-apps.md` shows it."""

from collections.abc import Iterator

import pytest
from browsing import browser, needs_chromium
from conftest import serve
from flask import Flask
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf
from hosts import EXCHANGE, PAGE, open_tab
from playwright.sync_api import Browser, Page

from bakrypt_proxy import create_blueprint
from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser"]  # a fixture is used by its name
pytestmark = needs_chromium
TOKEN = '<meta name="csrf-token" content="{}">'
WITH_HEADERS = """() => {
    const token = document.querySelector("meta[name=csrf-token]").content;
    window.session = create({ headers: { "X-CSRFToken": token } });
}"""


@pytest.fixture
def is_exempt(request: pytest.FixtureRequest) -> bool:
    """Whether the blueprint is exempt from the host's protection."""
    return bool(getattr(request, "param", False))


@pytest.fixture
def page(browser: Browser, sandbox: Sandbox, is_exempt: bool) -> Iterator[Page]:
    """A page of a host app that protects each POST."""
    app = Flask("host")
    app.config.from_mapping(sandbox.environ, SECRET_KEY="planted")
    csrf = CSRFProtect(app)
    blueprint = create_blueprint(authorize=lambda: True)
    if is_exempt:
        csrf.exempt(blueprint)
    app.register_blueprint(blueprint)
    app.add_url_rule("/", view_func=lambda: PAGE + TOKEN.format(generate_csrf()))
    with serve(app) as url, browser.new_context(base_url=url) as context:
        page = open_tab(context)
        yield page
        page.close()


def test_without_either(page: Page) -> None:
    """The host answers each POST with 400, which is not final."""
    error = page.evaluate(EXCHANGE)
    assert (error["status"], error["error"], error["isFinal"]) == (400, "invalid_request", False)
    assert error["message"] == "The CSRF token is missing."


def test_headers(page: Page) -> None:
    """The host's token is sent with each request."""
    page.evaluate(WITH_HEADERS)
    assert page.evaluate(EXCHANGE) is None


@pytest.mark.parametrize("is_exempt", [True], indirect=True)
def test_exempt(page: Page) -> None:
    """The blueprint's own check is enough."""
    assert page.evaluate(EXCHANGE) is None
