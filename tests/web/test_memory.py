"""A hundred decodes take no more memory than ten: the resident memory of the page's process, with its worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt

from .conftest import Page, opening
from .server import Site

DECODES = """async (count) => {
    const { decoder } = globalThis.page.decoders;
    const data = await (await fetch("/photo.rdc")).arrayBuffer();
    for (let i = 0; i < count; ++i) await decoder.decode(data);
}"""
SIDE_PX = 128
# 50 kB a decode, of the several megabytes that each works on.
ALLOWED_BYTES = 4_000_000


def resident_bytes(page: Page, browser: Any) -> int:
    """Return the resident memory of the page's process, without garbage of JavaScript."""
    for place in (page.raw, *page.raw.workers):
        place.evaluate("gc()")
    page.raw.wait_for_timeout(500)  # memory is given back by other threads
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    sizes = []
    for process in processes:
        if process["type"] == "renderer":
            status = Path(f"/proc/{process['id']}/status").read_text()
            sizes.append(int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024)
    return max(sizes)


@pytest.fixture(scope="module")
def page(launch: Any, served: Site, codec: rdeic_rt.Codec, photo: NDArray[np.uint8]) -> Any:
    served.contents["/photo.rdc"] = codec.encode(photo[:SIDE_PX, :SIDE_PX])
    browser = launch("--js-flags=--expose-gc")
    with opening(browser) as opened:
        page = opened(served)
        page.load("/bundles/tiny-2")
        yield page, browser


def test_hundred_decodes_do_not_grow(page: Any) -> None:
    page, browser = page
    page.raw.evaluate(DECODES, 20)
    before = resident_bytes(page, browser)

    page.raw.evaluate(DECODES, 80)

    assert resident_bytes(page, browser) - before < ALLOWED_BYTES


def test_what_is_kept_is_seen(page: Any) -> None:
    page, browser = page
    before = resident_bytes(page, browser)
    page.raw.evaluate(f"globalThis.kept = new Uint8Array({2 * ALLOWED_BYTES}).fill(1)")
    assert resident_bytes(page, browser) - before > ALLOWED_BYTES
