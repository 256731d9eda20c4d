"""The main path on real photos, with the embedded bundle."""

from __future__ import annotations

import gc
import io
import json
import math
import shutil
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import rdeic_rt
from rdeic_rt import (
    BackendUnavailableError,
    BundleCorruptError,
    BundleMismatchError,
    CancelledError,
    Codec,
    DecodeOptions,
    FileFormatError,
    ImageError,
    LimitExceededError,
    Limits,
    Metadata,
    NotRdcError,
    RdeicError,
    Size,
    container,
    noise,
    target_size,
    timing,
)
from rdeic_rt.backends import select
from tests.images import high_frequency_energy, psnr_db

Rgb = NDArray[np.uint8]
# A JPEG of 25 dB is a recognisable photo; the smallest of these files have less than a tenth of its bits.
RECOGNISABLE_DB = 18.0
MAX_OVERHEAD_BYTES = 24


@pytest.fixture(scope="module")
def part(photo: Rgb) -> Rgb:
    """The middle of a photo, small enough for tests that need many decodes; uint8 [130, 190, 3]."""
    return np.ascontiguousarray(photo[60:190, 100:290])


@pytest.fixture(scope="module")
def data(codec: Codec, part: Rgb) -> bytes:
    return codec.encode(part)


@pytest.fixture
def bundle_copy(codec: Codec, tmp_path: Path) -> Path:
    return Path(shutil.copytree(codec.bundle.folder, tmp_path / "copy"))


def test_psnr_sees_the_last_value() -> None:
    a = np.zeros((2, 2, 3), np.uint8)
    b = a.copy()
    b[-1, -1, -1] = 1
    assert psnr_db(a, a) == math.inf
    assert psnr_db(a, b) < 60


def test_decode_of_each_photo_at_each_rate_is_that_photo(codec: Codec, photo_paths: list[Path]) -> None:
    for path in photo_paths:
        image, _ = rdeic_rt.read_image(path)
        for rate in codec.bundle.rates:
            data = codec.encode(image, rate.index)
            decoded = codec.decode(data)
            assert decoded.shape == image.shape
            assert decoded.dtype == np.uint8
            assert decoded.flags.c_contiguous
            assert psnr_db(decoded, image) > RECOGNISABLE_DB, (path.name, rate.index)
            assert 8 * len(data) / (image.shape[0] * image.shape[1]) < 8 * rate.bpp


def test_encode_rate_with_larger_lambda_makes_larger_files(codec: Codec, photo: Rgb) -> None:
    by_lambda = sorted(codec.bundle.rates, key=lambda rate: rate.lambda_r or 0.0)
    sizes = [len(codec.encode(photo, rate.index)) for rate in by_lambda]
    assert sizes == sorted(sizes)


def test_encode_again_gives_the_same_bytes(codec: Codec, part: Rgb, data: bytes) -> None:
    assert codec.encode(part) == data
    assert rdeic_rt.load(codec.bundle.folder).encode(part) == data


def test_encode_takes_pil_images_and_other_arrays(codec: Codec, part: Rgb, data: bytes) -> None:
    assert codec.encode(Image.fromarray(part)) == data
    assert codec.encode(np.asfortranarray(part)) == data
    assert codec.encode(part[::-1, ::-1][::-1, ::-1]) == data


def test_encode_leaves_its_image_alone(codec: Codec, part: Rgb) -> None:
    image = part.copy()
    codec.encode(image)
    np.testing.assert_array_equal(image, part)


@pytest.mark.parametrize("rate", [-1, 99, -0.5, 3.5, math.nan, "0", True])
def test_encode_rate_that_does_not_exist_lists_the_choices(codec: Codec, part: Rgb, rate: float) -> None:
    choices = "0 .largest., 1 .large., 2 .small., 3 .smallest., and all between them"
    with pytest.raises(ValueError, match=f"is not one of bundle 'tiny-2''s: {choices}$"):
        codec.encode(part, rate)


@pytest.mark.parametrize("rate", [-1, 2, 0.5, 1.0, "0", True])
def test_encode_rate_without_levels_is_an_index(golden_codec: Codec, part: Rgb, rate: float) -> None:
    with pytest.raises(ValueError, match=r"is not one of bundle 'micro''s: 0 \(2 steps\), 1 \(5 steps\)$"):
        golden_codec.encode(part, rate)


