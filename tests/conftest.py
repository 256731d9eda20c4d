"""What most tests need: photos and a codec.

Missing data fails where the environment variable CI is set and skips only at a desk; so does all else that is missing,
but for what `skips` lists.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from . import browser as browsers
from .skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  pytest finds its hooks by name

if TYPE_CHECKING:
    from rdeic_rt import Codec

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTOS = REPOSITORY / "tests" / "data" / "photos"
EMBEDDED_BUNDLE = REPOSITORY / "engines" / "tiny-2"
GOLDEN_BUNDLE = REPOSITORY / "tests" / "golden" / "v1" / "bundle"


def missing(what: str) -> NoReturn:
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def photo_paths() -> list[Path]:
    return sorted(PHOTOS.glob("*.jpg")) or missing("tests/data/photos")


@pytest.fixture(scope="session")
def photo(photo_paths: list[Path]) -> NDArray[np.uint8]:
    """A photo whose height and width are no multiples of anything, uint8 [300, 451, 3]."""
    with Image.open(next(path for path in photo_paths if path.stem == "chelsea")) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="session")
def embedded_bundle() -> Path:
    return (
        EMBEDDED_BUNDLE
        if (EMBEDDED_BUNDLE / "bundle.json").is_file()
        else missing("the embedded bundle engines/tiny-2")
    )


@pytest.fixture(scope="session")
def golden_bundle() -> Path:
    """A whole bundle of 2 MB with random weights and every kind of layer; tests must not change it.

    Unlike the embedded one it has no levels: each of its two rates has graphs and a number of steps of its own.
    """
    return GOLDEN_BUNDLE if (GOLDEN_BUNDLE / "bundle.json").is_file() else missing("tests/golden/v1/bundle")


@pytest.fixture(scope="session")
def diffo_codec() -> Codec:
    """The embedded bundle of family `diffo` on the CPU, shared by all tests: they must not change it."""
    import rdeic_rt

    folder = REPOSITORY / "engines" / "diffo-tiny"
    return (
        rdeic_rt.load(folder, backend="cpu")
        if (folder / "bundle.json").is_file()
        else missing("the embedded bundle engines/diffo-tiny")
    )


@pytest.fixture(scope="session")
def codec(embedded_bundle: Path) -> Codec:
    """The embedded bundle on the CPU, shared by all tests: they must not change it."""
    import rdeic_rt

    return rdeic_rt.load(embedded_bundle, backend="cpu")


@pytest.fixture(scope="session")
def fp32_codec(embedded_bundle: Path) -> Codec:
    """The same in float32, whatever the CPU prefers: what other backends are compared with."""
    import rdeic_rt

    return rdeic_rt.load(embedded_bundle, backend="cpu", precision="fp32")


@pytest.fixture(scope="session")
def golden_codec(golden_bundle: Path) -> Codec:
    """`golden_bundle` on the CPU."""
    import rdeic_rt

    return rdeic_rt.load(golden_bundle, backend="cpu")


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Any]]:
    """Return what launches Chromium with further arguments; all are closed at the end.

    Playwright can be started once in a process.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        found = []

        def launched(*arguments: str) -> Any:
            found.append(browsers.launch(playwright, *arguments))
            return found[-1]

        yield launched
        for browser in found:
            browser.close()


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Any]) -> Any:
    """Chromium, shared by all tests: each opens a context of its own."""
    return launch()
