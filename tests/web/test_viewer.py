"""The viewer of `rdeic-rt serve --web-modules`: decoding on the server, and in the tab."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.images import psnr_db
from tests.runtime.serve.test_serve import PHOTO, SETTINGS, serving
from web import build_site

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect


@pytest.fixture(scope="module")
def address(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    site = tmp_path_factory.mktemp("site") / "site"
    build_site.write(site, photos=())
    with serving(replace(SETTINGS, web_modules=site)) as (client, _):
        yield str(client.base_url)


def test_file_is_decoded_on_the_server_and_in_the_tab(browser: Any, address: str) -> None:
    context = browser.new_context()
    page, errors, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    expect(page.locator("#bundle option")).to_have_count(1)
    page.set_input_files("#file", PHOTO)
    expect(page.locator("#status")).to_have_text(re.compile(r"decoded on the server in \d+ ms"), timeout=60_000)
    assert page.evaluate("crossOriginIsolated")
    there = saved(page)

    asked.clear()
    page.select_option("#where", "here")
    expect(page.locator("#status")).to_have_text(re.compile(r"decoded in this tab in \d+ ms"), timeout=120_000)
    assert [url for url in asked if url.endswith(("/v1/decode", "/v1/encode"))] == []
    assert any("/bundles/tiny-2/" in url for url in asked)
    here = saved(page)
    assert psnr_db(here, there) > 35  # 8-bit graphs round differently on every machine
    page.check("#half")
    expect(page.locator("#right-caption")).to_contain_text(" of ", timeout=60_000)
    assert saved(page).tobytes() != here.tobytes()
    context.close()
    assert errors == []


def test_there_is_no_switch_without_modules(browser: Any) -> None:
    with serving(SETTINGS) as (client, _):
        context = browser.new_context()
        page = context.new_page()
        page.goto(str(client.base_url))
        expect(page.locator("#bundle option")).to_have_count(1)
        page.set_input_files("#file", PHOTO)
        expect(page.locator("#figure")).to_be_visible(timeout=60_000)
        assert page.locator("#where").is_hidden()
        context.close()


def saved(page: Any) -> Any:
    with page.expect_download() as download:
        page.click("#save-png")
    return np.asarray(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB"))
