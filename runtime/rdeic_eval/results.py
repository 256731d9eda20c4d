"""The results of an evaluation: one `Measurement` for each file, and their summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rdeic_rt.errors import RdeicError
from rdeic_rt.limits import Size

from .metrics import JudgeFacts, Scores

OURS = "rdeic-rt"
PREVIEW = "rdeic-rt, preview"
_DOWNSCALED = ", downscaled"
# A file larger than ours by more than this factor does not count as being of our size.
SAME_SIZE = 1.1


def downscaled(codec: str) -> str:
    """Return the name of a codec whose images are made smaller first."""
    return codec + _DOWNSCALED


@dataclass(frozen=True)
class Measurement:
    """One file of one photo.

    Attributes:
        codec: `OURS`, `PREVIEW` (the same file decoded without denoising), a codec's name, or `downscaled` of it.
        rate: the bundle's rate that its size is compared with; None for a point of a codec's own curve.
        quality, scale: the other codec's setting; None and 1 for ours.
        size_bytes: of the whole file. bpp: bits per pixel of the photo.
        encode_ms, decode_ms: wall-clock time, of one run.
        scores: by metric.
        image: the middle of the decoded image, where it is kept.
    """

    codec: str
    rate: int | None
    quality: int | None
    scale: float
    size_bytes: int
    bpp: float
    encode_ms: float
    decode_ms: float
    scores: Scores
    image: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class PhotoResult:
    """All files of one photo.

    Attributes:
        own: lattices of the photo itself, by fault.
        image: its middle, where it is kept.
    """

    name: str
    size: Size
    measurements: tuple[Measurement, ...]
    sweep: tuple[Measurement, ...]
    own: Scores = field(default_factory=dict)
    image: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    def find(self, codec: str, rate: int) -> Measurement | None:
        """Return what a codec did at the size of a rate; the full size where downscaling was not called for."""
        by_codec = {m.codec: m for m in self.measurements if m.rate == rate}
        return by_codec.get(codec) or by_codec.get(codec.removesuffix(_DOWNSCALED))


@dataclass(frozen=True)
class Failure:
    """A photo that could not be measured, and why; it is in no mean."""

    name: str
    error: RdeicError | OSError


@dataclass(frozen=True)
class Mean:
    """A mean over `n` photos with its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """How much better ours is than another on the same photos, in a metric: positive is better.

    Attributes:
        gain: ours minus theirs, or theirs minus ours where lower is better.
        share_better: of photos on which ours is better, 0 to 1.
    """

    gain: Mean
    share_better: float


@dataclass(frozen=True)
class Summary:
    """One codec at the size of one rate, over all photos.

    Attributes:
        rate, codec: as in `Measurement`.
        n_above: photos on which its file is more than 10 % larger than ours.
        n_downscaled: photos that were made smaller for it.
        means: ``bpp``, ``encode_ms``, ``decode_ms`` and each metric and fault that at least one photo has.
        ours: by metric and fault, ours compared with it; empty for ours.
    """

    rate: int
    codec: str
    n_above: int
    n_downscaled: int
    means: Mapping[str, Mean]
    ours: Mapping[str, Comparison]


@dataclass(frozen=True)
class CurvePoint:
    """A point of a codec's rate-distortion curve: means over all photos, at one quality or one rate of ours."""

    codec: str
    setting: int
    bpp: float
    means: Mapping[str, float]


@dataclass(frozen=True)
class BdRate:
    """Bjontegaard delta rate of ours against a codec: the difference in bits at equal quality, negative is smaller.

    Attributes:
        metric, codec: what is compared.
        percent: None where it was left out; `reason` says why.
        covered: share of our range of the metric that the other's curve has too, 0 to 1.
    """

    metric: str
    codec: str
    percent: float | None
    covered: float
    reason: str | None


@dataclass(frozen=True)
class RateFacts:
    """A rate of the bundle: what an .rdc file stores, and what decodes it."""

    index: int
    label: str
    bpp: float
    steps: int
    model_id: str


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured, and of what.

    Attributes:
        bundle: its name. backend: which, with its facts.
        rates: those measured, largest files first.
        settings: of each other codec, with its library's version.
        left_out: codecs that cannot run here, and why.
        judges: the networks of the perceptual distance.
        photos, failures: each photo is in one of them.
        summaries: ours first at each rate. curve, bd_rates: empty where curves were not asked for.
        stopped: what ended the work before all photos were measured; None where they were.
    """

    bundle: str
    backend: Mapping[str, str]
    rates: tuple[RateFacts, ...]
    settings: Mapping[str, str]
    left_out: Mapping[str, str]
    judges: tuple[JudgeFacts, ...]
    photos: tuple[PhotoResult, ...]
    failures: tuple[Failure, ...]
    summaries: tuple[Summary, ...]
    curve: tuple[CurvePoint, ...]
    bd_rates: tuple[BdRate, ...]
    stopped: BaseException | None = None