def test_encode_rate_between_two_makes_a_file_between_theirs(codec: Codec, photo: Rgb) -> None:
    rates = [0, 0.5, 1.0, 1.75, 2, 3.0]
    files = [codec.encode(photo, rate) for rate in rates]
    sizes = [len(data) for data in files]
    assert sizes == sorted(set(sizes), reverse=True)
    assert [rdeic_rt.read_header(data).header.rate for data in files] == [32, 64, 96, 132, 144, 192]
    assert files[2] == codec.encode(photo, 1)
    for data in files:
        assert psnr_db(codec.decode(data), photo) > RECOGNISABLE_DB


def test_encode_to_a_target_takes_the_best_level_that_fits(codec: Codec, photo: Rgb) -> None:
    n_pixels = photo.shape[0] * photo.shape[1]
    at_rates = [len(codec.encode(photo, rate.index)) for rate in codec.bundle.rates]
    for target in (*at_rates, sum(at_rates[:2]) // 2):
        data = codec.encode(photo, target_bytes=target)
        assert 0.97 * target <= len(data) <= target
        assert codec.encode(photo, target_bpp=8 * target / n_pixels) == data
    largest = codec.encode(photo, target_bytes=10**9)
    assert rdeic_rt.read_header(largest).header.rate == 0
    assert len(largest) > at_rates[0]
    assert codec.encode(photo, target_bpp=24) == largest


def test_encode_to_a_target_takes_the_best_rate_that_fits(golden_codec: Codec, photo: Rgb) -> None:
    codec = golden_codec
    files = [codec.encode(photo, rate.index) for rate in sorted(codec.bundle.rates, key=lambda rate: rate.bpp)]
    n_pixels = photo.shape[0] * photo.shape[1]
    for smaller, larger in zip(files, files[1:], strict=False):
        assert codec.encode(photo, target_bytes=len(smaller)) == smaller
        assert codec.encode(photo, target_bytes=len(larger) - 1) == smaller
    for data in files:
        assert codec.encode(photo, target_bytes=len(data)) == data
        assert codec.encode(photo, target_bpp=8 * len(data) / n_pixels) == data
    assert codec.encode(photo, target_bytes=10**9) == codec.encode(photo, target_bpp=24) == files[-1]


@pytest.mark.parametrize(("rate", "target"), [(0, None), (None, 1500)])
def test_encode_with_effort_makes_a_file_no_larger_that_loses_less(
    codec: Codec, photo: Rgb, rate: int | None, target: int | None
) -> None:
    plain = codec.encode(photo, rate, target_bytes=target)
    tried = codec.encode(photo, rate, target_bytes=target, effort=2)
    assert tried == codec.encode(photo, rate, target_bytes=target, effort=2) != plain
    assert len(tried) <= (target or len(plain))
    assert psnr_db(codec.decode(tried), photo) > psnr_db(codec.decode(plain), photo)


def test_encode_with_effort_in_vain_is_as_without(golden_codec: Codec, part: Rgb) -> None:
    assert golden_codec.encode(part, 0, target_bytes=None, effort=1) == golden_codec.encode(part, 0)


@pytest.mark.parametrize("effort", [-1, 5])
def test_encode_effort_out_of_range_raises(codec: Codec, part: Rgb, effort: int) -> None:
    with pytest.raises(ValueError, match=f"effort is {effort}; it must be a whole number from 0 to 4"):
        codec.encode(part, effort=effort)
    with pytest.raises(ValueError, match=f"effort is {effort}"):
        codec.encode_many([part], effort=effort)


def test_encode_to_the_bits_per_pixel_of_a_file_allows_that_file() -> None:
    for n_pixels in (300 * 451, 7, 96 * 80):
        for n_bytes in range(1, 2000):
            size = Size(height=n_pixels, width=1)
            assert math.floor(target_size.most_bytes(size, None, 8 * n_bytes / n_pixels)) == n_bytes


def test_encode_to_a_target_counts_metadata(codec: Codec, part: Rgb) -> None:
    metadata = Metadata(icc=np.random.default_rng(0).bytes(3000))
    smallest = min(len(codec.encode(part, rate.index, metadata=metadata)) for rate in codec.bundle.rates)
    with pytest.raises(ImageError, match=f"{smallest - 1} bytes are the target.* is {smallest} bytes.*metadata"):
        codec.encode(part, target_bytes=smallest - 1, metadata=metadata)
    assert len(codec.encode(part, target_bytes=smallest, metadata=metadata)) == smallest
    assert len(codec.encode(part, target_bytes=smallest - 1)) < smallest


@pytest.mark.parametrize(
    "choice",
    [
        {"rate": 0, "target_bytes": 4096},
        {"target_bytes": 4096, "target_bpp": 0.1},
        {"target_bytes": 0},
        {"target_bpp": -0.1},
        {"target_bpp": math.nan},
        {"target_bpp": math.inf},
    ],
)
def test_encode_to_a_target_that_makes_no_sense_is_refused(codec: Codec, part: Rgb, choice: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="target"):
        codec.encode(part, **choice)


def test_preview_of_each_photo_at_each_rate_is_that_photo(codec: Codec, photo_paths: list[Path]) -> None:
    for path in photo_paths:
        image, _ = rdeic_rt.read_image(path)
        for rate in codec.bundle.rates:
            data = codec.encode(image, rate.index)
            preview = codec.preview(data)
            assert preview.shape == image.shape
            assert preview.dtype == np.uint8
            assert psnr_db(preview, image) > RECOGNISABLE_DB, (path.name, rate.index)
            np.testing.assert_array_equal(
                codec.decode_on_device(codec.read_latents(data), DecodeOptions(preview=True)), preview
            )


def test_preview_is_what_decoding_of_z_c_gives(codec: Codec, part: Rgb, data: bytes) -> None:
    latents = codec.read_latents(data)
    backend = codec._selection.backend
    ((synthesis,), (vae_decoder,)) = (stage.graphs for stage in codec._loaded.previews[latents.rate.index].stages)
    given = {
        "y_hat": latents.tensors["y_hat"],
        "level": codec._loaded.level_rows["synthesis"][latents.rate.number][None],
    }
    z_c = synthesis.run({name: backend.put(array) for name, array in given.items()})["z_c"]
    padded = backend.get(vae_decoder.run({"z_0": z_c})["image"])[0]
    np.testing.assert_array_equal(codec.preview(data), padded[: part.shape[0], : part.shape[1]])
    assert (codec.preview(data) != codec.decode(data)).any()


def test_preview_loads_no_denoiser(codec: Codec, part: Rgb, data: bytes, bundle_copy: Path) -> None:
    for rate in codec.bundle.rates:
        for role in ("control", "unet_step"):
            for path in (spec.path for spec in codec.bundle.graphs[rate.graphs[role]].values()):
                (bundle_copy / path.name).write_bytes(bytes(path.stat().st_size))
    damaged = rdeic_rt.load(bundle_copy, verify=False, backend="cpu")
    np.testing.assert_array_equal(damaged.preview(data), codec.preview(data))
    with pytest.raises(BundleCorruptError, match="not a graph"):
        damaged.decode(data)


def of_size(photo: Rgb, height: int, width: int) -> Rgb:
    """Return an image of this size, tiled with a photo."""
    times = (-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1)
    return np.ascontiguousarray(np.tile(photo, times)[:height, :width])


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 130), (130, 1), (64, 64), (63, 65), (65, 63), (7, 200), (4001, 17), (17, 4001)]
)
def test_decode_any_size_at_each_rate_returns_that_size(codec: Codec, photo: Rgb, shape: tuple[int, int]) -> None:
    image = of_size(photo, *shape)
    for rate in codec.bundle.rates:
        data = codec.encode(image, rate.index)
        assert codec.decode(data).shape == codec.preview(data).shape == (*shape, 3)


