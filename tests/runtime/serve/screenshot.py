"""The viewer as docs/http.md shows it: python -m tests.runtime.serve.screenshot docs/images/viewer.webp"""

from __future__ import annotations

import sys
from io import BytesIO

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import launch

from .test_serve import PHOTO, SETTINGS, serving
from .test_viewer import decoded


def main(target: str) -> None:
    """Write the screenshot."""
    with serving(SETTINGS) as (client, _), sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": 640, "height": 830})
        page.goto(str(client.base_url))
        page.set_input_files("#file", PHOTO.with_name("chelsea.jpg"))
        decoded(page)
        page.fill("#divide", "50")
        Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB").save(target, quality=80)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
