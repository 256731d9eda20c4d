from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import Codec, DecodeOptions, families, tiles
from rdeic_rt.latents import Latents
from rdeic_rt.limits import Size
from rdeic_rt.placement import Placement, Tiled, Value, Whole
from rdeic_rt.tensor_spec import TensorSpec
from tests.images import psnr_db

MULTIPLE_PX = 64
# Measured on this photo in 8 bits: 45.9 dB plain, 46.8 guided and 50.0 of previews (43.7 to 45.9, 44.4 to 47.0 and 48.6
# to 50.1 on all test photos), and 5 to 10 dB more in float32. Layers see a tile instead of the image; another seed
# changes the image more (40.4, or 38.6 to 40.5).
MIN_PSNR_DB = 43.0
# Levels by which the mean step from one row or column to the next may exceed that of the untiled image: 0.2 with
# ramps, 10 where tiles are cut hard.
MAX_EXTRA_STEP = 1.0

Image3 = NDArray[np.uint8]


@pytest.fixture(scope="module")
def latents(codec: Codec, photo: Image3) -> Latents:
    return codec.read_latents(codec.encode(photo))


@pytest.fixture(scope="module")
def whole(codec: Codec, latents: Latents) -> Image3:
    """The photo, which is 320x512 when padded, decoded in one piece."""
    return codec.decode(latents)


@pytest.fixture(scope="module")
def in_tiles(codec: Codec) -> Codec:
    return rdeic_rt.load(codec.bundle.folder, backend="cpu", tile_px=256)


def extra_step(image: Image3, reference: Image3) -> float:
    """Return by how much the mean step between two neighbouring rows or columns exceeds the reference's, at most."""
    worst = 0.0
    for number in (0, 1):
        across = tuple({0, 1, 2} - {number})
        steps, others = (np.abs(np.diff(array.astype(float), axis=number)).mean(across) for array in (image, reference))
        worst = max(worst, float(np.max(steps - others)))
    return worst


def tiled(height: int, width: int, tile_px: int = 256, largest: Size | None = None) -> tiles.Tiling:
    return tiles.tiles_of(Size(height=height, width=width), tile_px, largest, MULTIPLE_PX)


def plane_of(px_per_position: int, dtype: str = "float32") -> TensorSpec:
    factor = MULTIPLE_PX // px_per_position
    scale = "" if factor == 1 else f"{factor}*"
    return TensorSpec("plane", dtype, ("batch", 1, f"{scale}hz", f"{scale}wz"))


SIZES = [(64, 64), (256, 256), (320, 512), (64, 4032), (2048, 64), (1088, 1920), (3008, 4032)]


@pytest.mark.parametrize("unit_px", [96, 128, 256])
@pytest.mark.parametrize("tile_px", [512, 1024])
def test_neighbours_share_the_ramp_whatever_the_unit(unit_px: int, tile_px: int) -> None:
    for n_units in range(1, 40):
        length = n_units * unit_px
        axis = tiles.tiles_of(Size(height=length, width=length), tile_px, None, unit_px).rows
        assert axis.starts[-1] + axis.tile == length
        assert axis.tile <= tile_px
        assert all(number % unit_px == 0 for number in (axis.tile, *axis.starts))
        assert len(axis.starts) == 1 or axis.ramp in (96, 128)
        for before, start in zip(axis.starts, axis.starts[1:], strict=False):
            assert axis.ramp <= before + axis.tile - start < axis.tile


