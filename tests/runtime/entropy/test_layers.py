from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt.entropy import layers
from rdeic_rt.entropy.arrays import ArrayReader, Arrays
from rdeic_rt.entropy.layers import Layer, MatMul, Rescale, matmul_of_onnxruntime
from rdeic_rt.errors import BundleCorruptError

from . import specification

RUNS = [(1, "ORT_DISABLE_ALL"), (2, "ORT_DISABLE_ALL"), (1, "ORT_ENABLE_ALL"), (2, "ORT_ENABLE_EXTENDED")]


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: f"{run[0]}-{run[1]}")
def matmul(request: pytest.FixtureRequest) -> MatMul:
    return matmul_of_onnxruntime(*request.param)


def random_layer(
    seed: int, kernel: int, channels: int, outputs: int, *, fine: bool, lut: bool
) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    shape = (kernel, kernel, channels, outputs)
    weight = rng.integers(-64, 65, shape, dtype=np.int8)
    # t spreads over twice the table's, or once the levels' range, around its middle.
    shift, spread, middle = (30, 2048, 0) if lut else (26, 20_000, 32_768)
    deviation = kernel * channels**0.5 * (19_000 * 128 * 37 if fine else 74 * 37)
    mult = rng.integers(1, int(2 * spread * 2**shift / deviation), outputs, dtype=np.int32)
    mean = mult * weight.sum((0, 1, 2), dtype=np.int64) * (32_768 * 128 if fine else 128)
    arrays: dict[str, NDArray[Any]] = {
        "x.weight": weight,
        "x.mult": mult,
        "x.offset": (middle << shift) - mean + rng.integers(0, 1 << shift, outputs),
        "x.shift": np.array([shift], np.int32),
    }
    if fine:
        arrays["x.weight_low"] = rng.integers(-64, 65, shape, dtype=np.int8)
    if lut:
        arrays["x.lut"] = rng.integers(0, 1 << 16, 4096, dtype=np.uint16)
    if kernel > 1:
        arrays["x.zero"] = rng.integers(0, 1 << 16, channels, dtype=np.uint16)
    return arrays


def read(arrays: dict[str, NDArray[Any]]) -> Layer:
    reader = ArrayReader(arrays)
    layer = Layer.read(reader, "x", [arrays["x.weight"].shape[2]], None, lut="x.lut" in arrays)
    reader.close()
    return layer


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("lut", [True, False])
def test_layer_equals_the_specification(matmul: MatMul, kernel: int, fine: bool, lut: bool) -> None:
    arrays = random_layer(kernel, kernel, 7, 9, fine=fine, lut=lut)
    x = np.random.default_rng(0).integers(0, 1 << 16, (10, 6, 7), dtype=np.uint16)
    t = specification.layer(arrays, "x", {"": x.astype(np.int64)})
    expected = specification.finish(arrays, "x", t)
    assert len(np.unique(expected)) > 100
    layer = read(arrays)
    assert np.array_equal(layer.levels(matmul, x), expected)
    for anchors in (True, False):
        rows, columns = np.nonzero(np.indices((10, 6)).sum(0) % 2 == anchors)
        part = layer.levels(matmul, x, anchors=anchors).reshape(-1, 9)
        assert np.array_equal(part, expected[rows, columns])
    if not lut:
        assert np.array_equal(layer.wide(matmul, x), specification.wide(t))


def test_layer_with_extreme_weights_does_not_saturate(matmul: MatMul) -> None:
    arrays = random_layer(0, 5, 24, 8, fine=True, lut=False)
    arrays["x.weight"][:] = np.where(np.arange(8) % 2, 64, -64)
    arrays["x.weight_low"][:] = arrays["x.weight"]
    arrays["x.zero"][:] = 65_535
    arrays["x.mult"][:], arrays["x.shift"][:], arrays["x.offset"][:] = 1, 24, 1 << 30
    x = np.full((6, 4, 24), 65_535, np.uint16)
    exact = 600 * (128 * 65_535 + 256 * 255) * 64
    expected = [((exact if k % 2 else -exact) + (1 << 30)) >> 24 for k in range(8)]
    assert np.array_equal(read(arrays).wide(matmul, x), np.broadcast_to(expected, (6, 4, 8)))


