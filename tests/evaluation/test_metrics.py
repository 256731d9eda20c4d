from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_eval import metrics
from rdeic_eval.metrics import FAMILIES_OF_LOSS, FAULTS, JUDGES, METRICS, Judge
from rdeic_eval.perceptual import feature_distance
from rdeic_eval.psnr import psnr_db
from tests import images


def test_psnr_agrees_with_the_formula_in_double_precision(photo: NDArray[np.uint8]) -> None:
    noisy = np.clip(photo + np.random.default_rng(0).normal(0, 12, photo.shape), 0, 255).astype(np.uint8)
    assert psnr_db(noisy, photo) == pytest.approx(images.psnr_db(noisy, photo), abs=1e-5)


def test_psnr_of_one_different_sample_is_finite_and_of_equal_images_missing(
    photo: NDArray[np.uint8],
) -> None:
    changed = photo.copy()
    changed[-1, -1, -1] ^= 1
    assert psnr_db(changed, photo) == pytest.approx(10 * np.log10(255**2 * photo.size), abs=1e-3)
    assert psnr_db(photo, photo) == math.inf
    only_faults = Judge([])
    assert only_faults.scores(photo, only_faults.reference(photo))["psnr_db"] is None


@pytest.mark.parametrize(("height", "width", "exists"), [(161, 180, True), (160, 180, False), (180, 160, False)])
def test_ms_ssim_exists_from_161_pixels_on(photo: NDArray[np.uint8], height: int, width: int, exists: bool) -> None:
    cut = photo[:height, :width]
    found = metrics.ms_ssim(cut[::-1].copy(), cut)
    assert (found is not None) == exists
    if found is not None:
        assert 0 < found < 0.9
        assert metrics.ms_ssim(cut, cut) == pytest.approx(1.0, abs=1e-6)


def test_scores_have_every_metric_and_none_for_images_too_small_for_the_networks(
    judge: Judge, photo: NDArray[np.uint8]
) -> None:
    keys = {metric.key for metric in METRICS}
    large, small = photo[:32, :40], photo[:31, :40]
    found = judge.scores(large[::-1].copy(), judge.reference(large))
    missing = judge.scores(small[::-1].copy(), judge.reference(small))

    assert set(found) == set(missing) == keys | {fault.key for fault in FAULTS}
    assert {key for key in keys if found[key] is None} == {"ms_ssim"}
    assert {key for key in keys if missing[key] is None} == keys - {"psnr_db"}
    # 32x40 pixels are not flat area enough for a lattice.
    assert {fault.key for fault in FAULTS if found[fault.key] is None} == set(
        metrics.lattices(large, metrics.flat_areas(large))
    )
    assert metrics.mean_distance(missing) is None
    distances = [found[judge.key] for judge in JUDGES]
    assert None not in distances
    # Each family counts once.
    st_lpips, residual, *lites = (value for value in distances if value is not None)
    assert metrics.mean_distance(found) == pytest.approx((st_lpips + residual + np.mean(lites)) / 3)


def test_scores_agree_with_the_distance_of_each_network(judge: Judge, photo: NDArray[np.uint8]) -> None:
    a, b = photo[:64, :64], photo[64:128, :64]
    scores = judge.scores(a, judge.reference(b))
    for facts in JUDGES:
        network = facts.load()
        signed_a, signed_b = metrics._signed(a), metrics._signed(b)
        expected = float(feature_distance(network.features(signed_a), network.features(signed_b)))
        assert scores[facts.key] == pytest.approx(expected, rel=1e-6)


def test_distances_that_are_known_are_not_computed_again(judge: Judge, photo: NDArray[np.uint8]) -> None:
    image, reference = photo[:64, :64], judge.reference(photo[64:128, :64])
    known = judge.distances(image, reference)
    assert judge.scores(image, reference, known) == judge.scores(image, reference)
    other = dict.fromkeys(known, 0.5)
    scores = judge.scores(image, reference, other)
    assert {key: scores[key] for key in known} == other


def test_judge_of_some_networks_loads_only_those_and_refuses_others(
    photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "FeatureDistance", None)
    one = Judge(["resnet"])
    found = one.scores(photo[:40, 1:41], one.reference(photo[:40, :40]))
    assert {judge.key for judge in JUDGES if found[judge.key] is not None} == {"distance_resnet"}
    assert metrics.mean_distance(found) == found["distance_resnet"]
    with pytest.raises(ValueError, match="no judge lite0; there are st_lpips, resnet, lite1, lite2"):
        Judge(["lite1", "lite0"])