@pytest.mark.parametrize("largest", [None, Size(height=128, width=512), Size(height=64, width=64)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_grid_covers_the_image_in_equal_tiles_within_the_bounds(height: int, width: int, largest: Size | None) -> None:
    tiling = tiled(height, width, 256, largest)

    assert tiling.tile.height * tiling.tile.width <= 256**2
    assert largest is None or (tiling.tile.height <= largest.height and tiling.tile.width <= largest.width)
    for axis, length in ((tiling.rows, height), (tiling.columns, width)):
        assert all(number % MULTIPLE_PX == 0 for number in (axis.tile, axis.ramp, *axis.starts))
        assert axis.starts[0] == 0
        assert axis.starts[-1] + axis.tile == axis.length == length
        shared = [before + axis.tile - start for before, start in zip(axis.starts, axis.starts[1:], strict=False)]
        assert all(axis.ramp <= pixels < axis.tile for pixels in shared)


def test_preview_in_tiles_is_near_the_whole_one_and_shows_no_seams(
    codec: Codec, in_tiles: Codec, latents: Latents
) -> None:
    whole, tiled = codec.preview(latents), in_tiles.preview(latents)
    assert psnr_db(tiled, whole) > MIN_PSNR_DB
    assert extra_step(tiled, whole) < MAX_EXTRA_STEP
    np.testing.assert_array_equal(in_tiles.decode_on_device(latents, DecodeOptions(preview=True)), tiled)


def test_grid_at_the_bound_is_single_and_one_step_above_is_not() -> None:
    assert tiled(1024, 1024, 1024).is_single
    assert tiled(256, 4096, 1024).is_single
    assert not tiled(1024, 1088, 1024).is_single
    assert not tiled(64, 128, 1024, Size(height=64, width=64)).is_single


def test_grid_above_the_bound_takes_the_smallest_tiles_that_the_number_allows() -> None:
    assert tiled(1152, 1152, 1024).tile == Size(height=640, width=640)


@pytest.mark.parametrize("px_per_position", [8, 16, 64])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_canvas_of_crops_of_a_plane_is_the_plane(height: int, width: int, px_per_position: int) -> None:
    """Weights sum to one everywhere, and every piece lies where it was cut."""
    tiling, spec = tiled(height, width), plane_of(px_per_position)
    y, x = np.mgrid[: height // px_per_position, : width // px_per_position].astype(np.float32)
    plane = (3 * y - 2 * x + 7)[None, None]
    canvas = tiles.Canvas(tiling, spec)
    for tile in tiling.tiles():
        canvas.add(tile, tiles.crop(plane, spec, tiling, tile))
    np.testing.assert_allclose(canvas.array, plane, rtol=1e-6)


def test_canvas_of_pixels_goes_evenly_from_one_tile_to_the_next() -> None:
    tiling = tiled(64, 4096)
    canvas = tiles.Canvas(tiling, TensorSpec("image", "uint8", ("batch", "64*hz", "64*wz", 3)))
    for tile in tiling.tiles():
        canvas.add(tile, np.full((1, 64, tiling.columns.tile, 3), 200 * (tile.column % 2), np.uint8))
    row = canvas.array[0, 32, :, 1].astype(int)
    assert canvas.array.dtype == np.uint8
    assert set(np.abs(np.diff(row))) <= {0, 1, 2}  # 200 levels over 128 pixels
    assert row.min() == 0
    assert row.max() == 200


def test_canvas_of_indices_takes_each_from_one_tile() -> None:
    tiling = tiled(512, 512)
    canvas = tiles.Canvas(tiling, TensorSpec("indices", "int64", ("batch", "hz", "wz")))
    for number, tile in enumerate(tiling.tiles()):
        canvas.add(tile, np.full((1, tiling.rows.tile // 64, tiling.columns.tile // 64), 1000 * number, np.int64))
    assert set(np.unique(canvas.array)) == {1000 * number for number in range(len(list(tiling.tiles())))}


def test_crop_of_what_is_the_same_for_all_sizes_is_all_of_it() -> None:
    tiling, row = tiled(512, 512), np.arange(3, dtype=np.float32)[None]
    for tile in tiling.tiles():
        assert tiles.crop(row, TensorSpec("level", "float32", (1, 3)), tiling, tile) is row


@pytest.mark.parametrize("sharpness", [1.0, 0.6])
def test_reconstruct_in_one_tile_equals_the_whole(codec: Codec, latents: Latents, sharpness: float) -> None:
    backend, family = codec._selection.backend, families.family(codec.bundle.family)
    schedule = codec.bundle.choose_schedule(latents.rate, None)
    assert schedule is not None
    decoder = codec._loaded.decoders[latents.rate.index, schedule.name]
    rows = codec._level_rows(latents.rate, ["synthesis"])
    drawn = family.noise(decoder, {"batch": 1, "hz": 5, "wz": 8}, 5)
    given = {**latents.tensors, **rows, **drawn, **family.guidance(sharpness)}
    tiling = tiled(320, 512, 1024)
    assert tiling.is_single

    def decode(at: Placement, values: Mapping[str, Value]) -> Value:
        return family.decode(at, decoder, values)

    whole, in_one_tile = (at.get(at.run("key", decode, given)) for at in (Whole(backend), Tiled(backend, tiling)))
    np.testing.assert_array_equal(in_one_tile, whole)


def test_decode_in_tiles_is_near_the_whole_without_seams(in_tiles: Codec, latents: Latents, whole: Image3) -> None:
    image = in_tiles.decode(latents)

    assert psnr_db(image, whole) > MIN_PSNR_DB
    assert extra_step(image, whole) < MAX_EXTRA_STEP
    tiling = tiled(320, 512, 256)
    assert len(tiling.rows.starts) == 2
    assert len(tiling.columns.starts) == 3


def test_decode_in_tiles_cut_hard_would_show_seams(
    monkeypatch: pytest.MonkeyPatch, in_tiles: Codec, latents: Latents, whole: Image3
) -> None:
    """The measure of the test above sees a seam."""
    monkeypatch.setattr(tiles, "OVERLAP_PX", 0)
    assert extra_step(in_tiles.decode(latents), whole) > 2 * MAX_EXTRA_STEP


def test_decode_in_tiles_is_deterministic_and_follows_the_seed(in_tiles: Codec, latents: Latents) -> None:
    image = in_tiles.decode(latents, DecodeOptions(seed=1))
    np.testing.assert_array_equal(in_tiles.decode(latents, DecodeOptions(seed=1)), image)
    assert psnr_db(in_tiles.decode(latents, DecodeOptions(seed=2)), image) < 60


def test_decode_in_tiles_takes_the_noise_of_the_whole(codec: Codec, in_tiles: Codec, latents: Latents) -> None:
    """With the same seed tiled and whole are much nearer to each other than to another seed's."""
    whole, other = codec.decode(latents, DecodeOptions(seed=1)), codec.decode(latents, DecodeOptions(seed=2))
    image = in_tiles.decode(latents, DecodeOptions(seed=1))
    assert psnr_db(image, whole) > psnr_db(image, other)


def test_decode_guided_in_tiles_is_near_the_whole(codec: Codec, in_tiles: Codec, latents: Latents) -> None:
    whole = codec.decode(latents, DecodeOptions(sharpness=0.5))
    assert psnr_db(in_tiles.decode(latents, DecodeOptions(sharpness=0.5)), whole) > MIN_PSNR_DB


@pytest.mark.parametrize(("height", "width"), [(1, 4001), (2000, 17)])
def test_long_and_narrow_images_go_through_in_tiles(in_tiles: Codec, photo: Image3, height: int, width: int) -> None:
    image = np.resize(photo, (height, width, 3))
    decoded = in_tiles.decode(in_tiles.encode(image))
    assert decoded.shape == image.shape
    assert decoded.std() > 10


def test_encode_in_tiles_decodes_like_encoded_whole(codec: Codec, in_tiles: Codec, photo: Image3) -> None:
    whole, tiled = codec.encode(photo), in_tiles.encode(photo)
    assert abs(len(tiled) / len(whole) - 1) < 0.05
    assert psnr_db(codec.decode(tiled), photo) > psnr_db(codec.decode(whole), photo) - 0.5


def test_load_with_tiles_of_mostly_overlap_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="tile_px is 255; it must be at least 256"):
        rdeic_rt.load(codec.bundle.folder, backend="cpu", tile_px=255)
