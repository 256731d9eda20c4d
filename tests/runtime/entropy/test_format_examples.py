"""The test vectors of docs/format.md, "Entropy coding", are what this implementation and the slow one give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt.entropy.arrays import ArrayReader, Arrays, model_id
from rdeic_rt.entropy.coder import CutSymbolDecoder, Distribution, GaussianTable, SymbolEncoder, pack_fixed
from rdeic_rt.entropy.layers import Layer, matmul_of_onnxruntime
from rdeic_rt.entropy.static_prior import StaticPrior

from . import specification

FORMAT = Path(__file__).parents[3] / "docs" / "format.md"
MASSES = np.array([1 << 22, 1 << 23, 1 << 22], np.int32)
TABLE = np.array([100, 1024, 16772968, 1024, 100, 2000], np.int32)


@pytest.fixture(scope="module")
def page() -> str:
    return FORMAT.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("symbols", "row"),
    [
        ([0], "| 0 with masses 2^22, 2^23, 2^22 | (empty) |"),
        ([1], "| 1 with the same | `80` |"),
        ([0, 1, 2, 1, 1, 0], "| 0, 1, 2, 1, 1, 0 with the same | `2b` |"),
    ],
)
def test_symbols_give_the_documented_section(page: str, symbols: list[int], row: str) -> None:
    encoder = SymbolEncoder()
    encoder.put(Distribution(MASSES), np.array(symbols, np.int32))
    section = encoder.finish()
    assert row in page
    assert (section.hex(" ") or "(empty)") in row
    decoder = specification.RangeDecoder(section)
    assert [decoder.symbol(MASSES.tolist()) for _ in symbols] == symbols
    decoder.finish()


@pytest.mark.parametrize(
    ("groups", "row"),
    [
        ([[1]], "| the group 1 with T | `ff f4` |"),
        ([[-1, 0, 1]], "| the group -1, 0, 1 with T | `00 04 63 a0` |"),
        ([[0, 3, -40, 0]], "low bits 6 | `ff f3 cb c3 a5 80` |"),
        ([[2, -3], [7]], "| the groups 2, -3 and 7, both with T | `ff f8 2f fd 21 8f 6c` |"),
        ([[0] * 2000], "| 2000 times 0 with T | `80` |"),
    ],
)
def test_groups_give_the_documented_section(page: str, groups: list[list[int]], row: str) -> None:
    encoder = SymbolEncoder()
    for group in groups:
        encoder.put_group(GaussianTable(TABLE), np.array(group, np.int32))
    section = encoder.finish()
    assert row in page
    assert f"`{section.hex(' ')}`" in row
    model = {"scale_masses": TABLE, "scale_lengths": np.array([6] + [0] * 63), "skip_below": np.array([0])}
    decoder = specification.RangeDecoder(section)
    assert [specification.decode_symbols(model, decoder, [0] * len(group)) for group in groups] == groups
    decoder.finish()


def test_cut_section_keeps_the_documented_groups(page: str) -> None:
    section = bytes.fromhex("ff f8 2f fd 21 8f 6c")
    assert f"are `{section.hex(' ')}` too. Of its first 3 bytes no group is certain, of\nits first 4 or 5" in page
    for n, expected in ((3, []), (4, [2]), (5, [2]), (6, [2, -3])):
        fast = CutSymbolDecoder(section[:n], len(section) - n, "y section")
        slow = specification.CutDecoder(section[:n], len(section) - n)
        found = [fast.get_group(GaussianTable(TABLE), 1) for _ in range(3)]
        assert [int(group[0]) for group in found if group is not None] == expected
        assert [slow.group(TABLE.tolist(), 1)[0] for _ in range(3)][: len(expected)] == expected


def test_states_are_the_documented_ones(page: str) -> None:
    decoder = specification.RangeDecoder(bytes.fromhex("fff3cbc3a580"))
    names = [
        "place 2",
        "place 5",
        "place 5",
        "place 2",
        "prefix 0",
        "prefix 11, point `a580000000000000`",
        "low bits 6",
    ]
    for name in names:
        number = int(name.split()[-1]) if "point" not in name else 11
        value = decoder.symbol(TABLE.tolist()) if name.startswith("place") else decoder.uniform(5)
        assert value == number
        assert f"| {name} | `{decoder.lower:016x}` | `{decoder.range:016x}` |" in page


def test_fixed_width_is_the_documented_one(page: str) -> None:
    assert f"1, 2, 31 in 5 bits each are `{pack_fixed(np.array([1, 2, 31]), 5).hex(' ')}`" in page


@pytest.mark.parametrize(
    ("fine", "text"), [(False, "acc = -404 and\nt = 15257"), (True, "acc = -12224768 and t = -18318")]
)
def test_layer_gives_the_documented_t(page: str, fine: bool, text: str) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "l.weight": np.array([-3, 64], np.int8).reshape(1, 1, 2, 1),
        "l.mult": np.array([90], np.int32),
        "l.offset": np.array([500_000_000], np.int64),
        "l.shift": np.array([15], np.int32),
    }
    if fine:
        arrays["l.weight_low"] = np.array([17, -5], np.int8).reshape(1, 1, 2, 1)
    layer = Layer.read(ArrayReader(arrays), "l", [2], 1, lut=False)
    x = np.array([[[40_000, 300]]], np.uint16)
    t = int(layer.wide(matmul_of_onnxruntime(1), x)[0, 0, 0])
    assert t == specification.layer(arrays, "l", {"": x.astype(np.int64)})[0, 0, 0]
    assert text in page
    assert text.endswith(f"t = {t}")


def test_model_id_is_the_documented_one(page: str) -> None:
    arrays: Arrays = {"slices": np.array([4, 4, 8], np.int32), "hyper.doubles": np.array([1, 1, 0, 0], np.uint8)}
    assert f"model id `{model_id(arrays).hex(' ')}`" in page


def test_indices_by_a_prior_are_those_of_the_page(page: str) -> None:
    masses = np.array([1 << 23, 1 << 22, 1 << 21, 1 << 21], np.int32)
    encoder = SymbolEncoder()
    encoder.put(Distribution(masses), np.array([0, 0, 3, 0], np.int32))
    coded, plain = encoder.finish(), pack_fixed(np.array([0, 0, 3, 0]), 2)
    assert f"are `{coded.hex(' ')}`, in a fixed width of 2 bits `{plain.hex(' ')}`" in page
    model = StaticPrior.load(
        {
            "version": np.array([2], np.int32),
            "index_px": np.array([16], np.int32),
            "prior_masses": masses,
        }
    )
    assert model.encode({"vq_indices": np.array([[[0, 0], [3, 0]]])}).z == plain
