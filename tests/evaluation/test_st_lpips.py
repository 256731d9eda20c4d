from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from rdeic_eval.perceptual import feature_distance
from rdeic_eval.st_lpips import StLpips

from .distortions import blurred, jpeg, lattice, redder, signed


@pytest.fixture(scope="module")
def network() -> StLpips:
    return StLpips()


def distance(network: StLpips, image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    with torch.inference_mode():
        return float(feature_distance(network.features(signed(image)), network.features(signed(reference))))


def test_distance_is_that_of_the_package_s_own_code(network: StLpips, photo: NDArray[np.uint8]) -> None:
    """The numbers are what stlpips_pytorch 0.0.2 gives for net "alex", variant "shift_tolerant"."""
    assert distance(network, photo[:96, :131], photo[100:196, 40:171]) == pytest.approx(0.421050, rel=1e-4)
    assert distance(network, photo[60:92, :32], photo[:32, 40:72]) == pytest.approx(0.625817, rel=1e-4)


@pytest.mark.parametrize("photo_name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize(
    ("distort", "strengths"),
    [
        pytest.param(jpeg, (90, 50, 20, 8, 2), id="jpeg"),
        pytest.param(blurred, (0.5, 1, 2, 4), id="blur"),
        pytest.param(redder, (4, 8, 16, 32), id="colour"),
        pytest.param(lattice, (1, 2, 4, 8, 16), id="lattice"),
    ],
)
def test_distance_grows_with_distortion_and_is_zero_without(
    network: StLpips,
    photo_paths: list[Path],
    photo_name: str,
    distort: Callable[[NDArray[np.uint8], float], NDArray[np.uint8]],
    strengths: tuple[float, ...],
) -> None:
    path = next(path for path in photo_paths if path.stem == photo_name)
    cut = np.asarray(Image.open(path).convert("RGB"))[60:188, 100:228]
    distances = [distance(network, image, cut) for image in (cut, *(distort(cut, s) for s in strengths))]

    assert distances[0] == 0
    assert distances == sorted(set(distances))


def test_distance_sees_the_last_pixel(network: StLpips, photo: NDArray[np.uint8]) -> None:
    changed = photo[:64, :64].copy()
    changed[-1, -1] ^= 0xFF
    assert distance(network, changed, photo[:64, :64]) > 0


def test_shift_by_a_pixel_counts_for_less_than_a_slight_blur(network: StLpips, photo: NDArray[np.uint8]) -> None:
    cut = photo[60:188, 100:228]
    assert distance(network, photo[60:188, 101:229], cut) < distance(network, blurred(cut, 1.0), cut)


def test_missing_package_is_an_import_error_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stlpips_pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'rdeic-rt\[eval\]'"):
        StLpips()
