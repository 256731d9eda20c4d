from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt.entropy import coder
from rdeic_rt.entropy.coder import (
    TOTAL_MASS,
    CutSymbolDecoder,
    Distribution,
    GaussianTable,
    SymbolDecoder,
    SymbolEncoder,
)
from rdeic_rt.errors import BitstreamError

from . import specification


def masses(*weights: int) -> NDArray[np.int32]:
    """These masses, and what is left of 2**24 in front."""
    return np.array([(1 << 24) - sum(weights), *weights], np.int32)


TABLE = GaussianTable(np.array([100, 1 << 10, (1 << 24) - 2200 - 2 * (1 << 10), 1 << 10, 100, 2000], np.int32))


def encoded(*groups: list[int]) -> bytes:
    encoder = SymbolEncoder()
    for group in groups:
        encoder.put_group(TABLE, np.array(group, np.int32))
    return encoder.finish()


def test_radius_is_half_the_table() -> None:
    assert TABLE.radius == 2


def test_group_with_escapes_round_trips() -> None:
    groups = [[0, 1, -2, 3, -3, 4, 0], [], [32767, -32767, 2, -1], [-5, 6, -100, 18, 17, 1000]]
    decoder = SymbolDecoder(encoded(*groups), "y section")
    for group in groups:
        assert decoder.get_group(TABLE, len(group)).tolist() == group
    decoder.finish()


