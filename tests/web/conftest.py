"""The package in Debian's Chromium, driven by Playwright, from a static server with a strict content security policy.

`.ci/web` builds the package and runs these tests; elsewhere they are skipped unless it is built.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from tests.conftest import REPOSITORY

from .server import CSP, ISOLATION, Site, serving

SOURCE = REPOSITORY / "web" / "rdeic-web"
PACKAGE = SOURCE / "build"  # as it is published
RUNTIME = SOURCE / "node_modules" / "onnxruntime-web"
NOT_BUILT = "web/rdeic-web is not built"
SCRIPT = Path(__file__).with_name("page.js")


def is_built() -> bool:
    return (PACKAGE / "wasm" / "rdeic.wasm").is_file() and (RUNTIME / "package.json").is_file()


@pytest.fixture(autouse=True, scope="session")
def built() -> None:
    if not is_built():
        pytest.skip(NOT_BUILT)


def site(**changes: Any) -> Site:
    """Return a site with the package, onnxruntime-web, bundles and golden files."""
    folders = {
        "/modules/rdeic-web/": PACKAGE,
        "/modules/onnxruntime-web/": RUNTIME,
        "/bundles/": REPOSITORY / "engines",
        "/golden/": REPOSITORY / "tests" / "golden",
    }
    settings: dict[str, Any] = {"folders": folders, "headers": {"Content-Security-Policy": CSP}} | changes
    made = Site(**settings)
    made.contents["/page.js"] = SCRIPT.read_bytes()
    return made


@pytest.fixture(scope="module")
def served() -> Iterator[Site]:
    with serving(site()) as made:
        yield made


@pytest.fixture(scope="module")
def isolated() -> Iterator[Site]:
    """A site whose pages may have threads."""
    with serving(site(headers={"Content-Security-Policy": CSP, **ISOLATION})) as made:
        yield made


@pytest.fixture(scope="session")
def rdc(codec: rdeic_rt.Codec, photo: NDArray[np.uint8]) -> bytes:
    """A small file of the default bundle, 192x128 pixels."""
    return codec.encode(photo[:128, :192])


@dataclass(frozen=True)
class Page:
    """A page that has loaded page.js.

    Attributes:
        raw: Playwright's page.
        errors: what the browser's console has shown as errors.
    """

    raw: Any
    errors: list[str]

    def call(self, name: str, *arguments: object) -> Any:
        """Call a function of page.js and return its result."""
        return self.raw.evaluate("([name, given]) => globalThis.page[name](...given)", [name, list(arguments)])

    def load(self, bundle: str, name: str = "decoder", **options: object) -> Any:
        """Load a decoder, and return what it says of its bundle."""
        facts = self.call("load", name, bundle, options)
        assert "error" not in facts, facts
        return facts

    def decode(self, file: str, name: str = "decoder", **options: object) -> Any:
        """Decode a file, and return the details with the image as an array, uint8 [H, W, 3]."""
        found = self.call("decode", name, file, options)
        assert "error" not in found, found
        found["image"] = pixels(found)
        return found


def pixels(found: Any) -> NDArray[np.uint8]:
    rgba = np.frombuffer(base64.b64decode(found.pop("data")), np.uint8).reshape(found["height"], found["width"], 4)
    assert (rgba[..., 3] == 255).all()
    return rgba[..., :3]


Open = Callable[..., Page]


@contextmanager
def opening(default: Any) -> Iterator[Open]:
    """Yield what opens a page of a site, by default in this browser; no page may have had an error when this ends."""
    contexts: list[Any] = []
    pages: list[Page] = []

    def opened(at: Site, browser: Any = default) -> Page:
        contexts.append(browser.new_context())
        errors: list[str] = []
        page = Page(contexts[-1].new_page(), errors)
        page.raw.on("pageerror", lambda error: errors.append(str(error)))
        page.raw.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.raw.set_default_timeout(120_000)
        page.raw.goto(at.address)
        page.raw.wait_for_function("globalThis.page !== undefined")
        pages.append(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [page.errors for page in pages if page.errors] == []


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    with opening(browser) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(browser: Any, served: Site) -> Iterator[Page]:
    """A page without threads, for all tests of a module."""
    with opening(browser) as opened:
        yield opened(served)


def close_images(found: NDArray[np.uint8], wanted: NDArray[np.uint8], levels: int = 1) -> None:
    """Assert that two images differ by so many levels at most."""
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= levels
