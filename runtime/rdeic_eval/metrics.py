"""How close a decoded image is to its photo: PSNR, MS-SSIM, the distance that networks see, and two common faults.

The faults are what learned codecs are prone to: colours that are off over large areas (`block_errors`), and a lattice
of a few pixels in areas that should be smooth (`flat_areas`, `lattice`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .perceptual import SMALLEST_SIDE_PX, FeatureDistance, feature_distance
from .psnr import psnr_db
from .resnet import ResNetFeatures
from .st_lpips import StLpips

# The family of lite0, the network in the loss that the embedded weights are trained with.
FAMILIES_OF_LOSS = ("EfficientNet", "ResNet")


class Network(Protocol):
    """What a judge looks through: features of images [B, 3, H, W] in [-1, 1], to be compared by `feature_distance`."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Return features at several depths."""


@dataclass(frozen=True)
class JudgeFacts:
    """A network that judges.

    Attributes:
        name: in keys. label: for people.
        network: what it is. family: of networks; a codec is flattered by judges of the family it was trained with.
        load: returns it, or raises ImportError where its package is missing.
    """

    name: str
    label: str
    network: str
    family: str
    load: Callable[[], Network]

    @property
    def key(self) -> str:
        """Its key in `Scores`."""
        return f"distance_{self.name}"

    @property
    def of_loss_family(self) -> bool:
        """Whether the training loss has a network of its family."""
        return self.family in FAMILIES_OF_LOSS


def _lite(name: str) -> JudgeFacts:
    # The star is explained under the tables.
    label = f"distance {name}*"
    return JudgeFacts(name, label, f"efficientnet-{name}", "EfficientNet", lambda: FeatureDistance(name).compiled())


# The embedded weights are trained with lite0 and with the ResNet itself.
JUDGES = (
    JudgeFacts("st_lpips", "ST-LPIPS", "ST-LPIPS", "AlexNet", StLpips),
    JudgeFacts("resnet", "distance resnet*", "ResNet-50 of Open-NSFW", "ResNet", lambda: ResNetFeatures().compiled()),
    _lite("lite1"),
    _lite("lite2"),
)
# pytorch-msssim halves the image four times and then needs more than its window of 11 x 11.
MS_SSIM_SMALLEST_SIDE_PX = 161
BLOCK_SIDE_PX = 16
# Of lattices: the pixel shuffle by 4 at the end of the decoder, and the stride of 8 of its latents.
LATTICE_PERIODS_PX = (4, 8)
# An area is flat where the mean step between neighbours in the photo, over 9x9 pixels, is at most 3 grey levels.
_FLAT_WINDOW_PX = 9
_FLAT_STEP = 3.0
# Fewer flat pixels say little: each of 8 columns has 512 of these, a standard error of about 4 % of its mean step.
LEAST_FLAT_PX = 4096
# Added to mean steps, in grey levels, so that images without any step have no lattice and none has an infinite one.
_LEAST_STEP = 0.01
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Metric:
    """What is measured of an image: its key in `Scores`, its name for people, its digits, and which way is up."""

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
    *(Metric(judge.key, judge.label, 4, False) for judge in JUDGES),
)
# Shown separately: they measure artefacts rather than quality.
FAULTS = (
    Metric("mse", "MSE", 1, False),
    Metric("mse_16px", "of 16-px means", 1, False),
    Metric("mse_16px_chroma", "of these, chroma", 1, False),
    Metric("mse_16px_share", "16-px means / MSE", 3, False),
    *(
        Metric(f"lattice_{period}px_{axis}", f"lattice {period} px, {axis}", 3, False)
        for period in LATTICE_PERIODS_PX
        for axis in ("columns", "rows")
    ),
)

# By metric and fault. None where one does not exist: the image is too small, equal to the photo (PSNR, the share of
# the MSE), or has hardly any flat area (lattices).
Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Reference:
    """A photo, and what of it is needed again for every image that is compared with it.

    Attributes:
        photo: uint8 [H, W, 3].
        flat: bool [H, W], where it is flat.
        features: by judge.
    """

    photo: NDArray[np.uint8]
    flat: NDArray[np.bool_]
    features: Mapping[str, list[Tensor]]


