"""Bundles that are whole and should not be used; tests/conformance has both runtimes decode with all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import BundleCorruptError, BundleError, BundleMismatchError, DecodeOptions
from tests.conformance import damaged_bundles
from tests.conformance.damaged_bundles import GRAPH, copy, leak, replace

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"


@pytest.fixture(scope="module")
def file() -> bytes:
    return (GOLDEN / "chelsea_r0.rdc").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def decode(bundle: Path, file: bytes, *, verify: bool = True, **options: Any) -> NDArray[np.uint8]:
    return rdeic_rt.load(bundle, backend="cpu", threads=1, verify=verify).decode(file, DecodeOptions(**options))


def test_decode_with_a_graph_that_shows_another_file_is_refused(golden_bundle: Path, folder: Path, file: bytes) -> None:
    """Up to ONNX Runtime 1.23, /etc/passwd was the first row of the image."""
    for verify in (True, False):
        bundle = copy(golden_bundle, folder / f"verify{verify}", lambda target, _: leak(target, "/etc/passwd"))
        with pytest.raises(BundleCorruptError, match=r"'/etc/passwd', which is not among"):
            decode(bundle, file, verify=verify)


def test_decode_with_a_listed_file_of_weights_shows_it(golden_bundle: Path, folder: Path, file: bytes) -> None:
    """What is refused above would work: the graph is right, and the file is the bundle's own here."""

    def change(target: Path, document: damaged_bundles.Document) -> None:
        (target / "text.bin").write_bytes(bytes(range(100, 200)))
        leak(target, "text.bin")
        document["files"]["text.bin"] = {}

    image = decode(copy(golden_bundle, folder / "listed", change), file)
    assert image[0, :20].reshape(-1).tolist() == list(range(100, 160))


@pytest.mark.parametrize("name", damaged_bundles.CONTRADICTIONS)
def test_decode_with_a_bundle_that_contradicts_itself_raises_corrupt(
    golden_bundle: Path, folder: Path, file: bytes, name: str
) -> None:
    bundle = copy(golden_bundle, folder / "bundle", damaged_bundles.CONTRADICTIONS[name])
    with pytest.raises(BundleCorruptError):
        decode(bundle, file)


@pytest.mark.parametrize("name", damaged_bundles.ALLOWED)
def test_decode_with_a_bundle_that_only_looks_wrong(golden_bundle: Path, folder: Path, file: bytes, name: str) -> None:
    decode(copy(golden_bundle, folder / "bundle", damaged_bundles.ALLOWED[name]), file)


@pytest.mark.parametrize("name", damaged_bundles.UNKNOWN)
def test_decode_with_a_bundle_for_another_version_says_so(
    golden_bundle: Path, folder: Path, file: bytes, name: str
) -> None:
    bundle = copy(golden_bundle, folder / "bundle", damaged_bundles.UNKNOWN[name])
    with pytest.raises(BundleError, match="Upgrade rdeic-rt") as raised:
        decode(bundle, file)
    assert not isinstance(raised.value, BundleCorruptError)


@pytest.mark.parametrize("name", damaged_bundles.LEVELS)
def test_decode_with_levels_that_do_not_fit_raises_corrupt(folder: Path, name: str) -> None:
    source = GOLDEN.with_name("v1-levels")
    bundle = copy(source / "bundle", folder / "bundle", damaged_bundles.LEVELS[name])
    data = (source / "coffee_r37.rdc").read_bytes()
    if name in damaged_bundles.LEVELS_ALLOWED:
        decode(bundle, data)
        return
    with pytest.raises((BundleCorruptError, BundleMismatchError)) as raised:
        decode(bundle, data)
    whole = name in ("files with levels alone", "rates of another model id")  # and of no use for this file
    assert isinstance(raised.value, BundleMismatchError) == whole


def test_decode_in_tiles_and_preview_refuse_the_same(golden_bundle: Path, folder: Path, file: bytes) -> None:
    contradictions = damaged_bundles.CONTRADICTIONS
    large = (GOLDEN / "astronaut_r0.rdc").read_bytes()
    for name in ("weights that are no numbers", "image turned on its side", "latent turned on its side"):
        bundle = copy(golden_bundle, folder / name, contradictions[name])
        codec = rdeic_rt.load(bundle, backend="cpu", threads=1, tile_px=256)
        with pytest.raises(BundleCorruptError):
            codec.decode(large)
    bundle = copy(golden_bundle, folder / "preview", contradictions["synthesis that is no number"])
    with pytest.raises(BundleCorruptError, match="not finite"):
        rdeic_rt.load(bundle, backend="cpu", threads=1).preview(file)


def test_encode_with_an_analysis_of_other_shapes_is_refused(golden_bundle: Path, folder: Path) -> None:
    change = damaged_bundles.edited(
        "analysis_r0.onnx", damaged_bundles.output_through(("Transpose", {"perm": [0, 1, 3, 2]}))
    )
    codec = rdeic_rt.load(copy(golden_bundle, folder / "analysis", change), backend="cpu", threads=1)
    assert codec.encode(np.zeros((64, 64, 3), np.uint8), rate=0)
    with pytest.raises(BundleCorruptError, match="returned y as float32"):
        codec.encode(np.zeros((64, 128, 3), np.uint8), rate=0)


@pytest.mark.parametrize("name", [GRAPH, "steps_r0_2.npz", "entropy_r0.npz"])
def test_decode_with_a_file_that_changed_since_load_is_refused(
    golden_bundle: Path, folder: Path, file: bytes, name: str
) -> None:
    bundle = copy(golden_bundle, folder / "bundle")
    codec = rdeic_rt.load(bundle, backend="cpu", threads=1)
    good = (bundle / name).read_bytes()
    if name == GRAPH:
        model = onnx.load(bundle / name)
        weight = next(t for t in model.graph.initializer if t.data_type == 1 and t.raw_data)
        weight.raw_data = (-np.frombuffer(weight.raw_data, np.float32)).tobytes()
        changed = model.SerializeToString()
    else:
        changed = good[:-1] + bytes([good[-1] ^ 1])
    assert len(changed) == len(good)
    replace(bundle / name, changed)
    with pytest.raises(BundleCorruptError, match="SHA-256"):
        codec.decode(file)
    replace(bundle / name, good)
    assert codec.decode(file).any()