def saved(image: Image.Image, name: str, folder: Path) -> Path:
    image.save(folder / name)
    return folder / name


@pytest.mark.parametrize("kind", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "RGB;16"])
def test_decode_any_kind_of_image_at_each_rate_is_that_image(
    codec: Codec, part: Rgb, tmp_path: Path, kind: str
) -> None:
    if kind == "RGB;16":
        deep = saved_16_bit_rgb(part, tmp_path)
        image, expected = rdeic_rt.read_image(deep)[0], part
    else:
        source = Image.fromarray(part)
        if kind == "I;16":
            source = Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
        else:
            source = source.convert(kind)
        path = saved(source, "image.tiff" if kind == "CMYK" else "image.png", tmp_path)
        image = rdeic_rt.read_image(path)[0]
        expected = image
    for rate in codec.bundle.rates:
        decoded = codec.decode(codec.encode(image, rate.index))
        assert decoded.shape == part.shape
        # Black and white dots are noise to any codec of this size.
        assert psnr_db(decoded, expected) > (RECOGNISABLE_DB if kind != "1" else 5)


def saved_16_bit_rgb(image: Rgb, folder: Path) -> Path:
    """Write a PPM of 16 bits a sample, which Pillow cannot."""
    height, width, _ = image.shape
    samples = (image.astype(">u2") * 257).astype(">u2").tobytes()
    (folder / "deep.ppm").write_bytes(b"P6 %d %d 65535\n" % (width, height) + samples)
    return folder / "deep.ppm"


