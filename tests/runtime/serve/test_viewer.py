"""The viewer in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt import bundle_search

from .test_serve import NAMES, PHOTO, SETTINGS, pixels, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

DECODED = re.compile(r"decoded on the server in \d+ ms")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    folders = tuple(bundle_search.find(name) for name in NAMES)
    with serving(replace(SETTINGS, bundle_folders=folders)) as (client, _):
        yield str(client.base_url)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, which must not have had an error when the test ends."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    found, errors = context.new_page(), []
    found.on("pageerror", lambda error: errors.append(str(error)))

    def note(message: Any) -> None:
        # That a request was answered with an error is for the page to show.
        if message.type == "error" and "/v1/" not in message.location["url"]:
            errors.append(f"{message.text} {message.location['url']}")

    found.on("console", note)
    found.goto(address)
    sync_api.expect(found.locator("#bundle option")).to_have_count(len(NAMES))
    yield found
    context.close()
    assert errors == []


def choose(page: Any, path: Path) -> None:
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#file", path)
    decoded(page)


def decoded(page: Any) -> None:
    sync_api.expect(page.locator("#status")).to_have_text(DECODED, timeout=30_000)


def size_of(page: Any) -> int:
    caption = page.locator("#right-caption").text_content()
    found = re.match(r"\.rdc, ([\d,]+) bytes", caption)
    assert found, caption
    return int(found[1].replace(",", ""))


def changed(page: Any, selector: str, value: str) -> None:
    """Choose an option and wait until what follows from it is shown."""
    page.evaluate("document.getElementById('status').textContent = ''")
    page.select_option(selector, value)


def test_photo_is_shown_beside_its_decoded_self_at_every_rate(page: Any) -> None:
    choose(page, PHOTO)
    for image in ("left", "right"):
        assert page.evaluate(f"document.getElementById('{image}').naturalWidth") == 313
    sizes = []
    for rate in ("0", "3"):
        changed(page, "#rate", rate)
        decoded(page)
        sizes.append(size_of(page))
    assert sizes[0] > 2 * sizes[1]
    changed(page, "#bundle", "diffo-tiny")
    decoded(page)
    assert size_of(page) < sizes[0]


def test_other_codecs_are_shown_at_equal_size(page: Any) -> None:
    choose(page, PHOTO)
    for name in ("jpeg", "webp"):
        page.select_option("#other", name)
        sync_api.expect(page.locator("#left-caption")).to_contain_text(name.upper(), timeout=30_000)
        caption = page.locator("#left-caption").text_content()
        n_bytes = int(re.search(r"([\d,]+) bytes", caption)[1].replace(",", ""))  # type: ignore[index]
        assert n_bytes <= size_of(page)


def test_rdc_file_is_decoded_whole_and_in_half(page: Any, tmp_path: Path) -> None:
    choose(page, PHOTO)
    with page.expect_download() as download:
        page.click("#save-rdc")
    path = tmp_path / "image.rdc"
    download.value.save_as(path)
    assert path.stat().st_size == size_of(page)

    choose(page, path)
    assert page.locator("#left").is_hidden()
    assert page.locator("#rate").is_disabled()
    page.evaluate("document.getElementById('status').textContent = ''")
    page.check("#half")
    decoded(page)
    assert size_of(page) == -(-path.stat().st_size // 2)


def test_errors_are_shown_in_the_server_s_words(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.rdc"
    path.write_bytes(b"\x89RDC\x01" + bytes(20))
    page.set_input_files("#file", path)
    sync_api.expect(page.locator("#status.error")).to_have_text(re.compile("byte"), timeout=10_000)


def test_divider_and_sharpness_work_by_keyboard(page: Any) -> None:
    choose(page, PHOTO)
    page.focus("#divide")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.getElementById('stage').style.getPropertyValue('--divide')") == "55%"
    before = page.locator("#right").get_attribute("src")
    page.focus("#sharpness")
    page.keyboard.press("ArrowRight")
    sync_api.expect(page.locator("#right")).not_to_have_attribute("src", before, timeout=30_000)
    assert page.locator("#sharpness-value").text_content() == "1.1"


def test_everything_has_a_name_and_fits_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    choose(page, PHOTO)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select')].filter((one) => !one.labels.length && !one.ariaLabel).length"
    )
    assert unnamed == 0
    assert all(page.locator(f"#{image}").get_attribute("alt") for image in ("left", "right"))


def test_page_can_be_looked_at(page: Any) -> None:
    choose(page, PHOTO)
    shot = pixels(BytesIO(page.screenshot()).getvalue())
    assert shot.std() > 20  # neither blank nor of one colour
