"""The quality gate: images decoded in another precision against those decoded in float32, from the same files.

    photos ─ encode ─▶ files ─┬─ decode, float32 ──────────┬─ compare ─▶ report, or the build ends
                              └─ decode, other precision ──┘

Each codec is needed only while it decodes, so that two full-size models are never in memory together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdeic_eval.psnr import psnr_db
from rdeic_rt import pixels
from rdeic_rt.codec import Codec
from rdeic_rt.errors import ExportError

# Least PSNR in dB of any image against its float32 version. Another fp32 library may sum in another order only.
LIMIT_DB = {"fp32": 50.0, "fp16": 45.0, "int8": 30.0}
_SAME_DB = 100.0  # what equal images count as


@dataclass(frozen=True)
class EncodedPhoto:
    """A photo's name, the index of the rate it was encoded at, and the file."""

    photo: str
    rate: int
    data: bytes


@dataclass(frozen=True)
class RateFidelity:
    """PSNR in dB over the images of one rate: mean, least, and the photo that has the least."""

    mean_db: float
    least_db: float
    worst: str


@dataclass(frozen=True)
class FidelityReport:
    """What the gate measured: photos, the limit, and the numbers of each rate by its index."""

    photos: int
    limit_db: float
    rates: Mapping[int, RateFidelity]

    @property
    def least_db(self) -> float:
        """PSNR of the worst image of all."""
        return min(rate.least_db for rate in self.rates.values())

    def document(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        document = asdict(self)
        return {**document, "rates": {str(index): rate for index, rate in document["rates"].items()}}


def encode(
    codec: Codec, photos: Sequence[Path], rates: Sequence[int], crop_px: int | None = None
) -> list[EncodedPhoto]:
    """Return every photo at every rate.

    Args:
        codec: encodes.
        photos: image files.
        rates: indices.
        crop_px: side of the square in the middle that is taken; None for the whole photo.

    Raises:
        ExportError: there are no photos. RdeicError: one cannot be read, or a graph cannot be run.
    """
    if not photos:
        raise ExportError("no photos to compare with float32 on; give some")
    files = []
    for photo in photos:
        image = pixels.read_image(photo)[0]
        if crop_px is not None:
            top, left = (max(0, (side - crop_px) // 2) for side in image.shape[:2])
            image = image[top : top + crop_px, left : left + crop_px]
        files += [EncodedPhoto(photo.name, rate, codec.encode(image, rate)) for rate in rates]
    return files


def decode(codec: Codec, files: Sequence[EncodedPhoto]) -> list[NDArray[np.uint8]]:
    """Return the image of each file, uint8 [H, W, 3]."""
    return [codec.decode(file.data) for file in files]


def compare(
    what: str,
    files: Sequence[EncodedPhoto],
    reference: Sequence[NDArray[np.uint8]],
    candidate: Sequence[NDArray[np.uint8]],
    limit_db: float,
) -> FidelityReport:
    """Return how close images are to the reference's.

    Args:
        what: the candidate's name in messages, such as ``int8-cpu``.
        files: what both were decoded from.
        reference, candidate: an image for each file.
        limit_db: least PSNR for every image.

    Raises:
        ExportError: an image is below the limit: what was built must not be used.
    """
    found: dict[int, list[tuple[float, str]]] = {}
    for file, want, got in zip(files, reference, candidate, strict=True):
        found.setdefault(file.rate, []).append((min(psnr_db(got, want), _SAME_DB), file.photo))
    rates = {}
    for index, values in found.items():
        least, worst = min(values)
        rates[index] = RateFidelity(round(float(np.mean([db for db, _ in values])), 2), round(least, 2), worst)
    below = {index: sum(db < limit_db for db, _ in values) for index, values in found.items()}
    if any(below.values()):
        numbers = "; ".join(
            f"rate {i}: {below[i]} of {len(found[i])}, mean {rate.mean_db} dB, {rate.worst} {rate.least_db} dB"
            for i, rate in rates.items()
        )
        raise ExportError(
            f"{what}: images differ from float32 by more than the limit of {limit_db:g} dB PSNR ({numbers}). Build in "
            "a higher precision; for int8, first measure the activation ranges on photos like these, with a higher "
            "--budget-db, by `python calibration/collect_ranges.py`."
        )
    return FidelityReport(len({file.photo for file in files}), limit_db, rates)