def test_encode_file_has_little_beside_its_payload(codec: Codec, photo: Rgb) -> None:
    for rate in codec.bundle.rates:
        data = codec.encode(photo, rate.index)
        file = container.parse(data)
        assert len(data) - len(file.z) - len(file.y) <= MAX_OVERHEAD_BYTES
        assert file.header.model_id == rate.model_id
        assert file.header.rate == rate.number


def test_encode_metadata_is_kept_and_changes_no_latents(codec: Codec, part: Rgb, data: bytes) -> None:
    kept = codec.encode(part, metadata=Metadata(icc=b"profile" * 50, exif=b"II*\x00\x08\x00\x00\x00\x00\x00"))
    file = rdeic_rt.read_header(kept)
    assert file.metadata.icc == b"profile" * 50
    assert (file.z, file.y) == (rdeic_rt.read_header(data).z, rdeic_rt.read_header(data).y)


def test_encode_image_over_the_limit_raises_before_any_work(codec: Codec, part: Rgb) -> None:
    small = rdeic_rt.load(codec.bundle.folder, limits=Limits(max_pixels=100))
    with pytest.raises(LimitExceededError):
        small.encode(part)
    with pytest.raises(LimitExceededError):
        small.decode(codec.encode(part[:11, :10]))


def test_decode_again_gives_the_same_image_and_seed_is_the_checksum(codec: Codec, data: bytes) -> None:
    image = codec.decode(data)
    np.testing.assert_array_equal(codec.decode(bytearray(data)), image)
    np.testing.assert_array_equal(
        codec.decode(memoryview(data), DecodeOptions(seed=rdeic_rt.read_header(data).crc)), image
    )
    assert (codec.decode(data, DecodeOptions(seed=1)) != image).any()


def test_decode_sharpness_moves_the_image_step_by_step(codec: Codec, data: bytes) -> None:
    plain = codec.decode(data, DecodeOptions(sharpness=1.0))
    np.testing.assert_allclose(codec.decode(data, DecodeOptions(sharpness=1 + 1e-9)), plain, atol=1)
    assert psnr_db(codec.decode(data, DecodeOptions(sharpness=0.9)), plain) > psnr_db(
        codec.decode(data, DecodeOptions(sharpness=0.0)), plain
    )


def test_decode_sharpness_raises_the_high_frequency_energy_at_each_rate(codec: Codec, photo_paths: list[Path]) -> None:
    for path in photo_paths:
        for rate in codec.bundle.rates:
            data = codec.encode(np.asarray(Image.open(path).convert("RGB")), rate=rate.index)
            images = [codec.decode(data, DecodeOptions(sharpness=value)) for value in (0.5, 1.0, 1.5)]
            energies = [high_frequency_energy(image) for image in images]
            assert energies == sorted(set(energies)), (path.name, rate.index)