def test_scores_of_another_shape_are_refused(judge: Judge, photo: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"\(40, 30, 3\), its photo \(30, 40, 3\)"):
        judge.scores(photo[:40, :30], judge.reference(photo[:30, :40]))


def test_judges_are_not_the_network_of_the_training_loss_and_some_are_of_others() -> None:
    names = [judge.name for judge in JUDGES]
    assert "lite0" not in names
    assert [judge.of_loss_family for judge in JUDGES] == [False, True, True, True]
    assert {judge.family for judge in JUDGES} > set(FAMILIES_OF_LOSS)
    # The star is what the line under the tables explains.
    assert all(judge.label.endswith("*") == judge.of_loss_family for judge in JUDGES)


def test_block_errors_of_an_offset_are_all_in_the_means(photo: NDArray[np.uint8]) -> None:
    grey = np.full((32, 48, 3), 100, np.uint8)
    lighter = metrics.block_errors(grey + 3, grey)
    assert (lighter.mse, lighter.of_means, lighter.of_means_chroma) == pytest.approx((9, 9, 0))
    # R up and G down by as much: nothing in the mean of R, G and B.
    hue = metrics.block_errors(grey + np.array([6, -6, 0], np.int8).astype(np.uint8), grey)
    assert (hue.mse, hue.of_means, hue.of_means_chroma) == pytest.approx((24, 24, 24))
    # Only R: two thirds of it are chroma.
    red = metrics.block_errors(grey + np.array([6, 0, 0], np.uint8), grey)
    assert (red.mse, red.of_means, red.of_means_chroma) == pytest.approx((12, 12, 8))
    assert metrics.block_errors(photo, photo) == metrics.BlockErrors(0, 0, 0)


def test_block_errors_without_a_mean_in_any_block_are_none_of_them() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    board = grey + 5 * (np.indices((32, 32)).sum(axis=0) % 2)[:, :, None].astype(np.uint8)
    # 0 and 5 in turn: half of 25 is around the mean of 2.5.
    found = metrics.block_errors(board, grey)
    assert (found.mse, found.of_means, found.of_means_chroma) == pytest.approx((12.5, 6.25, 0))


def test_block_errors_are_those_of_a_loop_over_blocks_cut_off_at_the_edge(photo: NDArray[np.uint8]) -> None:
    a, b = photo[:41, :70], photo[100:141, 200:270]
    means, chroma = 0.0, 0.0
    for top in range(0, 41, 16):
        for left in range(0, 70, 16):
            block = (a[top : top + 16, left : left + 16].astype(float) - b[top : top + 16, left : left + 16]).reshape(
                -1, 3
            )
            mean = block.mean(axis=0)
            means += len(block) * np.square(mean).sum()
            chroma += len(block) * np.square(mean - mean.mean()).sum()
    found = metrics.block_errors(a, b)
    assert found.mse == pytest.approx(np.square(a.astype(float) - b).mean())
    assert found.of_means == pytest.approx(means / a.size)
    assert found.of_means_chroma == pytest.approx(chroma / a.size)


def test_block_errors_see_the_last_pixel(photo: NDArray[np.uint8]) -> None:
    changed = photo[:33, :33].copy()
    changed[-1, -1, -1] ^= 4
    found = metrics.block_errors(changed, photo[:33, :33])
    # It is a block of its own.
    assert found.mse == found.of_means == pytest.approx(16 / changed.size)


def saw(period_px: int, height: int = 80, width: int = 80) -> NDArray[np.uint8]:
    """Grey levels whose steps are 3 * (period - 1) into each column that the period divides, and -3 into the others."""
    row = 100 + 3 * (period_px - 1 - np.arange(width) % period_px)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


EVERYWHERE = np.ones((80, 80), bool)


@pytest.mark.parametrize("period_px", [4, 8])
def test_lattice_of_a_saw_is_its_long_step_over_the_others_and_across_it_none(period_px: int) -> None:
    image = saw(period_px)
    expected = (3 * (period_px - 1) + 0.01) / (3 + 0.01)
    assert metrics.lattice(image, EVERYWHERE, period_px, 1) == pytest.approx(expected, rel=1e-4)
    assert metrics.lattice(image, EVERYWHERE, period_px, 0) == 1.0
    turned = np.swapaxes(image, 0, 1)
    assert metrics.lattice(turned, EVERYWHERE, period_px, 0) == pytest.approx(expected, rel=1e-4)
    assert metrics.lattice(turned, EVERYWHERE, period_px, 1) == 1.0


