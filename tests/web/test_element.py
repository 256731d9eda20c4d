"""`<rdc-img>`: size before weights, preview before image, text for those who do not see it, and what goes wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

import rdeic_rt
from rdeic_rt.container import Metadata
from tests.conftest import GOLDEN_BUNDLE, PHOTOS

from .conftest import close_images, pixels, site
from .server import Site, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BUNDLE = "/golden/v1/bundle/"
FILE = "/golden/v1/chelsea_r0.rdc"
OTHER = "/golden/v1/coffee_r1.rdc"
PAGE = (
    b'<!doctype html><html lang="en"><meta charset="utf-8"><title>test</title>'
    b'<main><h1>Test</h1><p id="after">after</p></main><script type="module" src="/page.js"></script></html>'
)
Opened = Callable[..., Any]


@cache
def codec() -> rdeic_rt.Codec:
    return rdeic_rt.load(GOLDEN_BUNDLE, backend="cpu", threads=1)


def golden(name: str) -> bytes:
    return (GOLDEN_BUNDLE.parent.parent / Path(name).relative_to("/golden")).read_bytes()


@contextmanager
def element_site() -> Iterator[Site]:
    made = site()
    made.contents |= {"/": PAGE, "/page.js": Path(__file__).with_name("element.js").read_bytes()}
    with serving(made) as found:
        yield found


@pytest.fixture
def at() -> Iterator[Site]:
    with element_site() as found:
        yield found


@pytest.fixture
def opened(browser: Any, at: Site) -> Iterator[Opened]:
    """What opens the page, given a script that runs before its own; neither console nor policy may complain."""
    context = browser.new_context(viewport={"width": 600, "height": 400})
    errors: list[str] = []
    pages = []

    def opening(script: str = "", ignored: tuple[str, ...] = ()) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))

        def note(message: Any) -> None:
            if message.type == "error" and not message.location["url"].endswith(ignored or "\0"):
                errors.append(message.text)

        page.on("console", note)
        page.set_default_timeout(60_000)
        page.add_init_script(script)
        page.goto(at.address)
        pages.append(page)
        return page

    yield opening
    violations = [page.evaluate("globalThis.page.found.violations") for page in pages]
    context.close()
    assert errors == []
    assert not any(violations)


def add(page: Any, **attributes: str) -> Any:
    given = {"id": "one", "src": FILE, "alt": "A cat", "bundle": BUNDLE} | attributes
    page.evaluate("attributes => globalThis.page.add(attributes)", given)
    return page.locator(f"rdc-img#{given['id']}")


def events(page: Any) -> list[list[str | None]]:
    found: list[list[str | None]] = page.evaluate("globalThis.page.found.events")
    return found


def until(page: Any, id: str, kind: str) -> list[list[str | None]]:
    """Wait for an event of an element, and return all there were."""
    for _ in range(1200):
        if any(event[:2] == [id, kind] for event in events(page)):
            return events(page)
        page.wait_for_timeout(50)
    raise AssertionError(f"no {kind} of {id}: {events(page)}")


def shown(page: Any, id: str = "one") -> NDArray[np.uint8]:
    return pixels(page.evaluate("id => globalThis.page.pixels(id)", id))


def test_preview_is_shown_and_then_the_image(opened: Opened) -> None:
    page = opened()
    image = add(page).get_by_role("img")
    assert until(page, "one", "load") == [["one", "preview", None], ["one", "load", None]]
    preview = pixels(page.evaluate("globalThis.page.found.preview"))
    close_images(preview, codec().decode(golden(FILE), rdeic_rt.DecodeOptions(preview=True)))
    close_images(shown(page), codec().decode(golden(FILE)))
    assert image.get_attribute("aria-label") == "A cat"
    assert image.get_attribute("aria-busy") == "false"
    assert page.evaluate("document.getElementById('one').complete")


def test_size_is_there_before_any_weight_and_does_not_change(opened: Opened, at: Site) -> None:
    graph = f"{BUNDLE}vae_decoder.onnx"
    at.hang.add(graph)
    page = opened()
    element = add(page)
    page.wait_for_function("() => document.getElementById('one').naturalWidth > 0")
    height, width = codec().decode(golden(FILE)).shape[:2]
    box = element.bounding_box()
    assert (box["width"], box["height"]) == (width, height)
    assert element.get_by_role("img").get_attribute("aria-busy") == "true"
    below = page.locator("#after").bounding_box()
    assert not at.sent_bytes(graph)

    at.hang.clear()
    at.release.set()
    page.evaluate("document.getElementById('one').setAttribute('bundle', '/golden/v1/bundle')")
    until(page, "one", "load")
    assert element.bounding_box() == box
    assert page.locator("#after").bounding_box() == below


def test_attributes_and_narrow_pages_scale_the_image(opened: Opened) -> None:
    page = opened()
    height, width = codec().decode(golden(FILE)).shape[:2]
    for id, attributes, wanted in (
        ("a", {"width": "60"}, (60, 60 * height / width)),
        ("b", {"height": "60"}, (60 * width / height, 60)),
        ("c", {"width": "5000"}, (584, 584 * height / width)),  # the page's width without its margins
        ("d", {"width": "no number"}, (width, height)),
    ):
        element = add(page, id=id, **attributes)
        page.wait_for_function("id => document.getElementById(id).naturalWidth > 0", arg=id)
        box = element.bounding_box()
        np.testing.assert_allclose((box["width"], box["height"]), wanted, atol=0.1)


def test_space_is_kept_from_the_start_where_attributes_give_the_size(opened: Opened, at: Site) -> None:
    at.hang.add(FILE)
    box = add(opened(), width="120", height="80").bounding_box()
    assert (box["width"], box["height"]) == (120, 80)


def test_decoration_is_hidden_from_assistive_technology(opened: Opened) -> None:
    page = opened()
    element = add(page, alt="")
    until(page, "one", "load")
    assert element.get_by_role("img").count() == 0
    page.evaluate("document.getElementById('one').alt = ''; document.getElementById('one').setAttribute('alt', 'Now')")
    assert element.get_by_role("img").get_attribute("aria-label") == "Now"


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"src": "/missing.rdc"}, "404"),
        ({"src": "/damaged.rdc"}, "checksum"),
        ({"src": "/page.js"}, "not_rdc"),
        ({"bundle": "/missing/"}, "bundle_not_found"),
        ({"bundle": "/bundles/tiny-2/"}, "bundle_mismatch"),
        ({"src": "http://"}, "URL"),
    ],
)
def test_error_is_shown_with_the_alternative_text(
    opened: Opened, at: Site, attributes: dict[str, str], code: str
) -> None:
    data = bytearray(golden(FILE))
    data[-1] ^= 1
    at.contents["/damaged.rdc"] = bytes(data)
    page = opened(ignored=("/missing.rdc", "/missing/bundle.json"))
    element = add(page, **attributes)
    (event,) = until(page, "one", "error")
    assert code in str(event[2])
    text = element.locator("p").text_content()
    assert text.startswith("A cat (")
    assert element.get_by_role("img").count() == 0
    assert element.locator("p").is_visible()

    for name, value in {"src": FILE, "bundle": BUNDLE}.items():
        page.evaluate("([name, value]) => document.getElementById('one').setAttribute(name, value)", [name, value])
    until(page, "one", "load")
    assert element.locator("p").is_hidden()
    close_images(shown(page), codec().decode(golden(FILE)))


def test_element_without_bundle_uses_that_of_the_options_or_says_so(opened: Opened) -> None:
    page = opened()
    page.evaluate("globalThis.page.add({ id: 'one', src: '/golden/v1/chelsea_r0.rdc', alt: 'A cat' })")
    assert "bundle" in str(until(page, "one", "error")[0][2])
    page.evaluate("url => { globalThis.page.rdeic.RdcImg.options.bundle = url; }", BUNDLE)
    page.evaluate("globalThis.page.add({ id: 'two', src: '/golden/v1/chelsea_r0.rdc', alt: 'A cat' })")
    until(page, "two", "load")


def test_new_source_ends_the_work_on_the_one_before(opened: Opened) -> None:
    page = opened()
    add(page)
    page.wait_for_function("() => document.getElementById('one').naturalWidth > 0")
    page.evaluate("src => document.getElementById('one').setAttribute('src', src)", OTHER)
    assert until(page, "one", "load") == [["one", "preview", None], ["one", "load", None]]
    close_images(shown(page), codec().decode(golden(OTHER)))


def test_removed_element_ends_its_work_and_begins_anew_when_it_is_back(opened: Opened) -> None:
    page = opened()
    add(page)
    page.wait_for_function("() => document.getElementById('one').naturalWidth > 0")
    page.evaluate("() => { globalThis.kept = document.getElementById('one'); kept.remove(); }")
    add(page, id="two")
    until(page, "two", "load")
    assert [event for event in events(page) if event[0] == "one"] == []

    page.evaluate("() => document.querySelector('#after').before(globalThis.kept)")
    until(page, "one", "load")


def test_elements_of_a_bundle_share_a_worker_that_ends_when_idle(opened: Opened) -> None:
    page = opened()
    page.clock.install(time=0)
    page.clock.pause_at(1)
    for id in ("a", "b", "c"):
        add(page, id=id, src=OTHER)
    for id in ("a", "b", "c"):
        until_real(page, id)
        close_images(shown(page, id), codec().decode(golden(OTHER)))
    assert len(page.workers) == 1
    page.clock.fast_forward(11_000)
    for _ in range(100):
        if not page.workers:
            break
        page.title()
    assert page.workers == []
    page.clock.resume()
    add(page, id="d", src=OTHER)
    until(page, "d", "load")


def until_real(page: Any, id: str) -> None:
    """As `until`, where the page's clock stands still."""
    page.evaluate(
        "id => new Promise((resolve) => { const one = document.getElementById(id);"
        " if (one.complete) resolve(); else one.addEventListener('load', resolve); })",
        id,
    )