def test_escapes_of_every_length_agree_with_the_specification() -> None:
    magnitudes = [TABLE.radius + (1 << e) + low for e in range(15) for low in (0, (1 << e) - 1, (1 << e) // 3)]
    symbols = [sign * m for m in magnitudes for sign in (1, -1) if m <= coder.MAX_SYMBOL]
    masses_of_table = np.array([100, 1 << 10, (1 << 24) - 2200 - 2 * (1 << 10), 1 << 10, 100, 2000])
    model = {"scale_masses": masses_of_table, "scale_lengths": np.array([6] + [0] * 63), "skip_below": np.array([0])}
    decoder = specification.RangeDecoder(encoded(symbols))
    assert specification.decode_symbols(model, decoder, [0] * len(symbols)) == symbols
    decoder.finish()


def test_random_symbols_round_trip_and_agree_with_the_specification() -> None:
    rng = np.random.default_rng(3)
    table = masses(1, 3000, 1 << 20, 77, 1 << 22)
    p = table / table.sum()
    for n in (0, 1, 2, 3, 10, 1000):
        symbols = rng.choice(p.size, n, p=p).astype(np.int32)
        encoder = SymbolEncoder()
        encoder.put(Distribution(table), symbols)
        data = encoder.finish()
        decoder = SymbolDecoder(data, "section")
        assert np.array_equal(decoder.get(Distribution(table), n), symbols)
        decoder.finish()
        slow = specification.RangeDecoder(data)
        assert [slow.symbol(table.tolist()) for _ in range(n)] == symbols.tolist()
        slow.finish()


def test_finish_without_symbols_is_empty() -> None:
    assert encoded() == b""
    SymbolDecoder(b"", "y section").finish()


@pytest.mark.parametrize("symbol", [0, 1])
def test_section_is_at_most_a_byte_longer_than_the_information(symbol: int) -> None:
    table = Distribution(np.array([1 << 23, 1 << 23], np.int32))
    for n in range(1, 70):
        encoder = SymbolEncoder()
        encoder.put(table, np.full(n, symbol, np.int32))
        assert len(encoder.finish()) <= n // 8 + 1


def test_carry_into_words_already_written_round_trips() -> None:
    # The lower end of the interval stays just under a multiple of 2**-32 for many words, then passes it or does not.
    table = Distribution(masses(1, 1, 1))
    for last in range(4):
        symbols = np.array([3] * 40 + [last] * 3, np.int32)
        encoder = SymbolEncoder()
        encoder.put(table, symbols)
        decoder = SymbolDecoder(encoder.finish(), "section")
        assert np.array_equal(decoder.get(table, symbols.size), symbols)
        decoder.finish()


def decode_all(data: bytes, n: int) -> list[int]:
    decoder = SymbolDecoder(data, "y section")
    symbols = decoder.get_group(TABLE, n).tolist()
    decoder.finish()
    return list(symbols)


def test_every_extension_raises() -> None:
    symbols = [0, 5, -1, 1, -700, 2, 0, 0, 3, -2, 1, 1, 0, -1] * 5
    data = encoded(symbols)
    for surplus in [*(bytes([b]) for b in range(256)), bytes(8), b"\1" * 9]:
        with pytest.raises(BitstreamError, match="y section"):
            decode_all(data + surplus, len(symbols))


def test_every_truncation_raises_or_gives_other_symbols() -> None:
    symbols = [0, 5, -1, 1, -700, 2, 0, 0, 3, -2, 1, 1, 0, -1] * 5
    data = encoded(symbols)
    for n in range(len(data)):
        try:
            assert decode_all(data[:n], len(symbols)) != symbols
        except BitstreamError:
            continue


def test_every_bit_flip_raises_or_gives_other_symbols() -> None:
    symbols = [0, 5, -1, 1, -700, 2, 0, 0, 3, -2, 1, 1, 0, -1] * 5
    data, silent = encoded(symbols), 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 128 >> bit % 8
        try:
            assert decode_all(bytes(flipped), len(symbols)) != symbols
            silent += 1
        except BitstreamError as error:
            assert "y section" in str(error)
    assert silent < 8 * len(data) // 4


def test_random_bytes_end_in_symbols_or_bitstream_error() -> None:
    rng = np.random.default_rng(0)
    for n in range(300):
        decoder = SymbolDecoder(rng.bytes(n % 40), "section")
        try:
            for _ in range(5):
                assert np.abs(decoder.get_group(TABLE, 50)).max() <= coder.MAX_SYMBOL
            decoder.finish()
        except BitstreamError:
            continue


def groups_of(data: bytes, missing: int, sizes: list[int]) -> list[list[int]]:
    """The groups that are certain, in order."""
    decoder = CutSymbolDecoder(data, missing, "y section")
    found = [decoder.get_group(TABLE, size) for size in sizes]
    certain = [group.tolist() for group in found if group is not None]
    assert found[len(certain) :] == [None] * (len(sizes) - len(certain))
    assert decoder.at_end == (len(certain) < len(sizes))
    return certain


def test_cut_section_gives_leading_groups_and_more_of_them_the_more_there_is() -> None:
    groups = [[0], [5, -1], [1], [-700, 2, 0], [0, 3], [-2], [1, 1, 0, -1]] * 4
    data = encoded(*groups)
    counts = []
    for n in range(len(data)):
        certain = groups_of(data[:n], len(data) - n, [len(group) for group in groups])
        assert certain == groups[: len(certain)]
        counts.append(len(certain))
    assert counts == sorted(counts)
    assert counts[0] == 0
    # 5 bytes hold 40 bits; the groups of the last ones cannot take many more.
    assert len(groups) - 8 <= counts[-1] < len(groups)


def test_cut_section_certain_groups_are_those_of_any_end() -> None:
    rng = np.random.default_rng(4)
    sizes = [1, 2, 3] * 6
    for n in range(60):
        start, missing = rng.bytes(n % 12), int(rng.integers(1, 40))
        certain = groups_of(start, missing, sizes)
        for end in (bytes(missing), b"\xff" * missing, *(rng.bytes(missing) for _ in range(10))):
            decoder = SymbolDecoder(start + end, "section")
            for group in certain:
                assert decoder.get_group(TABLE, len(group)).tolist() == group


def test_symbol_over_the_limit_raises() -> None:
    encoder = SymbolEncoder()
    encoder.put(TABLE.bins, np.array([5], np.int32))
    encoder._put_uniform(np.array([30]), np.array([32]))
    encoder._put_uniform(np.array([1 << 14]), np.array([1 << 15]))
    with pytest.raises(BitstreamError, match="magnitude 49154"):
        decode_all(encoder.finish(), 1)


@pytest.mark.parametrize(
    "bad", [[1 << 24], [1 << 23, 1 << 22], [1 << 24, 0], [(1 << 24) + 1, -1], [[1 << 23], [1 << 23]]]
)
def test_distribution_of_unfit_masses_raises(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="16777216"):
        Distribution(np.array(bad, np.int32))


@pytest.mark.parametrize("size", [2, 5])
def test_table_without_centre_raises(size: int) -> None:
    with pytest.raises(ValueError, match="even number"):
        GaussianTable(masses(*[1] * (size - 1)))


@pytest.mark.parametrize(("bits", "n"), [(1, 1), (5, 3), (8, 7), (14, 96), (16, 5)])
def test_fixed_width_round_trips(bits: int, n: int) -> None:
    values = np.random.default_rng(n).integers(0, 1 << bits, n, dtype=np.int32)
    data = coder.pack_fixed(values, bits)
    assert len(data) == -(-n * bits // 8)
    assert int.from_bytes(data, "big") >> (-n * bits % 8) == int("".join(f"{v:0{bits}b}" for v in values), 2)
    assert np.array_equal(coder.unpack_fixed(data, n, bits, "z section"), values)


def test_fixed_width_of_another_length_or_with_padding_raises() -> None:
    data = coder.pack_fixed(np.array([1, 2, 3], np.int32), 5)
    for bad in (data[:-1], data + b"\0", data[:-1] + bytes([data[-1] | 1])):
        with pytest.raises(BitstreamError, match="z section"):
            coder.unpack_fixed(bad, 3, 5, "z section")


def test_bits_of_symbols_are_those_of_their_masses() -> None:
    table = GaussianTable(np.array([1 << 20, 1 << 23, TOTAL_MASS - (1 << 20) - (1 << 23) - (1 << 22), 1 << 22]))
    middle = 24 - np.log2(TOTAL_MASS - (1 << 20) - (1 << 23) - (1 << 22))
    np.testing.assert_allclose(table.bits(np.array([-1, 0, 1, 2, -9], np.int32)), [4, 1, middle, 2, 2], rtol=1e-6)