def test_layer_over_several_bands_equals_one_band(matmul: MatMul, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = read(random_layer(1, 3, 5, 4, fine=True, lut=True))
    x = np.random.default_rng(1).integers(0, 1 << 16, (22, 8, 5), dtype=np.uint16)
    whole = [layer.levels(matmul, x, anchors=anchors) for anchors in (None, True, False)]
    monkeypatch.setattr(layers, "_BAND_ELEMENTS", 200)
    banded = [layer.levels(matmul, x, anchors=anchors) for anchors in (None, True, False)]
    assert all(np.array_equal(a, b) for a, b in zip(whole, banded, strict=True))


def test_layer_with_two_inputs_adds_before_rounding(matmul: MatMul) -> None:
    arrays = {f"x.a{name[1:]}": value for name, value in random_layer(2, 1, 3, 5, fine=True, lut=False).items()}
    arrays |= {f"x.b{name[1:]}": value for name, value in random_layer(3, 1, 4, 5, fine=True, lut=False).items()}
    arrays |= {"x.offset": arrays.pop("x.a.offset"), "x.shift": arrays.pop("x.a.shift")}
    del arrays["x.b.offset"], arrays["x.b.shift"]
    rng = np.random.default_rng(4)
    a, b = (rng.integers(0, 1 << 16, (4, 3, n), dtype=np.uint16) for n in (3, 4))
    layer = Layer.read(ArrayReader(arrays), "x", [3, 4], None, [".a", ".b"], lut=False)
    expected = specification.layer(arrays, "x", {".a": a.astype(np.int64), ".b": b.astype(np.int64)})
    assert np.array_equal(layer.levels(matmul, a, b), np.clip(expected, 0, 65535))


def test_rescale_equals_the_formula() -> None:
    rng = np.random.default_rng(5)
    arrays: Arrays = {
        "y.mult": rng.integers(1, 1 << 16, 3, dtype=np.int32),
        "y.offset": rng.integers(0, 1 << 28, 3, dtype=np.int64),
        "y.shift": np.array([14], np.int32),
    }
    values = rng.integers(-(1 << 20), 1 << 20, (5, 4, 3), dtype=np.int32)
    expected = [
        min(max((int(v) * int(arrays["y.mult"][i % 3]) + int(arrays["y.offset"][i % 3])) >> 14, 0), 65535)
        for i, v in enumerate(values.ravel())
    ]
    assert Rescale.read(ArrayReader(arrays), "y", 3, 1 << 24)(values).ravel().tolist() == expected


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x.weight", lambda a: np.full_like(a, 65), r"beyond \+-64"),
        ("x.weight", lambda a: np.full_like(a, -128), r"beyond \+-64"),
        ("x.weight_low", lambda a: np.full_like(a, -65), r"beyond \+-64"),
        ("x.weight_low", lambda a: a[..., :-1], "x.weight_low"),
        ("x.weight", lambda a: a[:2, :2], "no kernel"),
        ("x.weight", lambda a: a.astype(np.int16), "int16"),
        ("x.mult", lambda a: np.full_like(a, (1 << 31) - 1), "64 bits"),
        ("x.mult", lambda a: a[1:], "x.mult"),
        ("x.offset", lambda a: np.full_like(a, -(1 << 63)), "64 bits"),
        ("x.shift", lambda a: a * 0 - 1, "x.shift"),
        ("x.shift", lambda a: a * 0 + 63, "x.shift"),
        ("x.zero", lambda a: a[None], "x.zero"),
        ("x.lut", lambda a: a[:1024], "x.lut"),
    ],
)
def test_unfit_array_raises_bundle_corrupt(name: str, change: Any, message: str) -> None:
    arrays = random_layer(0, 3, 200, 4, fine=True, lut=True)
    read(arrays)
    with pytest.raises(BundleCorruptError, match=message):
        read({**arrays, name: change(arrays[name])})


@pytest.mark.parametrize("name", ["weight", "mult", "offset", "shift", "lut", "zero"])
def test_missing_array_raises_bundle_corrupt(name: str) -> None:
    arrays = random_layer(0, 3, 5, 4, fine=True, lut=True)
    with pytest.raises(BundleCorruptError, match=f"x.{name}"):
        Layer.read(ArrayReader({k: v for k, v in arrays.items() if k != f"x.{name}"}), "x", [5], None, lut=True)


def test_comparison_last_element_differs_fails() -> None:
    a = np.zeros((3, 4, 5), np.uint16)
    b = a.copy()
    b[-1, -1, -1] = 1
    assert not np.array_equal(a, b)