@pytest.mark.parametrize("sharpness", [-0.1, math.nan, math.inf, -math.inf])
def test_decode_sharpness_out_of_range_is_refused(codec: Codec, data: bytes, sharpness: float) -> None:
    with pytest.raises(ValueError, match="sharpness"):
        codec.decode(data, DecodeOptions(sharpness=sharpness))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_decode_seed_out_of_range_is_refused(codec: Codec, data: bytes, seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        codec.decode(data, DecodeOptions(seed=seed))


def test_decode_largest_seed_is_accepted_as_any_kind_of_integer(codec: Codec, data: bytes) -> None:
    largest = 2**64 - 1
    images = [codec.decode(data, DecodeOptions(seed=seed)) for seed in (largest, np.uint64(largest))]  # type: ignore[arg-type]
    np.testing.assert_array_equal(images[0], images[1])
    with pytest.raises(TypeError):
        codec.decode(data, DecodeOptions(seed=0.5))  # type: ignore[arg-type]


def test_decode_in_another_number_of_steps_of_the_bundle(codec: Codec, part: Rgb) -> None:
    for rate in codec.bundle.rates:
        data = codec.encode(part, rate.index)
        own = codec.bundle.choose_schedule(rate, None)
        assert own is not None
        np.testing.assert_array_equal(codec.decode(data, DecodeOptions(steps=own.n_steps)), codec.decode(data))
        choices = {codec.bundle.schedules[name] for name in rate.step_tables}
        for schedule in choices - {own}:
            if schedule.sampler == own.sampler:
                assert codec.decode(data, DecodeOptions(steps=schedule.n_steps)).shape == part.shape
        with pytest.raises(ValueError, match=rf"decodes in .*{own.n_steps}.* steps"):
            codec.decode(data, DecodeOptions(steps=77))


def test_decode_for_another_model_names_both(codec: Codec, data: bytes) -> None:
    file = container.parse(data)
    for header in (replace(file.header, model_id=b"\xde\xad\xbe\xef"), replace(file.header, rate=200)):
        with pytest.raises(BundleMismatchError) as caught:
            codec.decode(container.pack(header, file.z, file.y))
        assert header.model_id.hex() in str(caught.value)
        assert codec.bundle.rates[0].model_id.hex() in str(caught.value)


def test_decode_something_else_is_refused(codec: Codec, photo_paths: list[Path]) -> None:
    with pytest.raises(NotRdcError):
        codec.decode(photo_paths[0].read_bytes())
    with pytest.raises(FileFormatError):
        codec.decode(b"")


def test_read_latents_on_one_thread_and_on_two_are_equal(codec: Codec, data: bytes) -> None:
    one = rdeic_rt.load(codec.bundle.folder, threads=1)
    two = rdeic_rt.load(codec.bundle.folder, threads=2)
    np.testing.assert_array_equal(one.read_latents(data).tensors["y_hat"], two.read_latents(data).tensors["y_hat"])
    assert psnr_db(one.decode(data), two.decode(data)) > 50


def test_encode_loads_no_decoder_graph_and_decode_no_analysis(codec: Codec, part: Rgb, bundle_copy: Path) -> None:
    decoding = {rate.graphs["synthesis"] for rate in codec.bundle.rates}
    for form in (form for graph_id in decoding for form in codec.bundle.graphs[graph_id].values()):
        (bundle_copy / form.path.name).write_bytes(bytes(form.path.stat().st_size))
    damaged = rdeic_rt.load(bundle_copy, verify=False)
    data = damaged.encode(part)
    assert data == codec.encode(part)
    for _ in range(2):
        with pytest.raises(BundleCorruptError, match="not a graph"):
            damaged.decode(data)
    with pytest.raises(BundleCorruptError, match="SHA-256"):
        rdeic_rt.load(bundle_copy)


def test_prepare_loads_what_decoding_a_size_needs(codec: Codec, data: bytes, bundle_copy: Path) -> None:
    prepared = rdeic_rt.load(bundle_copy, backend="cpu")
    prepared.prepare(Size(64, 64))
    for path in bundle_copy.glob("*.*"):
        path.unlink()
    np.testing.assert_array_equal(prepared.decode(data), codec.decode(data))
    prepared.trim()
    np.testing.assert_array_equal(prepared.decode(data), codec.decode(data))
    assert prepared.recordings() is None


def test_prepare_for_what_could_not_be_decoded_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="rate"):
        codec.prepare(Size(64, 64), 99)
    with pytest.raises(LimitExceededError):
        codec.prepare(Size(2**20, 2**20))


