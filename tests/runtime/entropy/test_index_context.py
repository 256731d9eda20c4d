"""Entropy model 3: indices coded in the context of others, exactly, and as the format says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt import entropy
from rdeic_rt.entropy import layers
from rdeic_rt.entropy.coder import TOTAL_MASS
from rdeic_rt.entropy.index_context import masses_of
from rdeic_rt.entropy.static_prior import StaticPrior
from rdeic_rt.errors import BitstreamError, BundleCorruptError

from . import random_model, specification

GOLDEN = Path(__file__).parents[2] / "golden/indices"
SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (5, 3), (3, 8), (16, 24)]


def model(**options: int) -> StaticPrior:
    return StaticPrior.load(random_model.context_arrays(**options), threads=1)


def indices(size: tuple[int, int], codes: int = random_model.CODES, seed: int = 0) -> NDArray[np.int32]:
    """Return codes of which low ones are the likeliest."""
    draws = np.random.default_rng([seed, *size]).random(size) ** 3
    return (draws * codes).astype(np.int32)


def coded(entropy_model: StaticPrior, grid: NDArray[np.int32]) -> bytes:
    """Return the range-coded section, also where a fixed width would be shorter."""
    return entropy_model.indices.range_coded(grid)


def decoded(entropy_model: StaticPrior, section: bytes, size: tuple[int, int]) -> NDArray[np.int64]:
    shapes = {"vq_indices": (1, *size)}
    return np.asarray(entropy_model.decode(section, False, b"", shapes).tensors["vq_indices"][0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"seed": 1, "classes": 1}, {"seed": 2, "classes": 256, "codes": 2}])
def test_decode_returns_what_was_encoded(size: tuple[int, int], options: dict[str, int]) -> None:
    one = model(**options)
    grid = indices(size, options.get("codes", random_model.CODES))
    section = coded(one, grid)
    np.testing.assert_array_equal(decoded(one, section, size), grid)
    fixed = one.encode({"vq_indices": grid[None]}, fixed_size=True)
    assert (len(fixed.z), fixed.z_is_plain) == (one.fixed_bytes({"vq_indices": (1, *size)}), True)
    np.testing.assert_array_equal(
        one.decode(fixed.z, True, b"", {"vq_indices": (1, *size)}).tensors["vq_indices"], grid[None]
    )
    shorter = one.encode({"vq_indices": grid[None]})
    assert shorter.z == (fixed.z if len(fixed.z) <= len(section) else section)


@pytest.mark.parametrize("size", SIZES)
def test_section_is_what_the_format_says(size: tuple[int, int]) -> None:
    arrays = random_model.context_arrays(seed=3)
    grid = indices(size, seed=3)
    section = coded(StaticPrior.load(arrays, threads=1), grid)
    np.testing.assert_array_equal(specification.decode_in_context(arrays, section, *size), grid)


def test_golden_sections_are_what_is_encoded_and_decoded() -> None:
    one = StaticPrior.load(dict(np.load(GOLDEN / "entropy.npz")), threads=1)
    golden = dict(np.load(GOLDEN / "sections.npz"))
    names = [name.removeprefix("indices_") for name in golden if name.startswith("indices_")]
    assert len(names) == 5
    for name in names:
        grid, section = golden[f"indices_{name}"], golden[f"section_{name}"].tobytes()
        assert coded(one, grid) == section
        np.testing.assert_array_equal(decoded(one, section, grid.shape), grid)


def test_classes_do_not_depend_on_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    one, grid = model(), indices((37, 22))
    assert one.indices.context is not None
    whole = [one.indices.context.classes(number, grid) for number in (1, 2, 3)]
    assert len(np.unique(whole[0])) > 2
    monkeypatch.setattr(layers, "_BAND_ELEMENTS", 1)
    for number, classes in enumerate(whole, 1):
        np.testing.assert_array_equal(one.indices.context.classes(number, grid), classes)


def test_masses_are_in_proportion_to_weights() -> None:
    assert masses_of(np.array([0, 0], np.uint8)).tolist() == [1 << 23, 1 << 23]
    assert masses_of(np.array([8, 0, 4], np.uint8)).tolist() == [7_456_541, 3_728_270, 5_592_405]
    extreme = masses_of(np.array([0] * 65535 + [255], np.uint8))
    assert (extreme[0], extreme.sum()) == (1, TOTAL_MASS)
    weights = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8)
    assert masses_of(weights).tolist() == specification.class_masses(weights.tolist())


def test_decode_refuses_what_no_encoder_writes() -> None:
    one, grid = model(), indices((6, 5))
    section = coded(one, grid)
    for damaged in (section + b"\0", section + b"\1", b"\xff" * 40):
        with pytest.raises(BitstreamError, match="z section"):
            decoded(one, damaged, (6, 5))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("version", np.array([2], np.int32), "unknown arrays"),
        ("codebook", np.zeros((39, 8), np.uint16), "'codebook' is uint16"),
        ("class_weights", np.zeros((257, 40), np.uint8), "257 rows, should have 1 to 256"),
        ("class_weights", np.zeros((5, 41), np.uint8), "'class_weights' is uint8"),
        ("context.2.0.1.weight", np.full((5, 5, 8, 12), 65, np.int8), "beyond"),
        ("context.3.0.2.zero", np.zeros(7, np.uint16), "'context.3.0.2.zero' is uint16"),
        ("context.3.2.mult", np.full(5, 1 << 30, np.int32), "could exceed 64 bits"),
        ("context.3.2.offset", np.zeros(4, np.int64), "'context.3.2.offset' is int64"),
        ("context.0.0.weight", np.zeros((3, 3, 8, 12), np.int8), "unknown arrays"),
    ],
)
def test_load_unfit_arrays_raises(name: str, value: NDArray[np.generic], message: str) -> None:
    with pytest.raises(BundleCorruptError, match=message):
        entropy.load({**random_model.context_arrays(), name: value})


def test_load_missing_arrays_raises() -> None:
    arrays = random_model.context_arrays()
    for name in arrays.keys() - {"version"}:
        if name.endswith(".weight_low"):
            continue  # without it an input is coarse
        with pytest.raises(BundleCorruptError, match=f"no array '{name}'"):
            entropy.load({key: value for key, value in arrays.items() if key != name})


def test_kernels_of_another_size_are_refused() -> None:
    arrays = random_model.context_arrays()
    for part in ("weight", "weight_low"):
        arrays[f"context.1.0.0.{part}"] = np.zeros((1, 1, 8, 12), np.int8)
    del arrays["context.1.0.0.zero"]
    with pytest.raises(BundleCorruptError, match=r"'context.1.0' has a kernel of 1x1"):
        entropy.load(arrays)
    arrays = random_model.context_arrays() | {
        "context.1.1.weight": np.zeros((3, 3, 12, 10), np.int8),
        "context.1.1.weight_low": np.zeros((3, 3, 12, 10), np.int8),
        "context.1.1.zero": np.zeros(12, np.uint16),
    }
    with pytest.raises(BundleCorruptError, match="kernel other than 1x1"):
        entropy.load(arrays)
