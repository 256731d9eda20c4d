"""Files that are cut short: an error unless partial ones are allowed, and then exact as far as they go."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import (
    BitstreamError,
    ChecksumError,
    Codec,
    DecodeOptions,
    Metadata,
    RdeicError,
    TruncatedError,
    container,
)
from rdeic_rt.entropy.hyperprior import Hyperprior
from tests.images import psnr_db

CRC_BYTES = 4
METADATA = Metadata(icc=b"profile" * 20, exif=b"II*\x00\x08\x00\x00\x00\x00\x00")


@pytest.fixture(scope="module")
def small_photo(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(photo[60:252, 100:356])


@pytest.fixture(scope="module")
def small(codec: Codec, small_photo: NDArray[np.uint8]) -> bytes:
    """A file of a few hundred bytes, without metadata."""
    return codec.encode(small_photo, 0)


def y_start(data: bytes) -> int:
    """Where the y section begins, in a file without metadata."""
    return len(data) - CRC_BYTES - len(container.parse(data).y)


def assert_exact_as_far_as_it_goes(codec: Codec, data: bytes) -> list[int]:
    """Cut the file at every length; return the number of complete slices for each that is after the z section."""
    whole = codec.read_latents(data)
    model = codec._loaded.entropy_models[whole.rate.entropy]
    assert isinstance(model, Hyperprior)
    widths = model.slices
    start, completes = y_start(data), []
    for length in range(len(data)):
        if length < start:
            with pytest.raises(TruncatedError):
                codec.read_latents(data[:length], allow_partial=True)
            continue
        latents = codec.read_latents(data[:length], allow_partial=True)
        assert latents.cut is not None
        assert latents.cut.missing_bytes == len(data) - length
        assert latents.cut.n_slices == len(widths)
        assert np.isfinite(latents.tensors["y_hat"]).all()
        n_channels = sum(nets.slice.width for nets in widths[: latents.cut.complete_slices])
        assert latents.tensors["y_hat"][:, :n_channels].tobytes() == whole.tensors["y_hat"][:, :n_channels].tobytes()
        assert latents.crc == google_crc32c.value(data[: min(length, len(data) - CRC_BYTES)])
        completes.append(latents.cut.complete_slices)
    return completes


def test_read_latents_cut_at_every_length_is_exact_as_far_as_it_goes(codec: Codec, small: bytes) -> None:
    completes = assert_exact_as_far_as_it_goes(codec, small)
    n_slices = completes[-1]
    assert completes == sorted(completes)
    assert set(completes) == set(range(n_slices + 1))
    assert completes[-CRC_BYTES - 1] < n_slices
    assert completes[-CRC_BYTES:] == [n_slices] * CRC_BYTES


def test_read_latents_cut_golden_file_is_exact_as_far_as_it_goes(golden_bundle: Path) -> None:
    codec = rdeic_rt.load(golden_bundle, backend="cpu")
    smallest = min(golden_bundle.parent.glob("*.rdc"), key=lambda path: path.stat().st_size)
    assert_exact_as_far_as_it_goes(codec, smallest.read_bytes())


def test_decode_cut_without_permission_raises_and_says_how(codec: Codec, small: bytes) -> None:
    for length in (y_start(small), len(small) - CRC_BYTES - 1, len(small) - 1):
        for call in (codec.decode, codec.preview, codec.read_latents):
            with pytest.raises(TruncatedError, match="--allow-partial"):
                call(small[:length])


def test_decode_whole_file_with_permission_is_the_same_and_says_nothing(
    codec: Codec, small: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    np.testing.assert_array_equal(codec.decode(small, DecodeOptions(allow_partial=True)), codec.decode(small))
    assert codec.read_latents(small, allow_partial=True).cut is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_decode_without_its_checksum_is_the_whole_image_and_says_so(
    codec: Codec, small: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    whole = codec.decode(small)
    for n in (1, CRC_BYTES):
        caplog.clear()
        np.testing.assert_array_equal(codec.decode(small[:-n], DecodeOptions(allow_partial=True)), whole)
        assert f"cut short by {n} bytes" in caplog.text


def test_decode_cut_again_gives_the_same_image_and_seed_is_what_is_there(codec: Codec, small: bytes) -> None:
    cut = small[: len(small) * 3 // 4]
    image = codec.decode(cut, DecodeOptions(allow_partial=True))
    np.testing.assert_array_equal(codec.decode(cut, DecodeOptions(allow_partial=True)), image)
    np.testing.assert_array_equal(
        codec.decode(cut, DecodeOptions(allow_partial=True, seed=google_crc32c.value(cut))), image
    )


def test_decode_more_of_the_file_is_nearer_to_the_photo(
    codec: Codec, small: bytes, small_photo: NDArray[np.uint8]
) -> None:
    start, end = y_start(small), len(small) - CRC_BYTES
    lengths = [start, (start + end) // 2, end]
    for decode in (codec.decode, codec.preview):
        quality = [
            psnr_db(decode(small[:length], DecodeOptions(allow_partial=True)), small_photo) for length in lengths
        ]
        assert quality[0] + 1 < quality[1] + 0.5 < quality[2]


def test_read_latents_changed_bit_in_a_file_of_full_length_raises(codec: Codec, small: bytes) -> None:
    for at in (y_start(small) - 1, y_start(small) + 3, len(small) - CRC_BYTES - 1, len(small) - 1):
        changed = bytearray(small)
        changed[at] ^= 0x10
        with pytest.raises(ChecksumError):
            codec.read_latents(changed, allow_partial=True)
    with pytest.raises(BitstreamError, match="should end here"):
        codec.read_latents(small + b"\0", allow_partial=True)


def test_read_latents_cut_and_changed_is_contained(codec: Codec, small: bytes) -> None:
    rng = random.Random(5)
    start = y_start(small)
    for _ in range(200):
        cut = bytearray(small[: rng.randrange(start, len(small))])
        cut[rng.randrange(len(cut))] ^= 1 << rng.randrange(8)
        try:
            assert np.isfinite(codec.read_latents(cut, allow_partial=True).tensors["y_hat"]).all()
        except RdeicError:
            continue


def test_read_latents_cut_in_the_metadata_keeps_the_image_and_drops_it(
    codec: Codec, small_photo: NDArray[np.uint8]
) -> None:
    data = codec.encode(small_photo, metadata=METADATA)
    whole = codec.read_latents(data)
    for n, kept in ((1, METADATA), (CRC_BYTES, METADATA), (CRC_BYTES + 1, Metadata())):
        latents = codec.read_latents(data[:-n], allow_partial=True)
        assert latents.metadata == kept
        assert latents.tensors["y_hat"].tobytes() == whole.tensors["y_hat"].tobytes()
        assert latents.cut is not None
        assert latents.cut.complete_slices == latents.cut.n_slices
    assert codec.read_latents(data[:-CRC_BYTES], allow_partial=True).crc == whole.crc


def test_decode_with_metadata_returns_all_that_a_file_holds(codec: Codec, small_photo: NDArray[np.uint8]) -> None:
    data = codec.encode(small_photo, 1, metadata=METADATA)
    whole = codec.decode_with_metadata(data)
    assert whole.image.tobytes() == codec.decode(data).tobytes()
    assert (whole.rate, whole.metadata, whole.cut) == (codec.bundle.rates[1], METADATA, None)
    latents = codec.read_latents(data[: len(data) // 2], allow_partial=True)
    for source in (data[: len(data) // 2], latents):
        cut = codec.decode_with_metadata(source, DecodeOptions(allow_partial=True))
        assert cut.image.tobytes() == codec.decode(latents).tobytes()
        assert (cut.cut, cut.metadata) == (latents.cut, latents.metadata)


def test_parse_announced_length_is_not_allocated(small: bytes) -> None:
    """A y section announced as 4 GB, of which a few bytes are there."""
    file = container.parse(small)
    header = small[: y_start(small) - len(file.z)]
    length = bytes([len(file.y) & 0x7F | 0x80, len(file.y) >> 7])
    assert header.endswith(length)
    huge = header[: -len(length)] + b"\xff\xff\xff\xff\x0f" + file.z + b"\x12\x34"
    cut = container.parse(huge, allow_partial=True)
    assert cut.y == b"\x12\x34"
    assert cut.missing_y_bytes == 2**32 - 1 - 2