def test_lattice_counts_only_flat_pixels_and_all_of_them() -> None:
    image = saw(4).copy()
    flat = EVERYWHERE.copy()
    flat[:, 72:] = False
    inside = metrics.lattice(image, flat, 4, 1)
    # The step into column 72 is outside, and so is the last one.
    image[:, 72:] = 0
    assert metrics.lattice(image, flat, 4, 1) == inside
    flat[-1, -1] = True
    assert metrics.lattice(image, flat, 4, 1) == pytest.approx(inside, rel=1e-3)
    assert metrics.lattice(image, flat, 4, 1) != inside


def test_lattice_of_noise_is_near_one_and_of_a_constant_one() -> None:
    noise = np.random.default_rng(0).integers(90, 110, (160, 160, 3)).astype(np.uint8)
    flat = np.ones((160, 160), bool)
    found = [value for value in metrics.lattices(noise, flat).values() if value is not None]
    assert len(found) == 4
    assert all(1 <= value < 1.05 for value in found)
    assert set(metrics.lattices(np.full((160, 160, 3), 7, np.uint8), flat).values()) == {1.0}


def test_lattice_of_hardly_any_flat_area_is_missing() -> None:
    flat = np.zeros((80, 80), bool)
    flat.reshape(-1)[: metrics.LEAST_FLAT_PX] = True
    assert metrics.lattice(saw(4), flat, 4, 1) is not None
    flat[0, 0] = False
    assert metrics.lattice(saw(4), flat, 4, 1) is None
    # Enough of them, but in a few columns only.
    stripes = np.zeros((4096, 80), bool)
    stripes[:, ::8] = True
    assert metrics.lattice(saw(8, height=4096), stripes, 8, 1) is None


def test_flat_areas_are_where_the_photo_hardly_changes() -> None:
    half = np.full((60, 90, 3), 100, np.uint8)
    half[:, 45:] += np.random.default_rng(0).integers(0, 40, (60, 45, 3)).astype(np.uint8)
    flat = metrics.flat_areas(half)
    # The window reaches 4 pixels to each side.
    assert flat[:, :40].all()
    assert not flat[:, 46:].any()
    # So is a gentle slope, and a steeper one is not.
    slope = np.add.outer(np.arange(25), np.arange(25))[:, :, None].repeat(3, axis=2)
    assert metrics.flat_areas((2 * slope).astype(np.uint8)).all()
    assert not metrics.flat_areas((5 * slope).astype(np.uint8))[5:-5, 5:-5].any()


def test_faults_of_an_image_with_a_lattice_and_wrong_colours_are_told_apart(
    judge: Judge, photo: NDArray[np.uint8]
) -> None:
    """On a real photo: each fault moves its own measure, and not the other's."""
    only_faults = Judge([])
    reference = only_faults.reference(photo)
    own = metrics.lattices(photo, reference.flat)
    columns = (photo.astype(int) + 6 * (np.arange(photo.shape[1]) % 4 == 0)[None, :, None]).clip(0, 255)
    colours = (photo.astype(int) + np.array([10, -4, -6])).clip(0, 255)
    with_lattice = only_faults.scores(columns.astype(np.uint8), reference)
    with_colours = only_faults.scores(colours.astype(np.uint8), reference)

    assert own["lattice_4px_columns"] is not None
    assert value(with_lattice, "lattice_4px_columns") > own["lattice_4px_columns"] + 0.5
    assert value(with_lattice, "lattice_4px_rows") == pytest.approx(own["lattice_4px_rows"], abs=0.02)
    assert value(with_colours, "lattice_4px_columns") == pytest.approx(own["lattice_4px_columns"], abs=0.02)
    assert value(with_lattice, "mse_16px_share") < 0.3
    assert value(with_colours, "mse_16px_share") > 0.95
    assert value(with_colours, "mse_16px_chroma") > 0.9 * value(with_colours, "mse_16px")


def value(scores: metrics.Scores, key: str) -> float:
    found = scores[key]
    assert found is not None
    return found
