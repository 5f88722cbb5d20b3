"""Takes the pictures of the page that stand beside this file: `make screenshots`."""

import logging
import tempfile
from pathlib import Path
from typing import Literal

from browsing import start_chromium
from conftest import serve
from playwright.sync_api import Browser, ViewportSize, expect

from app import create_app

FOLDER = Path(__file__).parent
Scheme = Literal["light", "dark"]
PICTURES: dict[str, tuple[Scheme, int, int]] = {
    "page-light.png": ("light", 1180, 1120),
    "page-dark.png": ("dark", 1180, 1120),
    "page-phone.png": ("light", 375, 1300),
}


def main() -> None:
    """Start the app with its sandbox and take them all."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    app = create_app({"BAKRYPT_NETWORK": "sandbox"})
    with app.extensions["bakrypt_sandbox"], serve(app) as url, start_chromium() as browser:
        for name, (scheme, width, height) in PICTURES.items():
            size: ViewportSize = {"width": width, "height": height}
            take(browser, url, FOLDER / name, scheme=scheme, size=size)


def take(browser: Browser, url: str, path: Path, *, scheme: Scheme, size: ViewportSize) -> None:
    """Use the page as a visitor would, and take its picture."""
    with browser.new_context(color_scheme=scheme, viewport=size) as context:
        page = context.new_page()
        page.goto(url)
        forms = page.locator("#without-token")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "gold.txt")
            file.write_bytes(b"gold")
            forms.get_by_label("File", exact=True).set_input_files(file)
            forms.get_by_role("button", name="Upload").click()
            expect(page.locator("#public-uploaded")).to_be_visible()
        forms.get_by_label("Asset name").fill("Gold")
        forms.get_by_role("button", name="Create").click()
        expect(page.locator("#public-created")).to_be_visible()
        page.locator("#calls summary").first.click()
        page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
        page.wait_for_timeout(300)  # until it has scrolled
        page.screenshot(path=path)


if __name__ == "__main__":
    main()
