from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt.evaluation import metrics
from rdeic_rt.evaluation.metrics import METRICS, Judge
from tests import images


def test_psnr_agrees_with_the_formula_in_double_precision(photo: NDArray[np.uint8]) -> None:
    noisy = np.clip(photo + np.random.default_rng(0).normal(0, 12, photo.shape), 0, 255).astype(np.uint8)
    assert metrics.psnr_db(noisy, photo) == pytest.approx(images.psnr_db(noisy, photo), abs=1e-5)


def test_psnr_of_one_different_sample_is_finite_and_of_equal_images_missing(photo: NDArray[np.uint8]) -> None:
    changed = photo.copy()
    changed[-1, -1, -1] ^= 1
    assert metrics.psnr_db(changed, photo) == pytest.approx(10 * np.log10(255**2 * photo.size), abs=1e-3)
    assert metrics.psnr_db(photo, photo) is None


@pytest.mark.parametrize(("height", "width", "exists"), [(161, 180, True), (160, 180, False), (180, 160, False)])
def test_ms_ssim_exists_from_161_pixels_on(photo: NDArray[np.uint8], height: int, width: int, exists: bool) -> None:
    cut = photo[:height, :width]
    found = metrics.ms_ssim(cut[::-1].copy(), cut)
    assert (found is not None) == exists
    if found is not None:
        assert 0 < found < 0.9
        assert metrics.ms_ssim(cut, cut) == pytest.approx(1.0, abs=1e-6)


def test_scores_have_every_metric_and_none_for_pictures_too_small_for_the_networks(
    judge: Judge, photo: NDArray[np.uint8]
) -> None:
    keys = {metric.key for metric in METRICS}
    large, small = photo[:32, :40], photo[:31, :40]
    found = judge.scores(large[::-1].copy(), judge.reference(large))
    missing = judge.scores(small[::-1].copy(), judge.reference(small))

    assert set(found) == set(missing) == keys
    assert {key for key in keys if found[key] is None} == {"ms_ssim"}
    assert {key for key in keys if missing[key] is None} == keys - {"psnr_db"}
    assert metrics.mean_distance(missing) is None
    distances = [value for key, value in found.items() if key.startswith("distance_") and value is not None]
    assert metrics.mean_distance(found) == pytest.approx(np.mean(distances))


def test_scores_agree_with_the_distance_of_each_network(judge: Judge, photo: NDArray[np.uint8]) -> None:
    from rdeic_rt.evaluation.perceptual import FeatureDistance

    a, b = photo[:64, :64], photo[64:128, :64]
    scores = judge.scores(a, judge.reference(b))
    for name in metrics.JUDGES:
        expected = float(FeatureDistance(name)(metrics._signed(a), metrics._signed(b)))
        assert scores[f"distance_{name}"] == pytest.approx(expected, rel=1e-6)


def test_scores_of_another_shape_are_refused(judge: Judge, photo: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"\(40, 30, 3\), its photo \(30, 40, 3\)"):
        judge.scores(photo[:40, :30], judge.reference(photo[:30, :40]))


def test_judges_are_not_the_network_of_the_training_loss() -> None:
    assert "lite0" not in metrics.JUDGES
    assert len(set(metrics.JUDGES)) >= 2
