"""Golden files of every rate and family: latents to the bit, pixels within 1 level of the Python runtime."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from tests.conftest import REPOSITORY
from tests.images import psnr_db

from .conftest import Page, close_images
from .server import Site

GOLDEN = REPOSITORY / "tests" / "golden"
FILES = sorted(GOLDEN.glob("v*/*.rdc"))
RATES = [("tiny-2", rate) for rate in (0, 0.5, 1, 2, 3)] + [("diffo-tiny", rate) for rate in (0, 1)]


@cache
def codec(folder: Path, precision: str = "auto") -> rdeic_rt.Codec:
    return rdeic_rt.load(folder, backend="cpu", threads=1, precision=precision)


def hashed(array: NDArray[np.generic]) -> dict[str, object]:
    return {"dims": list(array.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}


def load_once(page: Page, bundle: str, **options: object) -> str:
    """Return the name of the page's decoder for a bundle."""
    name = f"{bundle} {options}"
    if not page.raw.evaluate("name => name in globalThis.page.decoders", name):
        page.raw.evaluate("for (const one of Object.values(globalThis.page.decoders)) one.close()")
        page.load(bundle, name, **options)
    return name


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden_file(path: Path, page: Page) -> None:
    bundle, file = f"/golden/{path.parent.name}/bundle", f"/golden/{path.parent.name}/{path.name}"
    native = codec(path.parent / "bundle")

    assert page.call("latents", bundle, file) == {"y_hat": hashed(np.load(path.with_suffix(".npz"))["y_hat"])}

    decoder = load_once(page, bundle)
    for preview in (True, False):
        wanted = native.decode(path.read_bytes(), rdeic_rt.DecodeOptions(preview=preview))
        close_images(page.decode(file, decoder, preview=preview)["image"], wanted)


@pytest.mark.parametrize(("name", "rate"), RATES)
def test_every_rate_of_the_embedded_bundles(
    name: str, rate: float, page: Page, served: Site, photo: NDArray[np.uint8]
) -> None:
    native = codec(REPOSITORY / "engines" / name, "fp32")
    data = native.encode(photo[:200, :300], rate)
    served.contents["/photo.rdc"] = data

    tensors = native.read_latents(data).tensors
    assert page.call("latents", f"/bundles/{name}", "/photo.rdc") == {key: hashed(tensors[key]) for key in tensors}

    decoder = load_once(page, f"/bundles/{name}", precision="fp32")
    for preview in (True, False):
        wanted = native.decode(data, rdeic_rt.DecodeOptions(preview=preview))
        close_images(page.decode("/photo.rdc", decoder, preview=preview)["image"], wanted)


@pytest.mark.parametrize(("name", "rate"), RATES)
def test_eight_bit_forms(name: str, rate: float, page: Page, served: Site, photo: NDArray[np.uint8]) -> None:
    """One value that two machines round differently spreads through the following 8-bit layers: what is equal is how
    far from fp32 the images are."""
    folder = REPOSITORY / "engines" / name
    data = codec(folder).encode(photo[:200, :300], rate)
    served.contents["/photo.rdc"] = data
    decoder = load_once(page, f"/bundles/{name}")

    for preview in (True, False):
        options = rdeic_rt.DecodeOptions(preview=preview)
        native, reference = (codec(folder, precision).decode(data, options) for precision in ("auto", "fp32"))
        found = page.decode("/photo.rdc", decoder, preview=preview)["image"]
        assert found.tobytes() != reference.tobytes()
        assert psnr_db(found, reference) > psnr_db(native, reference) - 0.5
