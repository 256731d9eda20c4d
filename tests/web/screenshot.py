"""The demo as docs/web.md shows it: python -m tests.web.screenshot SITE docs/images/web-demo.webp

SITE is a folder that web/build_site.py made.
"""

from __future__ import annotations

import re
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.browser import launch

from .server import Site, serving

SAMPLE = "chelsea.tiny-2.largest.rdc"


def main(folder: str, target: str) -> None:
    """Write the screenshot."""
    with serving(Site({"/": Path(folder)}, {"/": Path(folder, "index.html").read_bytes()})) as site:
        with sync_playwright() as playwright:
            browser = launch(playwright)
            page = browser.new_page(viewport={"width": 760, "height": 860})
            page.goto(f"{site.address}/#{SAMPLE}")
            expect(page.locator("#status")).to_have_text(re.compile("Decoded here"), timeout=120_000)
            page.select_option("#other", "jpeg")
            expect(page.locator("#left-caption")).to_contain_text("JPEG")
            page.wait_for_load_state("networkidle")
            Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB").save(target, quality=80)
            browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
