"""The range coder in Python does what constriction does: the same bytes, symbols and errors."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt import codec as codecs
from rdeic_rt.entropy import coder, range_coder
from rdeic_rt.entropy.coder import CutSymbolDecoder, Distribution, GaussianTable, SymbolDecoder, SymbolEncoder
from rdeic_rt.errors import BitstreamError

GOLDEN = Path(__file__).resolve().parents[2] / "golden"

pytest.importorskip("constriction", reason="there is nothing to compare with")
from rdeic_rt.entropy import constriction_coder  # noqa: E402

BOTH = (constriction_coder, range_coder)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return results of a function with each coder, constriction first; a BitstreamError is one, as its text."""

    def run(function: Any) -> list[Any]:
        results = []
        for module in BOTH:
            monkeypatch.setattr(coder, "implementation", lambda module=module: module)
            try:
                results.append(function())
            except BitstreamError as error:
                results.append(str(error))
        return results

    yield run


def random_table(rng: np.random.Generator) -> NDArray[np.int32]:
    """Masses of a table that has an even number of them: flat ones, peaked ones, and ones of a single unit."""
    n = 2 * int(rng.integers(2, 40))
    weights = rng.dirichlet(np.full(n, rng.choice([0.01, 0.3, 30.0])))
    masses = 1 + np.floor(weights * ((1 << 24) - n)).astype(np.int64)
    masses[rng.integers(n)] += (1 << 24) - masses.sum()
    return masses.astype(np.int32)


def random_symbols(rng: np.random.Generator, masses: NDArray[np.int32]) -> NDArray[np.int32]:
    radius, n = masses.size // 2 - 1, int(rng.integers(0, 60))
    places = rng.choice(masses.size, n, p=masses / masses.sum())
    far = radius + (1 << rng.integers(0, 15, n)) * rng.choice([-1, 1], n)
    symbols = np.where(places == 2 * radius + 1, far, places - radius)
    return np.clip(symbols, -coder.MAX_SYMBOL, coder.MAX_SYMBOL).astype(np.int32)


def encoded(tables: list[NDArray[np.int32]], groups: list[NDArray[np.int32]]) -> bytes:
    encoder = SymbolEncoder()
    for masses, group in zip(tables, groups, strict=True):
        encoder.put_group(GaussianTable(masses), group)
    return encoder.finish()


def decoded(data: bytes, tables: list[NDArray[np.int32]], sizes: list[int]) -> list[list[int]]:
    decoder = SymbolDecoder(data, "y section")
    groups = [decoder.get_group(GaussianTable(masses), n).tolist() for masses, n in zip(tables, sizes, strict=True)]
    decoder.finish()
    return groups


def cut_decoded(data: bytes, missing: int, tables: list[NDArray[np.int32]], sizes: list[int]) -> list[Any]:
    decoder = CutSymbolDecoder(data, missing, "y section")
    found = [decoder.get_group(GaussianTable(masses), n) for masses, n in zip(tables, sizes, strict=True)]
    return [None if group is None else group.tolist() for group in found]


@pytest.mark.parametrize("seed", range(25))
def test_random_groups_give_the_same_bytes_and_come_back(both: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = [random_table(rng) for _ in range(6)]
    groups = [random_symbols(rng, masses) for masses in tables]
    sizes = [group.size for group in groups]

    expected, found = both(lambda: encoded(tables, groups))

    assert found == expected
    assert both(lambda: decoded(expected, tables, sizes)) == 2 * [[group.tolist() for group in groups]]


@pytest.mark.parametrize("seed", range(25))
def test_damaged_and_cut_sections_end_alike(both: Any, seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    tables = [random_table(rng) for _ in range(4)]
    groups = [random_symbols(rng, masses) for masses in tables]
    sizes = [group.size for group in groups]
    data = encoded(tables, groups)
    sections = [rng.bytes(int(n)) for n in rng.integers(0, 60, 10)]
    for _ in range(10):
        flipped = bytearray(data or b"\0")
        flipped[rng.integers(len(flipped))] ^= 1 << int(rng.integers(8))
        sections += [bytes(flipped), data[: rng.integers(len(data) + 1)], data + rng.bytes(1)]

    for section in sections:
        expected, found = both(lambda: decoded(section, tables, sizes))  # noqa: B023
        assert found == expected
        missing = int(rng.integers(1, 30))
        expected, found = both(lambda: cut_decoded(section, missing, tables, sizes))  # noqa: B023
        assert found == expected


def test_carry_through_words_already_written_is_the_same(both: Any) -> None:
    # The lower end of the interval stays just under a multiple of 2**-32 for many words, then passes it or does not.
    masses = np.array([(1 << 24) - 3, 1, 1, 1], np.int32)

    def encode(symbols: list[int]) -> bytes:
        encoder = SymbolEncoder()
        encoder.put(Distribution(masses), np.array(symbols, np.int32))
        return encoder.finish()

    for last in range(4):
        for n in (1, 40, 400):
            expected, found = both(lambda: encode([3] * n + [last] * 3))  # noqa: B023
            assert found == expected


def test_bytes_of_no_symbol_raise_with_both(both: Any) -> None:
    results = both(lambda: decoded(b"\xff" * 9, [np.full(4, 1 << 22, np.int32)], [5]))

    assert results[0] == results[1]
    assert "no symbols give these 9 bytes" in results[0]


@pytest.mark.parametrize("module", BOTH, ids=lambda module: module.__name__.rpartition(".")[2])
def test_symbol_that_there_is_not_is_a_mistake_of_the_caller(module: ModuleType) -> None:
    for symbol in (-1, 4):
        with pytest.raises(KeyError):
            module.Encoder().put(module.Model(np.full(4, 1 << 22)), np.array([symbol], np.int32))


def test_photo_gives_the_same_file(monkeypatch: pytest.MonkeyPatch, photo_paths: list[Path]) -> None:
    from PIL import Image

    with Image.open(photo_paths[0]) as photo:
        image = photo.crop((100, 60, 276, 228)).convert("RGB")
    files = []
    for module in BOTH:
        monkeypatch.setattr(coder, "implementation", lambda module=module: module)
        codec = codecs.load(GOLDEN / "v1" / "bundle", backend="cpu", threads=1)
        files.append([codec.encode(image, rate) for rate in (0, 1)])

    assert files[0] == files[1]


def test_python_is_taken_where_constriction_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "constriction" or (args and len(args) > 2 and "constriction_coder" in (args[2] or ())):
            raise ModuleNotFoundError("No module named 'constriction'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert coder.implementation.__wrapped__() is range_coder
    monkeypatch.undo()
    assert coder.implementation.__wrapped__() is constriction_coder
