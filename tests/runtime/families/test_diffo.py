"""DiffO in the runtime: indices are all that is in a file, one step makes the image, and its noise is the rate's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import (
    BitstreamError,
    BundleCorruptError,
    Codec,
    DecodeOptions,
    ImageError,
    TruncatedError,
    container,
    noise,
)
from rdeic_rt.cli.main import main
from rdeic_rt.entropy.arrays import model_id
from rdeic_rt.entropy.static_prior import StaticPrior
from rdeic_rt.limits import Size
from tests.images import psnr_db

from .. import micro
from ..backends import fake_tensorrt
from ..backends.fake_cuda import FakeCuda
from . import micro_diffo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return micro_diffo.write(tmp_path / "micro-diffo")


@pytest.fixture
def codec(folder: Path) -> Codec:
    return rdeic_rt.load(folder, backend="cpu")


def test_file_holds_indices_and_nothing_else(codec: Codec, photo: NDArray[np.uint8]) -> None:
    file = container.parse(codec.encode(photo[:256, :448]))
    assert file.y == b""
    (indices,) = codec.read_latents(codec.encode(photo[:256, :448])).tensors.values()
    means = photo[:256, :448, 0].reshape(16, 16, 28, 16).mean((1, 3))
    np.testing.assert_array_equal(indices[0], (means / 8).astype(np.int64))


def test_indices_in_context_are_those_of_a_fixed_width(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    codec = rdeic_rt.load(micro_diffo.write(tmp_path / "in-context", in_context=True), backend="cpu")
    image = photo[:256, :448]
    plain = container.parse(codec.encode(image, fixed_size=True))
    indices = codec.read_latents(codec.encode(image, fixed_size=True)).tensors["vq_indices"]
    model = StaticPrior.load(micro_diffo.entropy_arrays(in_context=True))
    section = model.indices.range_coded(indices[0].astype(np.int32))
    data = container.pack(replace(plain.header, z_is_plain=False), section, b"")
    np.testing.assert_array_equal(codec.read_latents(data).tensors["vq_indices"], indices)
    np.testing.assert_array_equal(codec.preview(data), micro_diffo.in_numpy(image, None))
    with pytest.raises(TruncatedError):
        codec.decode(data[:-9], DecodeOptions(allow_partial=True))


def test_decode_is_one_step_from_base_and_noise(codec: Codec, photo: NDArray[np.uint8]) -> None:
    image = photo[:256, :448]
    data = codec.encode(image)
    eps = noise.gaussian((1, 1, 16, 28), container.parse(data).crc, 0)
    assert np.abs(codec.decode(data).astype(int) - micro_diffo.in_numpy(image, eps)).max() <= 1
    np.testing.assert_array_equal(codec.preview(data), micro_diffo.in_numpy(image, None))
    assert (codec.decode(data, DecodeOptions(seed=1)) != codec.decode(data, DecodeOptions(seed=2))).any()


def test_images_of_any_size_are_padded(codec: Codec, photo: NDArray[np.uint8]) -> None:
    for height, width in ((1, 1), (65, 70), (300, 451)):
        assert codec.decode(codec.encode(photo[:height, :width])).shape == (height, width, 3)


def test_in_tiles_is_the_same_as_whole(codec: Codec, folder: Path, photo: NDArray[np.uint8]) -> None:
    in_tiles = rdeic_rt.load(folder, backend="cpu", tile_px=256)
    data = codec.encode(photo)
    assert in_tiles.encode(photo) == data
    np.testing.assert_array_equal(in_tiles.decode(data), codec.decode(data))


def test_on_a_gpu_it_is_recorded_and_replayed(
    tensorrt: Any, cuda: FakeCuda, codec: Codec, folder: Path, photo: NDArray[np.uint8]
) -> None:
    fake_tensorrt.write_plans(folder)
    fast = rdeic_rt.load(folder, backend="tensorrt")
    data = codec.encode(photo[:128, :128])
    assert fast.encode(photo[:128, :128]) == data
    for _ in range(4):
        assert psnr_db(fast.decode(data), codec.decode(data)) > 50
    assert cuda.calls["cudaGraphLaunch"] == 2


def test_many_files_are_decoded_in_order(codec: Codec, photo: NDArray[np.uint8]) -> None:
    files = [codec.encode(photo[:64, :width]) for width in (64, 128, 192)]
    for (_, image), data in zip(codec.decode_many(files), files, strict=True):
        np.testing.assert_array_equal(image, codec.decode(data))


def test_sharpness_and_other_numbers_of_steps_are_refused(codec: Codec, photo: NDArray[np.uint8]) -> None:
    data = codec.encode(photo[:64, :64])
    with pytest.raises(ValueError, match="cannot be guided: it has no denoiser without control"):
        codec.decode(data, DecodeOptions(sharpness=0.5))
    with pytest.raises(ValueError, match="2 steps: rate 0 of bundle 'micro-diffo' decodes in 1 steps"):
        codec.decode(data, DecodeOptions(steps=2))
    np.testing.assert_array_equal(codec.decode(data, DecodeOptions(steps=1)), codec.decode(data))


def test_fixed_size_is_known_beforehand(codec: Codec, photo: NDArray[np.uint8]) -> None:
    """40 x 64 padded: 4 x 4 indices of 5 bits take 10 bytes, everything else 19."""
    assert codec.fixed_size_bytes(Size(40, 64)) == 29
    for image in (photo[:40, :64], np.zeros((40, 64, 3), np.uint8)):
        data = codec.encode(image, fixed_size=True)
        assert len(data) == 29
        np.testing.assert_array_equal(codec.preview(data), codec.preview(codec.encode(image)))
    black = codec.encode(np.zeros((40, 64, 3), np.uint8))
    assert len(black) < 29  # the prior's most frequent code
    assert not container.parse(black).header.z_is_plain


def test_fixed_size_and_target_are_met_together(codec: Codec, photo: NDArray[np.uint8]) -> None:
    assert len(codec.encode(photo[:40, :64], fixed_size=True, target_bytes=29)) == 29
    with pytest.raises(ImageError, match="28 bytes are the target"):
        codec.encode(np.zeros((40, 64, 3), np.uint8), fixed_size=True, target_bytes=28)


def test_command_line_makes_files_of_a_fixed_size(
    folder: Path, tmp_path: Path, photo_paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a.rdc"
    options = ["encode", str(photo_paths[0]), "-o", str(target), "--strip", "--backend", "cpu", "--fixed-size"]
    assert main([*options, "--bundle", str(folder)]) == 0
    parsed = container.parse(target.read_bytes())
    assert target.stat().st_size == rdeic_rt.load(folder, backend="cpu").fixed_size_bytes(parsed.header.size)
    assert main(options) == 2  # the embedded bundle
    assert "has no files of a fixed size" in capsys.readouterr().err


def test_file_that_is_cut_or_has_a_y_section_is_refused(codec: Codec, photo: NDArray[np.uint8]) -> None:
    data = codec.encode(photo[:128, :128])
    for n in range(len(data)):
        with pytest.raises((TruncatedError, BitstreamError)):
            codec.decode(data[:n])
    file = container.parse(data)
    with pytest.raises(BitstreamError, match="y section: it has 2 bytes; files of this model have none"):
        codec.decode(container.pack(file.header, file.z, b"\1\2"))
    assert codec.read_latents(data[:-2], allow_partial=True).cut is not None


Change = Callable[[dict[str, Any]], object]
CORRUPT: dict[str, tuple[Change, str]] = {
    "no schedule": (lambda d: d["rates"][0].pop("schedule"), "family 'diffo' needs a schedule"),
    "step tables": (
        lambda d: d["rates"][0].update(step_tables={"resshift": "entropy.npz"}),
        "family 'diffo' has no use for step tables",
    ),
    "another role": (lambda d: d["rates"][0]["graphs"].update(control="unet_step"), "has the roles"),
    "codes of another type": (
        lambda d: d["graphs"]["synthesis"]["inputs"][0].update(dtype="float32"),
        "vq_indices is float32",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_bundle_that_contradicts_the_family_is_refused(folder: Path, case: str) -> None:
    change, message = CORRUPT[case]
    document = json.loads((folder / "bundle.json").read_text())
    change(document)
    micro.write_manifest(folder, document)
    with pytest.raises(BundleCorruptError, match=message):
        rdeic_rt.load(folder, backend="cpu")


@pytest.mark.parametrize("change", [{"a": [0.5]}, {"b": [0.9]}, {"c": [0.1]}])
def test_schedule_that_asks_for_more_than_noise_is_refused(
    folder: Path, photo: NDArray[np.uint8], change: dict[str, list[float]]
) -> None:
    document = json.loads((folder / "bundle.json").read_text())
    document["schedules"]["resshift"].update(change)
    micro.write_manifest(folder, document)
    codec = rdeic_rt.load(folder, backend="cpu")
    with pytest.raises(BundleCorruptError, match="family 'diffo' decodes in one step, with 0, 1, 0"):
        codec.decode(codec.encode(photo[:64, :64]))


def test_entropy_model_for_another_grid_is_refused(folder: Path, photo: NDArray[np.uint8]) -> None:
    arrays = {**micro_diffo.entropy_arrays(), "index_px": np.array([32], np.int32)}
    np.savez(folder / "entropy.npz", allow_pickle=False, **arrays)
    document = json.loads((folder / "bundle.json").read_text())
    document["rates"][0]["model_id"] = model_id(arrays).hex()
    micro.write_manifest(folder, document)
    with pytest.raises(BundleCorruptError, match="a position of vq_indices is 32 pixels, in the graph that reads it"):
        rdeic_rt.load(folder, backend="cpu").encode(photo[:64, :64])
