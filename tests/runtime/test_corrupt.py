"""Damaged files end in a typed error: never a hang, a crash or a picture that is not the one that was sent."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from rdeic_rt.codec import Codec
from rdeic_rt.errors import ChecksumError, FileFormatError, RdeicError
from tests.damage import CRC_BYTES, flipped, header_bytes, resealed


@pytest.fixture(scope="module")
def small(codec: Codec, photo: np.ndarray) -> bytes:
    """A real photo's corner as a file of a few hundred bytes or less."""
    return codec.encode(np.ascontiguousarray(photo[:96, :128]))


def test_decode_every_truncation_raises(codec: Codec, small: bytes) -> None:
    for length in range(len(small)):
        with pytest.raises(FileFormatError):
            codec.decode(small[:length])


def test_decode_every_header_bit_flip_raises(codec: Codec, small: bytes) -> None:
    for bit in range(8 * header_bytes(small)):
        with pytest.raises(FileFormatError):
            codec.decode(flipped(small, bit))


def test_decode_every_checksum_bit_flip_raises_checksum_error(codec: Codec, small: bytes) -> None:
    for bit in range(8 * (len(small) - CRC_BYTES), 8 * len(small)):
        with pytest.raises(ChecksumError):
            codec.decode(flipped(small, bit))


def test_decode_random_payload_bit_flips_raise(codec: Codec, small: bytes) -> None:
    rng = random.Random(1)
    start, stop = 8 * header_bytes(small), 8 * (len(small) - CRC_BYTES)
    for _ in range(1000):
        with pytest.raises(ChecksumError):
            codec.decode(flipped(small, rng.randrange(start, stop)))


def resealed_flips(small: bytes, count: int) -> Iterator[bytes]:
    rng = random.Random(2)
    for _ in range(count):
        yield resealed(flipped(small, rng.randrange(0, 8 * (len(small) - CRC_BYTES))))


def test_read_latents_damage_under_a_good_checksum_is_contained(codec: Codec, small: bytes) -> None:
    """With a checksum made to fit, damage can pass for another file: what comes is finite, or an error."""
    outcomes = set()
    for data in resealed_flips(small, 400):
        try:
            y_hat = codec.read_latents(data).tensors["y_hat"]
        except RdeicError:
            outcomes.add("error")
        else:
            assert np.isfinite(y_hat).all()
            outcomes.add("latents")
    assert "error" in outcomes


def test_decode_extra_bytes_raise(codec: Codec, small: bytes) -> None:
    for extra in (b"\0", b"\0" * 4, small):
        with pytest.raises(FileFormatError):
            codec.decode(small + extra)