class Judge:
    """Holds the networks; compares images with photos on the CPU."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        """Load the networks.

        Args:
            names: of those in `JUDGES`; the distances of the others will be None. None for all.
        Raises:
            ValueError: there is no judge of a name. ImportError: the package of one is missing.
        """
        known = {judge.name: judge for judge in JUDGES}
        wanted = list(known if names is None else dict.fromkeys(names))
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(f"no judge {', '.join(unknown)}; there are {', '.join(known)}")
        self._networks = {name: known[name].load() for name in wanted}

    def reference(self, photo: NDArray[np.uint8]) -> Reference:
        """Return the photo, uint8 [H, W, 3], ready to be compared with."""
        flat = flat_areas(photo)
        if min(photo.shape[:2]) < SMALLEST_SIDE_PX:
            return Reference(photo, flat, {})
        signed = _signed(photo)
        with torch.inference_mode():
            features = {name: network.features(signed) for name, network in self._networks.items()}
        return Reference(photo, flat, features)

    def distances(self, image: NDArray[np.uint8], reference: Reference) -> Scores:
        """Return the distance of an image [H, W, 3] from its photo by every judge, None of those not loaded.

        Raises:
            ValueError: it has another shape than the photo.
        """
        if image.shape != reference.photo.shape:
            raise ValueError(f"the image has shape {image.shape}, its photo {reference.photo.shape}")
        signed = _signed(image)
        found: dict[str, float | None] = {judge.key: None for judge in JUDGES}
        with torch.inference_mode():
            for judge in JUDGES:
                if (target := reference.features.get(judge.name)) is not None:
                    features = self._networks[judge.name].features(signed)
                    found[judge.key] = float(feature_distance(features, target))
        return found

    def scores(self, image: NDArray[np.uint8], reference: Reference, distances: Scores | None = None) -> Scores:
        """Return every metric and fault of an image [H, W, 3] against its photo.

        Args:
            image: uint8, of the photo's shape.
            reference: its photo.
            distances: `distances` of the two, if they are known already: most of the time is spent on them.
        Raises:
            ValueError: it has another shape than the photo.
        """
        distances = self.distances(image, reference) if distances is None else distances
        photo = reference.photo
        psnr = psnr_db(image, photo)
        scores: dict[str, float | None] = {
            "psnr_db": psnr if math.isfinite(psnr) else None,
            "ms_ssim": ms_ssim(image, photo),
            **distances,
        }
        errors = block_errors(image, photo)
        scores["mse"] = errors.mse
        scores["mse_16px"] = errors.of_means
        scores["mse_16px_chroma"] = errors.of_means_chroma
        scores["mse_16px_share"] = errors.of_means / errors.mse if errors.mse else None
        return {**scores, **lattices(image, reference.flat)}


def ms_ssim(image: NDArray[np.uint8], photo: NDArray[np.uint8]) -> float | None:
    """Return MS-SSIM over RGB as pytorch-msssim computes it, None for a side under 161 pixels."""
    if min(photo.shape[:2]) < MS_SSIM_SMALLEST_SIDE_PX:
        return None
    from pytorch_msssim import ms_ssim as compute

    with torch.inference_mode():
        return float(compute(_nchw(image), _nchw(photo), data_range=255))


@dataclass(frozen=True)
class BlockErrors:
    """Mean squared errors over R, G and B, in grey levels squared.

    Attributes:
        mse: of pixels.
        of_means: of the means of blocks; part of `mse`, the rest is of pixels around the mean of their block.
        of_means_chroma: what is left of `of_means` without the error of (R + G + B) / 3; part of it.
    """

    mse: float
    of_means: float
    of_means_chroma: float


def block_errors(image: NDArray[np.uint8], photo: NDArray[np.uint8], side_px: int = BLOCK_SIDE_PX) -> BlockErrors:
    """Return the error of two uint8 images [H, W, 3], and how much of it is in the means of square blocks.

    Blocks at the right and lower edge are cut off by it, and count by their area.
    """
    difference = _difference(image, photo)
    tops, lefts = (np.arange(0, side, side_px) for side in photo.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(difference, tops, axis=0, dtype=np.float64), lefts, axis=1)
    heights, widths = (np.diff([*range(0, side, side_px), side]) for side in photo.shape[:2])
    areas = np.outer(heights, widths)[:, :, None]
    means = sums / areas
    chroma = means - means.mean(axis=2, keepdims=True)
    return BlockErrors(
        mse=float(np.mean(np.square(difference), dtype=np.float64)),
        of_means=float((areas * np.square(means)).sum() / difference.size),
        of_means_chroma=float((areas * np.square(chroma)).sum() / difference.size),
    )


def flat_areas(photo: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where a photo, uint8 [H, W, 3], hardly changes: bool [H, W].

    That is where the luma of neighbours, across and down, differs by at most 3 grey levels in the mean over 9x9 pixels.
    """
    luma = _luma(photo)
    across = np.abs(np.diff(luma, axis=1, append=luma[:, -1:]))
    down = np.abs(np.diff(luma, axis=0, append=luma[-1:]))
    steps = torch.from_numpy((across + down) / 2)[None, None]
    pad = _FLAT_WINDOW_PX // 2
    mean = F.avg_pool2d(steps, _FLAT_WINDOW_PX, stride=1, padding=pad, count_include_pad=False)
    return np.asarray(mean[0, 0].numpy() <= _FLAT_STEP)


