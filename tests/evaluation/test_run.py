from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdeic_eval import Evaluation, evaluate
from rdeic_eval.metrics import JUDGES, flat_areas, lattices
from rdeic_eval.reference_codecs import CODECS, Encodings
from rdeic_eval.results import OURS, PREVIEW, SAME_SIZE
from rdeic_rt import Codec, ImageError
from tests import images

from .conftest import LARGE


def test_ours_is_what_the_codec_does(codec: Codec, crops: list[Path], evaluation: Evaluation) -> None:
    photo = np.asarray(Image.open(crops[0]))
    found = evaluation.photos[0]
    for rate in codec.bundle.rates:
        data = codec.encode(photo, rate.index)
        for name, image in ((OURS, codec.decode(data)), (PREVIEW, codec.preview(data))):
            measured = found.find(name, rate.index)
            assert measured is not None
            assert measured.size_bytes == len(data)
            assert measured.bpp == 8 * len(data) / (LARGE[0] * LARGE[1])
            assert measured.scores["psnr_db"] == pytest.approx(images.psnr_db(image, photo), abs=1e-4)
            assert measured.encode_ms > 0
            assert measured.decode_ms > 0


def test_rates_come_largest_first_whatever_their_numbers(codec: Codec, evaluation: Evaluation) -> None:
    bpp = [rate.bpp for rate in evaluation.rates]
    assert bpp == sorted(bpp, reverse=True)
    assert {rate.index for rate in evaluation.rates} == {rate.index for rate in codec.bundle.rates}
    assert {s.rate for s in evaluation.summaries} == {rate.index for rate in codec.bundle.rates}


def test_others_are_the_smallest_files_at_or_above_ours(crops: list[Path], evaluation: Evaluation) -> None:
    photo = np.asarray(Image.open(crops[0]))
    found = evaluation.photos[0]
    for rate in evaluation.rates:
        ours = found.find(OURS, rate.index)
        assert ours is not None
        for other in CODECS[:2]:
            full, smaller = found.find(other.name, rate.index), found.find(f"{other.name}, downscaled", rate.index)
            assert full is not None
            assert smaller is not None
            assert full.size_bytes >= ours.size_bytes
            assert full.quality is not None
            assert full.size_bytes == len(Encodings(other, photo).at(full.quality).data)
            if full.quality > other.qualities[0]:
                assert len(Encodings(other, photo).at(full.quality - 1).data) < ours.size_bytes
            # Downscaling is tried exactly where it is needed, and only helps.
            assert (smaller.scale < 1) == (full.size_bytes > SAME_SIZE * ours.size_bytes)
            assert smaller.size_bytes <= full.size_bytes


def test_photo_that_fails_is_reported_and_the_rest_are_done(crops: list[Path], evaluation: Evaluation) -> None:
    assert [Path(photo.name).name for photo in evaluation.photos] == ["a.png", "c.png"]
    (failure,) = evaluation.failures
    assert failure.name == str(crops[1])
    assert isinstance(failure.error, ImageError)
    assert all(s.means["bpp"].n == 2 for s in evaluation.summaries)
    assert all(s.means["ms_ssim"].n == 1 for s in evaluation.summaries)


def test_lattices_of_the_photo_itself_are_kept(crops: list[Path], evaluation: Evaluation) -> None:
    photo = np.asarray(Image.open(crops[0]))
    assert evaluation.photos[0].own == lattices(photo, flat_areas(photo))


def test_images_are_kept_of_as_many_photos_as_asked_for(crops: list[Path], evaluation: Evaluation) -> None:
    first, second = evaluation.photos
    assert first.image is not None
    np.testing.assert_array_equal(first.image, np.asarray(Image.open(crops[0])))
    assert all(m.image is not None for m in first.measurements)
    assert second.image is None
    assert all(m.image is None for m in (*second.measurements, *first.sweep))


def test_evaluate_with_one_rate_and_nothing_else_is_only_that(codec: Codec, crops: list[Path]) -> None:
    index = codec.bundle.rates[-1].index
    named: list[tuple[float, str, str]] = []
    found = evaluate(
        codec, crops[2:], rates=[index, index], codecs=(), curves=False, progress=lambda *step: named.append(step)
    )

    assert [m.codec for m in found.photos[0].measurements] == [OURS, PREVIEW]
    assert [rate.index for rate in found.rates] == [index]
    assert found.rates[0].model_id == codec.bundle.rates[index].model_id.hex()
    assert not found.curve
    assert not found.bd_rates
    assert named == [(0, str(crops[2]), f"rate {index}")]


def test_evaluate_that_is_stopped_raises_unless_told_to_return_what_is_complete(
    codec: Codec, crops: list[Path]
) -> None:
    def stop_at_the_second(done: float, name: str, part: str) -> None:
        if done >= 1:
            raise KeyboardInterrupt

    small = [crops[2], crops[2]]
    with pytest.raises(KeyboardInterrupt):
        evaluate(codec, small, rates=[0], codecs=(), curves=False, progress=stop_at_the_second)
    found = evaluate(codec, small, rates=[0], codecs=(), curves=False, progress=stop_at_the_second, until_stopped=True)
    assert isinstance(found.stopped, KeyboardInterrupt)
    assert len(found.photos) == 1
    assert found.summaries


def test_evaluate_of_images_of_a_few_pixels_measures_what_there_is(codec: Codec, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (200, 30, 90)).save(tmp_path / "dot.png")
    Image.new("RGB", (17, 3), (20, 30, 90)).save(tmp_path / "line.png")
    found = evaluate(codec, sorted(tmp_path.iterdir()))

    assert not found.failures
    assert {s.codec for s in found.summaries} >= {OURS, PREVIEW, "JPEG", "WebP"}
    for summary in found.summaries:
        assert not {"ms_ssim", *(judge.key for judge in JUDGES)} & set(summary.means)
        assert summary.means["bpp"].n == 2


def test_unknown_rate_is_refused_before_any_photo(codec: Codec) -> None:
    with pytest.raises(ValueError, match="rate 99"):
        evaluate(codec, ["no-such.png"], rates=[99])


def test_package_and_perceptual_import_without_the_other_metrics() -> None:
    script = """
import sys
import rdeic_eval
assert not {"torch", "numpy", "PIL"} & set(sys.modules)
import rdeic_eval.perceptual
assert not {"matplotlib", "bjontegaard", "pytorch_msssim", "onnxruntime"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