def test_encode_with_an_entropy_model_of_another_id_is_refused(part: Rgb, bundle_copy: Path) -> None:
    document = json.loads((bundle_copy / "bundle.json").read_text())
    for rate in document["rates"]:
        rate["model_id"] = "deadbeef"
    (bundle_copy / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(BundleCorruptError, match="deadbeef"):
        rdeic_rt.load(bundle_copy).encode(part)


def test_load_precision_the_bundle_does_not_have_is_refused(codec: Codec, golden_bundle: Path) -> None:
    for folder, precision in ((codec.bundle.folder, "fp16"), (golden_bundle, "int8")):
        with pytest.raises(BackendUnavailableError, match=precision):
            rdeic_rt.load(folder, precision=precision)


def test_load_auto_says_what_was_skipped(codec: Codec) -> None:
    chosen = rdeic_rt.load(codec.bundle.folder)
    assert list(chosen.skipped_backends) == list(select.NAMES[: select.NAMES.index(chosen.backend)])
    assert repr(chosen) == f"<rdeic_rt.Codec 'tiny-2' on {chosen.backend}>"


def test_decode_inside_a_collector_books_every_stage_and_nothing_after(codec: Codec, data: bytes) -> None:
    with timing.collect() as times:
        codec.decode(data)
    expected = ["container", "entropy", "noise", "synthesis", "start", "denoise", "vae", "pixels"]
    assert [name for name in times.total_ms() if "." not in name and name != "load"] == expected
    before = times.total_ms()
    codec.decode(data)
    assert times.total_ms() == before


@pytest.fixture
def paths(codec: Codec, photo: Rgb, tmp_path: Path) -> list[Path]:
    """Three files of different sizes."""
    made = []
    for height, width in ((64, 70), (100, 64), (30, 40)):
        path = tmp_path / f"{height}x{width}.rdc"
        path.write_bytes(codec.encode(photo[:height, :width]))
        made.append(path)
    return made


def test_decode_many_yields_in_order_what_decode_returns(codec: Codec, paths: list[Path]) -> None:
    results = list(codec.decode_many(iter(paths), DecodeOptions(sharpness=0.5, seed=3)))
    assert [path for path, _ in results] == paths
    for path, (_, image) in zip(paths, results, strict=True):
        np.testing.assert_array_equal(image, codec.decode(path.read_bytes(), DecodeOptions(sharpness=0.5, seed=3)))


def test_decode_many_draws_the_noise_where_it_reads(
    codec: Codec, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    real = noise.gaussian

    def gaussian(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(noise, "gaussian", gaussian)
    assert len(list(codec.decode_many(paths))) == len(paths)
    assert threads and all(name.startswith("rdeic_rt.pipeline") for name in threads)


def test_decode_many_with_on_error_does_the_rest(codec: Codec, paths: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.rdc"
    bad.write_bytes(paths[0].read_bytes()[:-1])
    gone = tmp_path / "gone.rdc"
    problems: list[tuple[str | Path, RdeicError | OSError]] = []
    results = codec.decode_many([paths[0], bad, gone, paths[1]], on_error=lambda *problem: problems.append(problem))
    assert [path for path, _ in results] == paths[:2]
    assert [path for path, _ in problems] == [bad, gone]
    assert isinstance(problems[0][1], FileFormatError)
    assert isinstance(problems[1][1], FileNotFoundError)


def test_decode_many_without_on_error_raises_at_the_bad_file(codec: Codec, paths: list[Path], tmp_path: Path) -> None:
    iterator = codec.decode_many([paths[0], tmp_path / "gone.rdc", paths[1]])
    assert next(iterator)[0] == paths[0]
    with pytest.raises(FileNotFoundError):
        next(iterator)


def test_decode_many_given_up_leaves_no_thread(codec: Codec, paths: list[Path]) -> None:
    iterator = codec.decode_many(paths)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if "rdeic_rt.pipeline" in thread.name]


def test_decode_many_wrong_option_raises_at_once(codec: Codec, paths: list[Path]) -> None:
    with pytest.raises(ValueError, match="sharpness"):
        codec.decode_many(paths, DecodeOptions(sharpness=-1))


def test_codec_is_freed_with_its_last_reference(golden_bundle: Path) -> None:
    codec = rdeic_rt.load(golden_bundle, backend="cpu")
    codec.decode(codec.encode(np.zeros((64, 64, 3), np.uint8)))
    alive = weakref.ref(codec)
    gc.disable()  # a cycle of references would wait for the collector, with all its graphs
    try:
        del codec
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("workers", [1, 3])
def test_decode_many_takes_paths_bytes_and_streams(codec: Codec, paths: list[Path], workers: int) -> None:
    data = [path.read_bytes() for path in paths]
    sources: list[Any] = [str(paths[0]), paths[1], data[0], io.BytesIO(data[1]), memoryview(data[0])]
    results = list(codec.decode_many(sources, workers=workers))
    assert [source for source, _ in results] == sources
    for (_, image), whole in zip(results, [data[0], data[1], data[0], data[1], data[0]], strict=True):
        np.testing.assert_array_equal(image, codec.decode(whole))


def test_decode_many_without_workers_is_refused_at_once(codec: Codec, paths: list[Path]) -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        codec.decode_many(paths, workers=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_encode_many_gives_the_files_that_encode_gives(
    codec: Codec, part: Rgb, photo_paths: list[Path], workers: int
) -> None:
    path = photo_paths[0]
    image, metadata = rdeic_rt.read_image(path)
    sources = [path, path.read_bytes(), io.BytesIO(path.read_bytes()), part]
    results = list(codec.encode_many(sources, 1, workers=workers))
    expected = codec.encode(image, 1, metadata=metadata)
    assert [data for _, data in results] == [expected, expected, expected, codec.encode(part, 1)]
    assert results[3][0] is part


def test_encode_many_with_on_error_does_the_rest(codec: Codec, part: Rgb, tmp_path: Path) -> None:
    problems: list[tuple[Any, Exception]] = []
    results = list(
        codec.encode_many([tmp_path / "gone.png", b"no image", part], on_error=lambda *p: problems.append(p))
    )
    assert [data for _, data in results] == [codec.encode(part)]
    assert [type(error) for _, error in problems] == [FileNotFoundError, ImageError]


def test_progress_tells_of_every_part_in_order(codec: Codec, data: bytes) -> None:
    told: list[tuple[str, int, int]] = []
    codec.decode(data, DecodeOptions(on_progress=lambda *part: told.append(part)))
    steps = codec.bundle.n_steps(codec.read_latents(data).rate)
    names = ["entropy", "synthesis", *["denoise"] * steps, "vae", "done"]
    assert told == [(name, done, len(names) - 1) for done, name in enumerate(names)]
    told.clear()
    codec.preview(data, DecodeOptions(on_progress=lambda *part: told.append(part)))
    assert told == [("entropy", 0, 3), ("synthesis", 1, 3), ("vae", 2, 3), ("done", 3, 3)]


def test_progress_in_tiles_tells_of_each_with_the_numbers_of_its_part(bundle_copy: Path, photo: Rgb) -> None:
    codec = rdeic_rt.load(bundle_copy, backend="cpu", tile_px=256)
    told: list[tuple[str, int, int]] = []
    codec.preview(codec.encode(photo), DecodeOptions(on_progress=lambda *part: told.append(part)))
    assert told == [("entropy", 0, 3), *[("synthesis", 1, 3)] * 6, *[("vae", 2, 3)] * 6, ("done", 3, 3)]


@pytest.mark.parametrize("after", ["entropy", "synthesis", "denoise", "vae"])
def test_cancel_ends_the_decode_in_the_part_or_before_the_next(codec: Codec, data: bytes, after: str) -> None:
    cancel, told = threading.Event(), []

    def on_progress(part: str, done: int, total: int) -> None:
        told.append(part)
        if part == after:
            cancel.set()

    options = DecodeOptions(on_progress=on_progress, cancel=cancel)
    with pytest.raises(CancelledError, match="cancelled by the caller"):
        codec.decode(data, options)
    assert told[-1] == after
    with pytest.raises(CancelledError):
        list(codec.decode_many([data], options, on_error=lambda *_: None))


def test_interrupt_from_progress_comes_through_and_the_codec_goes_on(codec: Codec, data: bytes) -> None:
    """What Ctrl-C raises between two parts."""

    def interrupted(part: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        codec.decode(data, DecodeOptions(on_progress=interrupted))
    assert codec.decode(data).any()


def test_encode_takes_a_rate_by_its_label(codec: Codec, part: Rgb) -> None:
    for rate in codec.bundle.rates:
        assert codec.encode(part, rate.label) == codec.encode(part, rate.index)
    with pytest.raises(ValueError, match="rate 'best' is not one of bundle"):
        codec.encode(part, "best")