def lattice(image: NDArray[np.uint8], flat: NDArray[np.bool_], period_px: int, axis: int) -> float | None:
    """Return how much larger the steps into one of every `period_px` columns are than those into the others.

    The step into a column is the absolute difference of its luma from that of the column to the left. Its mean over
    flat areas is taken for each column modulo the period; the result is the largest of these over the mean of the
    others. 1 is no lattice; as the largest of several means it is a little above 1 without one, too.

    Args:
        image: uint8 [H, W, 3].
        flat: bool [H, W], of its photo: see `flat_areas`.
        period_px: at least 2.
        axis: 1 for columns, 0 for rows.
    Returns:
        None where fewer than `LEAST_FLAT_PX` pixels are flat.
    """
    if int(flat.sum()) < LEAST_FLAT_PX:
        return None
    luma, chosen = (_luma(image), flat) if axis == 1 else (_luma(image).T, flat.T)
    steps = np.where(chosen, np.abs(np.diff(luma, axis=1, prepend=luma[:, :1])), 0)
    # There is no step into the first column.
    sums, counts = steps[:, 1:].sum(axis=0, dtype=np.float64), chosen[:, 1:].sum(axis=0)
    phases = np.arange(1, chosen.shape[1]) % period_px
    totals = np.bincount(phases, counts, period_px)
    if not totals.all():
        return None
    means = np.bincount(phases, sums, period_px) / totals
    worst = int(means.argmax())
    others = np.delete(means, worst).mean()
    return float((means[worst] + _LEAST_STEP) / (others + _LEAST_STEP))


def lattices(image: NDArray[np.uint8], flat: NDArray[np.bool_]) -> Scores:
    """Return `lattice` for every period and both axes, by fault."""
    return {
        f"lattice_{period_px}px_{name}": lattice(image, flat, period_px, axis)
        for period_px in LATTICE_PERIODS_PX
        for axis, name in ((1, "columns"), (0, "rows"))
    }


def mean_distance(scores: Scores) -> float | None:
    """Return the mean of the distances, each family of networks counting once; None where there are none."""
    families: dict[str, list[float]] = {}
    for judge in JUDGES:
        if (value := scores[judge.key]) is not None:
            families.setdefault(judge.family, []).append(value)
    means = [sum(values) / len(values) for values in families.values()]
    return sum(means) / len(means) if means else None


def _difference(image: NDArray[np.uint8], photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image.astype(np.float32) - photo


def _luma(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(image @ _LUMA)


def _nchw(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()


def _signed(image: NDArray[np.uint8]) -> Tensor:
    return _nchw(image) / 127.5 - 1
