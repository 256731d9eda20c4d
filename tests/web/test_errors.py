"""What cannot be decoded ends in librdeic's class of error. Here are a few of each kind in a browser; `parity.mjs` has
thousands in node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rdeic_rt import container
from rdeic_rt.limits import Size
from tests import damage
from tests.conftest import EMBEDDED_BUNDLE, GOLDEN_BUNDLE, REPOSITORY

from .conftest import Page
from .server import Site

CHELSEA = (REPOSITORY / "tests" / "golden" / "v1" / "chelsea_r0.rdc").read_bytes()
FILE = container.parse(CHELSEA)
BUNDLE = "/golden/v1/bundle"


def packed(**header: Any) -> bytes:
    return container.pack(replace(FILE.header, **header), FILE.z, FILE.y)


FILES = {
    "empty": (b"", "truncated"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not_rdc"),
    "cut in its header": (CHELSEA[:10], "truncated"),
    "cut in its sections": (CHELSEA[: len(CHELSEA) // 2], "truncated"),
    "with a bit flipped": (damage.flipped(CHELSEA, 8 * (len(CHELSEA) - 20)), "checksum"),
    "with more than a file": (CHELSEA + b"x", "bitstream"),
    "of random symbols": (container.pack(FILE.header, FILE.z, np.random.default_rng(3).bytes(300)), "bitstream"),
    "of another version": (damage.resealed(CHELSEA[:4] + b"\x63" + CHELSEA[5:]), "unsupported_version"),
    "of a gigapixel": (packed(size=Size(32768, 32768)), "limit_exceeded"),
    "of another model": (packed(model_id=b"none"), "bundle_mismatch"),
    "of another rate": (packed(rate=77), "bundle_mismatch"),
}


@pytest.fixture(scope="module")
def loaded(page: Page) -> Page:
    page.load(BUNDLE)
    return page


@pytest.mark.parametrize("kind", FILES)
def test_file(kind: str, loaded: Page, served: Site) -> None:
    data, code = FILES[kind]
    served.contents["/file.rdc"] = data

    for preview in (True, False):
        found = loaded.call("decode", "decoder", "/file.rdc", {"preview": preview})
        assert found["error"] == code, found
        assert "\n" not in found["message"]


def test_a_decoder_goes_on_after_errors(loaded: Page) -> None:
    loaded.decode("/golden/v1/chelsea_r0.rdc")


def test_cut_file_with_allow_partial(loaded: Page, served: Site) -> None:
    served.contents["/file.rdc"] = CHELSEA[: len(CHELSEA) * 2 // 3]

    found = loaded.decode("/file.rdc", allowPartial=True)

    assert 0 < found["completeSlices"] < found["nSlices"]
    assert found["missingBytes"] == len(CHELSEA) - len(CHELSEA) * 2 // 3
    assert found["image"].shape == loaded.decode("/golden/v1/chelsea_r0.rdc")["image"].shape


@pytest.mark.parametrize(
    "options",
    [{"sharpness": -1}, {"sharpness": "much"}, {"steps": 3}, {"steps": 0.5}, {"seed": -1}, {"seed": 2**64}],
    ids=str,
)
def test_options(options: dict[str, object], loaded: Page) -> None:
    found = loaded.call("decode", "decoder", "/golden/v1/chelsea_r0.rdc", options)
    assert found["error"] == "invalid_argument", found


def test_sharpness_of_a_rate_that_is_not_guided(page: Page, served: Site, diffo_codec: Any, photo: Any) -> None:
    served.contents["/diffo.rdc"] = diffo_codec.encode(photo[:64, :64])
    page.load("/bundles/diffo-tiny", "diffo")
    found = page.call("decode", "diffo", "/diffo.rdc", {"sharpness": 1.5})
    assert found["error"] == "invalid_argument", found
    page.decode("/diffo.rdc", "diffo", sharpness=1)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"backend": "gpu"}, "invalid_argument"),
        ({"threads": 0}, "invalid_argument"),
        ({"precision": "fp8"}, "invalid_argument"),
        ({"tilePx": 100}, "invalid_argument"),
        ({"compressed": "zip"}, "invalid_argument"),
        ({"sha256": "0" * 64}, "bundle_corrupt"),
        ({"backend": "webgpu"}, "backend_unavailable"),
        ({"wasmUrl": "/nowhere.wasm"}, "io"),
    ],
    ids=str,
)
def test_options_of_load(options: dict[str, object], code: str, open_page: Any, served: Site) -> None:
    page = open_page(served)
    found = page.call("load", "other", BUNDLE, options)
    assert found["error"] == code, found
    page.errors.clear()  # that a file is missing is shown


def test_bundle_that_is_not_there(open_page: Any, served: Site) -> None:
    page = open_page(served)
    assert page.call("load", "other", "/bundles/nowhere", {})["error"] == "bundle_not_found"
    page.errors.clear()


BUNDLES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no JSON": (lambda text: b"<!doctype html>", "bundle_corrupt"),
    "another schema": (lambda text: text.replace(b'"schema": 2', b'"schema": 3'), "bundle"),
    "another family": (lambda text: text.replace(b'"family": "rdeic"', b'"family": "other"'), "bundle"),
    "path out of the folder": (lambda text: text.replace(b'"vae_decoder.onnx"', b'"../vae.onnx"'), "bundle_corrupt"),
    "field that nobody knows": (lambda text: text.replace(b'"name":', b'"nam":'), "bundle_corrupt"),
}


@pytest.mark.parametrize("kind", BUNDLES)
def test_bundle_json(kind: str, page: Page, served: Site) -> None:
    change, code = BUNDLES[kind]
    text = (GOLDEN_BUNDLE / "bundle.json").read_bytes()
    served.contents["/changed/bundle.json"] = change(text)
    assert served.contents["/changed/bundle.json"] != text

    assert page.call("load", "changed", "/changed", {})["error"] == code


@pytest.mark.parametrize("name", ["entropy.npz", "levels.npz", "synthesis.int8-cpu.onnx", "vae_decoder.int8-cpu.onnx"])
def test_swapped_file_is_refused_and_not_kept(name: str, page: Page, served: Site, rdc: bytes) -> None:
    data = bytearray((EMBEDDED_BUNDLE / name).read_bytes())
    data[len(data) // 2] ^= 1
    path = f"/bundles/tiny-2/{name}"
    served.contents |= {path: bytes(data), "/photo.rdc": rdc}
    page.raw.evaluate("globalThis.page.rdeic.RdcDecoder.clearCache()")
    page.load("/bundles/tiny-2", name)

    found = page.call("decode", name, "/photo.rdc", {"preview": True})

    assert found["error"] == "bundle_corrupt", found
    assert name in found["message"]
    assert "SHA-256" in found["message"]
    del served.contents[path]
    page.decode("/photo.rdc", name, preview=True)
    page.raw.evaluate("name => globalThis.page.decoders[name].close()", name)


def test_file_that_is_missing(open_page: Any, served: Site, rdc: bytes) -> None:
    page = open_page(served)
    served.contents |= {"/bundles/tiny-2/levels.npz": 404, "/photo.rdc": rdc}
    page.load("/bundles/tiny-2")
    assert page.call("decode", "decoder", "/photo.rdc", {})["error"] == "bundle_corrupt"
    del served.contents["/bundles/tiny-2/levels.npz"]
    page.errors.clear()