def test_lazy_element_has_its_size_but_loads_when_it_is_near(opened: Opened, at: Site) -> None:
    page = opened()
    page.evaluate("document.querySelector('h1').style.marginBottom = '5000px'")
    add(page, loading="lazy")
    page.wait_for_function("() => document.getElementById('one').naturalWidth > 0")
    page.wait_for_timeout(300)
    assert not at.sent_bytes(BUNDLE)
    page.mouse.wheel(0, 5000)
    until(page, "one", "load")


def test_where_less_data_is_asked_for_a_button_stands_in(opened: Opened, at: Site) -> None:
    page = opened("Object.defineProperty(navigator, 'connection', { value: { saveData: true } })")
    element = add(page)
    button = element.get_by_role("button", name="Load image")
    button.wait_for()
    height, width = codec().decode(golden(FILE)).shape[:2]
    assert element.bounding_box()["height"] == height
    assert not at.sent_bytes(BUNDLE)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(page, "one", "load")
    assert button.is_hidden()


def test_colour_profile_is_applied(opened: Opened, at: Site) -> None:
    with Image.open(PHOTOS / "chelsea.jpg") as photo:
        image = np.asarray(photo.convert("RGB"))[:128, :128]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    other = bytearray(profile.tobytes())
    # The colourants of red and blue change places: whoever ignores the profile shows other colours.
    red, blue = other.index(b"rXYZ"), other.index(b"bXYZ")
    other[red : red + 4], other[blue : blue + 4] = other[blue : blue + 4], other[red : red + 4]
    data = codec().encode(image, metadata=Metadata(icc=bytes(other)))
    at.contents["/profile.rdc"] = data
    page = opened()
    add(page, src="/profile.rdc")
    until(page, "one", "load")
    decoded = codec().decode(data)
    wanted = ImageCms.profileToProfile(
        Image.fromarray(decoded), ImageCms.ImageCmsProfile(io.BytesIO(bytes(other))), profile, outputMode="RGB"
    )
    found = shown(page)
    assert np.abs(found.astype(int) - np.asarray(wanted)).mean() < 3
    assert np.abs(found.astype(int) - decoded).mean() > 10


@pytest.mark.parametrize(("icc", "exif"), [(None, None), (b"profile" * 20, b"MM\0*\0\0\0\x08\0\0\0\0\0\0")])
def test_png_has_the_pixels_and_the_metadata(opened: Opened, icc: bytes | None, exif: bytes | None) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (37, 53, 4), np.uint8)
    rgba[..., 3] = 255
    coded = [None if part is None else base64.b64encode(part).decode() for part in (rgba.tobytes(), icc, exif)]
    png = opened().evaluate("given => globalThis.page.png(53, 37, ...given)", coded)
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.load()
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), rgba[..., :3])
        assert image.info.get("icc_profile") == icc
        assert image.info.get("exif") == (exif and b"Exif\0\0" + exif)
