"""The app of `docs/browser.md`, built with Vite and TypeScript and used in two tabs."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from browsing import browser, needs_chromium
from hosts import Host, host
from packages import needs_npm, npm
from playwright.sync_api import Browser, expect

from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser", "host"]  # a fixture is used by its name
ROOT = Path(__file__).parents[2]
APP = Path(__file__).with_name("vite_app")
NEEDS = [*needs_npm, *needs_chromium]
FILES = re.compile(r"```tsx?\n// (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def app_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app as a reader of the docs would have it, with its packages installed."""
    folder = tmp_path_factory.mktemp("vite") / "app"
    shutil.copytree(APP, folder)
    for name, code in FILES.findall((ROOT / "docs" / "browser.md").read_text("utf-8")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    quiet = ["--silent", "--no-audit", "--no-fund"]
    npm(folder, "ci", *quiet)
    browser_files = str(ROOT / "bakrypt_proxy" / "browser")
    npm(folder, "install", "--install-links", *quiet, browser_files)
    return folder


@contextmanager
def develop(folder: Path, proxy: str, api: str) -> Iterator[str]:
    """Run Vite's development server in front of a host app and give its address."""
    for name, old, new in (
        ("vite.config.ts", "http://127.0.0.1:5000", proxy),
        ("src/main.tsx", "https://testnet.bakrypt.io", api),
    ):
        code = (folder / name).read_text()
        assert old in code
        (folder / name).write_text(code.replace(old, new))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    vite = ["npm", "run", "dev", "--", "--host", "127.0.0.1", "--port", str(port), "--strictPort"]
    process = subprocess.Popen(vite, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def wait_for(url: str) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + 60
    while True:
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def test_the_lock_file_names_no_registry() -> None:
    """It works with any."""
    lock = json.loads((APP / "package-lock.json").read_text("utf-8"))
    assert lock["packages"]
    assert not any("resolved" in package for package in lock["packages"].values())


class TestViteApp:
    """As the docs have it."""

    pytestmark = NEEDS

    def test_it_builds(self, app_folder: Path) -> None:
        """TypeScript finds no error, and the bundle holds the module."""
        npm(app_folder, "run", "build")
        (bundle,) = (app_folder / "dist" / "assets").glob("*.js")
        assert "BAKRYPT_ALLOWED_ORIGINS" in bundle.read_text("utf-8")

    def test_two_tabs(
        self, app_folder: Path, browser: Browser, host: Host, sandbox: Sandbox
    ) -> None:
        """In StrictMode, behind the development proxy: one token for both, past its end."""
        sandbox.expires_in = 5
        with (
            host.serve() as proxy,
            develop(app_folder, proxy, sandbox.url) as url,
            browser.new_context(base_url=url) as context,
        ):
            tabs = [context.new_page() for _ in range(2)]
            for tab in tabs:
                tab.goto("/")
                expect(tab.locator("p")).to_have_text(re.compile("^[1-9] tokens so far$"))
            sandbox.expires_in = 600
            for tab in tabs:
                expect(tab.locator("p")).to_have_text("2 tokens so far", timeout=15_000)
                tab.get_by_role("button", name="Count").click()
                expect(tab.locator("output")).to_have_text("0 assets")
            assert sandbox.calls["/auth/exchange/"] == 2
            tabs[0].get_by_role("button", name="Sign out").click()
            for tab in tabs:
                expect(tab.locator("p")).to_have_text("Sign in again: signed out.")
            for tab in tabs:
                tab.close()
