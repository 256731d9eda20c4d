"""How close a decoded picture is to its photo: PSNR, MS-SSIM, and the distance that two networks see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from .perceptual import SMALLEST_SIDE_PX, FeatureDistance, feature_distance

# Not lite0, which the embedded weights are trained with.
JUDGES = ("lite1", "lite2")
# pytorch-msssim halves the picture four times and then needs more than its window of 11 x 11.
MS_SSIM_SMALLEST_SIDE_PX = 161


@dataclass(frozen=True)
class Metric:
    """What is measured of a picture: its key in `Scores`, its name for people, its digits, and which way is up."""

    key: str
    label: str
    digits: int
    higher_is_better: bool

    def gain(self, value: float, other: float) -> float:
        """Return by how much `value` is better than `other`."""
        return value - other if self.higher_is_better else other - value


METRICS = (
    Metric("psnr_db", "PSNR dB", 2, True),
    Metric("ms_ssim", "MS-SSIM", 4, True),
    *(Metric(f"distance_{name}", f"distance {name}", 4, False) for name in JUDGES),
)

# By metric. None where the metric does not exist: the picture is too small, or equal to the photo (PSNR).
Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Reference:
    """A photo, and what of it is needed again for every picture that is compared with it."""

    photo: NDArray[np.uint8]
    features: Mapping[str, list[Tensor]]


class Judge:
    """Holds the networks; compares pictures with photos on the CPU."""

    def __init__(self) -> None:
        self._networks = {name: FeatureDistance(name) for name in JUDGES}

    def reference(self, photo: NDArray[np.uint8]) -> Reference:
        """Return the photo, uint8 [H, W, 3], ready to be compared with."""
        if min(photo.shape[:2]) < SMALLEST_SIDE_PX:
            return Reference(photo, {})
        with torch.inference_mode():
            return Reference(photo, {name: net.features(_signed(photo)) for name, net in self._networks.items()})

    def scores(self, image: NDArray[np.uint8], reference: Reference) -> Scores:
        """Return every metric of an image [H, W, 3] against its photo.

        Raises:
            ValueError: it has another shape than the photo.
        """
        photo = reference.photo
        if image.shape != photo.shape:
            raise ValueError(f"the image has shape {image.shape}, its photo {photo.shape}")
        scores: dict[str, float | None] = {"psnr_db": psnr_db(image, photo), "ms_ssim": ms_ssim(image, photo)}
        with torch.inference_mode():
            signed = _signed(image)
            for name, net in self._networks.items():
                target = reference.features.get(name)
                distance = None if target is None else float(feature_distance(net.features(signed), target))
                scores[f"distance_{name}"] = distance
        return scores


def psnr_db(image: NDArray[np.uint8], photo: NDArray[np.uint8]) -> float | None:
    """Return the peak signal-to-noise ratio of two uint8 images over all samples, None for equal ones."""
    error = float(np.mean(np.square(image.astype(np.float32) - photo), dtype=np.float64))
    return 10 * math.log10(255**2 / error) if error else None


def ms_ssim(image: NDArray[np.uint8], photo: NDArray[np.uint8]) -> float | None:
    """Return MS-SSIM over RGB as pytorch-msssim computes it, None for a side under 161 pixels."""
    if min(photo.shape[:2]) < MS_SSIM_SMALLEST_SIDE_PX:
        return None
    from pytorch_msssim import ms_ssim as compute

    with torch.inference_mode():
        return float(compute(_nchw(image), _nchw(photo), data_range=255))


def high_frequency_energy(image: NDArray[np.uint8]) -> float:
    """Return how sharp a uint8 image [H, W, 3] is: the mean square of luma minus its Gaussian blur of 1 px."""
    luma = Image.fromarray(image).convert("L")
    blurred = luma.filter(ImageFilter.GaussianBlur(1.0))
    return float(np.square(np.asarray(luma, np.float64) - np.asarray(blurred, np.float64)).mean())


def mean_distance(scores: Scores) -> float | None:
    """Return the mean of the networks' distances, None where there are none."""
    found = [value for name in JUDGES if (value := scores[f"distance_{name}"]) is not None]
    return sum(found) / len(found) if found else None


def _nchw(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()


def _signed(image: NDArray[np.uint8]) -> Tensor:
    return _nchw(image) / 127.5 - 1
