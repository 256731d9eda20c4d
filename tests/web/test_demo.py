"""The demo as web/build_site.py lays it out, below a path of a static server."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import rdeic_rt
from rdeic_rt import DecodeOptions
from tests.conftest import EMBEDDED_BUNDLE, GOLDEN_BUNDLE
from tests.images import psnr_db
from web import build_site

from .conftest import SOURCE
from .server import Site, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

DECODED = re.compile(r"Decoded here in \d+\.\d\d s\.")
PREFIX = "/some/where/"
WAIT_MS = 120_000
Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(built: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with the samples of one photo."""
    made = tmp_path_factory.mktemp("demo") / "site"
    build_site.write(made, photos=["chelsea.jpg"])
    return made


@pytest.fixture(scope="module")
def sample(folder: Path) -> Any:
    (found,) = json.loads((folder / "samples" / "index.json").read_text(encoding="utf-8"))
    return found


def site(folder: Path) -> Site:
    return Site({PREFIX: folder}, {PREFIX: (folder / "index.html").read_bytes()})


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Site]:
    with serving(site(folder)) as found:
        yield found


@pytest.fixture
def visit(browser: Any, served: Site) -> Iterator[Visit]:
    """What opens the demo; console and policy must not have complained when the test ends."""
    contexts, errors = [], []

    def visiting(fragment: str = "", script: str = "", **context: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1000, "height": 900}} | context))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.add_init_script(script)
        page.goto(f"{served.address}{PREFIX}{fragment}")
        return page

    yield visiting
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def ready(browser: Any, served: Site) -> Iterator[Any]:
    """A page that has decoded, for all tests that leave it able to."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(f"{served.address}{PREFIX}")
    decoded(page)
    yield page
    context.close()
    assert errors == []


@pytest.fixture(scope="module")
def codec() -> rdeic_rt.Codec:
    return rdeic_rt.load(EMBEDDED_BUNDLE, backend="cpu", threads=1, precision="int8")


def decoded(page: Any) -> None:
    expect(page.locator("#status")).to_have_text(DECODED, timeout=WAIT_MS)


def change(page: Any, action: Callable[[], object]) -> None:
    """Do what has the page decode again, and wait until it has."""
    page.evaluate("document.getElementById('status').textContent = ''")
    action()
    decoded(page)


def shown(page: Any) -> NDArray[np.uint8]:
    """Return the decoded image as the page offers it for saving."""
    with page.expect_download() as download:
        page.click("#save-png")
    return np.asarray(Image.open(download.value.path()).convert("RGB"))


def is_of(found: NDArray[np.uint8], wanted: NDArray[np.uint8], other: NDArray[np.uint8] | None = None) -> bool:
    """Whether a decoded image is this one up to how machines round in 8-bit graphs, and not the other."""
    return psnr_db(found, wanted) > (38 if other is None else psnr_db(found, other) + 3)


def rdc(folder: Path, sample: Any, at: int = 0) -> bytes:
    name: str = sample["files"][at]["file"]
    return (folder / "samples" / name).read_bytes()


def test_samples_are_files_of_known_sizes(folder: Path, sample: Any) -> None:
    sizes = [file["bytes"] for file in sample["files"]]
    assert len(sizes) == 6
    assert sizes == sorted(sizes, reverse=True)
    assert all(200 < size < 5000 for size in sizes)
    for file in sample["files"]:
        assert (folder / "samples" / file["file"]).stat().st_size == file["bytes"]
        for other in file["others"].values():
            assert (folder / "samples" / other["file"]).stat().st_size == other["bytes"] <= file["bytes"]


def test_first_visit_decodes_a_sample_beside_the_original(
    ready: Any, folder: Path, sample: Any, codec: rdeic_rt.Codec
) -> None:
    data = rdc(folder, sample)
    assert is_of(shown(ready), codec.decode(data))
    assert ready.locator("#left-caption").text_content() == f"original, {sample['bytes']:,} bytes"
    assert ready.locator("#right-caption").text_content() == f".rdc, {len(data):,} bytes"
    assert ready.evaluate("document.getElementById('left').naturalWidth") == sample["width"]
    assert ready.url.endswith(f"#{sample['files'][0]['file']}")
    facts = ready.locator("#facts").text_content()
    assert "tiny-2 (Apache-2.0), rate largest" in facts
    assert "1 thread of WebAssembly" in facts


def test_options_of_decoding_are_those_of_the_runtime(
    ready: Any, folder: Path, sample: Any, codec: rdeic_rt.Codec
) -> None:
    data = rdc(folder, sample)
    default = codec.decode(data)
    ready.focus("#sharpness")
    change(ready, lambda: ready.keyboard.press("End"))
    assert ready.locator("#sharpness-value").text_content() == "2.0"
    assert is_of(shown(ready), codec.decode(data, DecodeOptions(sharpness=2)), default)
    change(ready, lambda: ready.locator("#sharpness").fill("1"))
    change(ready, lambda: ready.select_option("#steps", "2"))
    change(ready, lambda: (ready.fill("#seed", str(2**64 - 1)), ready.keyboard.press("Enter")))
    options = DecodeOptions(steps=2, seed=2**64 - 1)
    assert is_of(shown(ready), codec.decode(data, options), codec.decode(data, replace(options, seed=None)))
    change(ready, lambda: (ready.fill("#seed", ""), ready.keyboard.press("Enter")))
    change(ready, lambda: ready.select_option("#steps", ""))


def test_half_of_a_file_is_decoded(ready: Any, folder: Path, sample: Any, codec: rdeic_rt.Codec) -> None:
    data = rdc(folder, sample)
    half = data[: -(-len(data) // 2)]
    change(ready, lambda: ready.check("#half"))
    assert ready.locator("#right-caption").text_content() == f".rdc, {len(half):,} bytes of {len(data):,} bytes"
    assert is_of(shown(ready), codec.decode(half, DecodeOptions(allow_partial=True)))
    assert re.search(r"\d of \d+ slices", ready.locator("#facts").text_content())
    change(ready, lambda: ready.uncheck("#half"))


def test_other_codecs_are_shown_at_equal_size(ready: Any, sample: Any) -> None:
    for name, other in sample["files"][0]["others"].items():
        ready.select_option("#other", name)
        expect(ready.locator("#left-caption")).to_contain_text(f"{name.upper()}, {other['bytes']:,} bytes")
        expect(ready.locator("#left")).to_have_js_property("complete", True)
        assert ready.evaluate("document.getElementById('left').naturalWidth") > 0
    ready.select_option("#other", "")


def test_smallest_file_is_decoded_by_the_other_bundle(ready: Any, folder: Path, sample: Any) -> None:
    last = len(sample["files"]) - 1
    change(ready, lambda: ready.select_option("#size", str(last)))
    native = rdeic_rt.load(EMBEDDED_BUNDLE.with_name("diffo-tiny"), backend="cpu", threads=1)
    assert is_of(shown(ready), native.decode(rdc(folder, sample, last)))
    assert ready.locator("#sharpness").is_disabled()
    # What no file of another codec is small enough for is offered as such.
    absent = {"jpeg", "webp", "avif"} - set(sample["files"][last]["others"])
    assert {
        option.get_attribute("value") for option in ready.locator("#other option").all() if option.is_disabled()
    } == absent
    change(ready, lambda: ready.select_option("#size", "0"))


def test_dropped_file_is_decoded_alone(ready: Any, folder: Path, sample: Any, codec: rdeic_rt.Codec) -> None:
    data = rdc(folder, sample, 1)
    change(ready, lambda: ready.set_input_files("#file", {"name": "my.rdc", "mimeType": "", "buffer": data}))
    assert is_of(shown(ready), codec.decode(data))
    assert ready.locator("#left").is_hidden()
    assert ready.locator("#other").is_disabled()
    with ready.expect_download() as download:
        ready.click("#save-rdc")
    assert download.value.suggested_filename == "my.rdc"
    assert Path(download.value.path()).read_bytes() == data
    change(ready, lambda: ready.select_option("#size", "0"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("photo.jpg", "photo.jpg is not an .rdc file"),
        ("damaged.rdc", "checksum"),
        ("other.rdc", "no bundle"),
    ],
)
def test_file_that_cannot_be_decoded_is_explained(ready: Any, folder: Path, sample: Any, name: str, text: str) -> None:
    content = {
        "photo.jpg": b"\xff\xd8\xff\xe0",
        "damaged.rdc": rdc(folder, sample)[:-1] + b"\0",
        "other.rdc": (GOLDEN_BUNDLE.parent / "coffee_r0.rdc").read_bytes(),
    }[name]
    ready.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})
    expect(ready.locator("#status.error")).to_contain_text(text)
    change(ready, lambda: ready.select_option("#size", "0"))
    assert "error" not in (ready.locator("#status").get_attribute("class") or "")


def test_second_visit_needs_no_server(browser: Any, folder: Path) -> None:
    context = browser.new_context()
    with serving(site(folder)) as first:
        page = context.new_page()
        page.goto(f"{first.address}{PREFIX}")
        decoded(page)
        assert not page.evaluate("crossOriginIsolated")
    errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{first.address}{PREFIX}#nothing")
    decoded(page)
    assert page.evaluate("crossOriginIsolated")  # as the service worker adds the headers
    assert "0.0 MB downloaded" in page.locator("#facts").text_content()
    change(page, lambda: page.select_option("#size", "1"))  # a sample of the same model that was not looked at before
    page.select_option("#other", "avif")
    expect(page.locator("#left")).to_have_js_property("complete", True)
    assert page.evaluate("document.getElementById('left').naturalWidth") > 0
    assert errors == []
    context.close()


def test_new_version_replaces_what_was_kept(browser: Any, folder: Path) -> None:
    context = browser.new_context()
    with serving(site(folder)) as at:
        page = context.new_page()
        page.goto(f"{at.address}{PREFIX}")
        decoded(page)
        listed = "service-worker-files.js"
        text = (folder / listed).read_text(encoding="utf-8")
        at.contents[PREFIX + listed] = re.sub(r'"version": "\w+"', '"version": "0123456789abcdef"', text).encode()
        at.contents[PREFIX + "demo.css"] = b"/* new */"
        page.evaluate("async () => { await (await navigator.serviceWorker.ready).update(); }")
        page.wait_for_timeout(500)
        assert "/* new */" not in page.evaluate("async () => (await fetch('demo.css')).text()")
        page.close()  # the last page of the old version
        page = context.new_page()
        for _ in range(50):
            page.goto(f"{at.address}{PREFIX}")
            if page.evaluate("async () => (await fetch('demo.css')).text()") == "/* new */":
                break
            page.goto("about:blank")
            page.wait_for_timeout(100)
        names = page.evaluate("async () => (await caches.keys()).filter((name) => name.startsWith('rdeic-demo'))")
        assert [name.rpartition(" ")[2] for name in names] == ["0123456789abcdef"]
    context.close()


def test_linked_sample_is_opened(visit: Visit, sample: Any) -> None:
    page = visit(f"#{sample['files'][2]['file']}")
    decoded(page)
    assert page.locator("#right-caption").text_content() == f".rdc, {sample['files'][2]['bytes']:,} bytes"


def test_where_less_data_is_asked_for_nothing_is_decoded_unasked(visit: Visit, served: Site) -> None:
    before = served.sent_bytes(f"{PREFIX}bundles/tiny-2/")
    page = visit(script="Object.defineProperty(navigator, 'connection', { value: { saveData: true } })")
    button = page.get_by_role("button", name="Load the decoder")
    button.wait_for(timeout=WAIT_MS)
    assert served.sent_bytes(f"{PREFIX}bundles/tiny-2/") == before
    change(page, button.click)
    assert button.is_hidden()


def test_narrow_dark_page_without_motion_has_room_and_contrast(visit: Visit) -> None:
    page = visit(viewport={"width": 320, "height": 640}, color_scheme="dark", reduced_motion="reduce")
    decoded(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate("document.getAnimations().length") == 0
    light = Image.open(io.BytesIO(page.screenshot())).convert("L")
    assert np.median(np.asarray(light)) < 60
    assert violations(page) == []


def test_everything_is_reached_by_keyboard_in_order(ready: Any) -> None:
    ready.evaluate("document.activeElement.blur()")
    ready.mouse.click(1, 1)
    reached = []
    for _ in range(12):
        ready.keyboard.press("Tab")
        reached.append(ready.evaluate("document.activeElement.id"))
    wanted = ["file", "sample", "size", "other", "sharpness", "steps", "seed", "half", "divide", "save-rdc", "save-png"]
    assert reached[: len(wanted)] == wanted
    ready.focus("#divide")
    for _ in range(5):
        ready.keyboard.press("ArrowRight")
    assert ready.evaluate("document.getElementById('stage').style.getPropertyValue('--divide')") == "55%"
    assert ready.locator("#divide").get_attribute("aria-valuetext") == "55 % from the left"


def test_accessibility_checker_finds_nothing(ready: Any) -> None:
    assert violations(ready) == []


def violations(page: Any) -> list[Any]:
    axe = SOURCE / "node_modules" / "axe-core" / "axe.min.js"
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await globalThis.axe.run()).violations")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
