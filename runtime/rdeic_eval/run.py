"""MAIN PATH: every photo is read, coded by us and by the other codecs, decoded and judged; then means are computed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from rdeic_rt import pixels
from rdeic_rt.codec import Codec
from rdeic_rt.errors import RdeicError
from rdeic_rt.limits import Size
from rdeic_rt.manifest import Rate

from . import reference_codecs, summary
from .metrics import JUDGES, Judge, Reference, Scores, lattices, mean_distance
from .psnr import psnr_db
from .reference_codecs import BundleCodec, CodedFile, Encodings, OtherCodec
from .results import (
    OURS,
    PREVIEW,
    SAME_SIZE,
    Evaluation,
    Failure,
    Measurement,
    PhotoResult,
    RateFacts,
    downscaled,
)

# Sides of the image that a codec is given instead, where its smallest file of the whole is too large.
SCALES = (0.75, 0.5, 0.375, 0.25, 0.125)
# What is kept of an image for the sheet: its middle, at most this large.
KEPT_SIDE_PX = 480
_WARM_UP_PX = 64
_log = logging.getLogger("rdeic_eval")

OnPhoto: TypeAlias = Callable[[float, str, str], None]
"""Called with the number of photos done, the name of the one in work, and what is done of it."""


def evaluate(
    codec: Codec,
    photos: Iterable[str | Path],
    *,
    rates: Sequence[int] | None = None,
    codecs: Iterable[str] = reference_codecs.IDS,
    beside: Sequence[Codec] = (),
    curves: bool = True,
    keep_images: int = 0,
    threads: int | None = None,
    progress: OnPhoto | None = None,
    until_stopped: bool = False,
) -> Evaluation:
    """Return rate, distortion and time of every photo at every rate, and of other codecs at the same file size.

    A photo that cannot be read or coded is excluded from everything, so that all means are over the same photos.

    Args:
        codec: ours.
        photos: their files; as `pixels.read_image` reads them, so the codecs get what `rdeic-rt encode` gets.
        rates: indices into ``bundle.rates``; None for all.
        codecs: ids of `reference_codecs.CODECS`; those that cannot run here are left out, and named in the result.
        beside: other bundles to compare with.
        curves: also code each photo over a sweep of qualities, for curves and BD-rates.
        keep_images: of how many photos the decoded images are kept.
        threads: of PyTorch, in the whole process and from now on; None for as many as it has.
        progress: called with the number of photos done, the share of the one in work among them, its name, and what
            begins: our rate, or another codec.
        until_stopped: where Ctrl-C or an error that is no photo's fault ends the work, return what is complete, with
            ``Evaluation.stopped``, instead of raising.
    Raises:
        ValueError: no such rate or codec.
        ImportError: a package of the extra ``eval`` is missing.
    """
    chosen = _chosen_rates(codec, rates)
    available = reference_codecs.available(codecs)
    if threads is not None:
        torch.set_num_threads(threads)
    others = (*(BundleCodec(one) for one in beside), *available.codecs)
    settings = {c.name: f"{c.settings} ({available.libraries[c.name]})" for c in available.codecs}
    judge = Judge()
    for one, its_rates in ((codec, chosen), *((one, one.bundle.rates) for one in beside)):
        _warm_up(one, its_rates)
    done: list[PhotoResult] = []
    failures: list[Failure] = []
    stopped: BaseException | None = None
    for path in photos:
        name = str(path)

        def tell(share: float, part: str, name: str = name) -> None:
            if progress is not None:
                progress(len(done) + len(failures) + share, name, part)

        try:
            photo, _ = pixels.read_image(path, codec.limits)
            bench = _Photo(codec, judge, photo, tell, keep=len(done) < keep_images)
            done.append(bench.measure(name, chosen, others, curves=curves))
        except (RdeicError, OSError) as error:
            failures.append(Failure(name, error))
            continue
        except (Exception, KeyboardInterrupt) as error:
            if not until_stopped:
                raise
            stopped = error
            break
        _log.info("%s: measured at %d rates beside %d codecs", name, len(chosen), len(others))
    curve = summary.curve(done, [rate.index for rate in chosen]) if curves else ()
    return Evaluation(
        bundle=codec.bundle.name,
        backend={"name": codec.backend, **codec.description()},
        rates=tuple(_facts(codec, rate) for rate in chosen),
        settings={c.name: c.settings for c in others} | settings,
        left_out=available.left_out,
        judges=JUDGES,
        photos=tuple(done),
        failures=tuple(failures),
        summaries=summary.summarise(done, [rate.index for rate in chosen]),
        curve=curve,
        bd_rates=summary.bd_rates(curve),
        stopped=stopped,
    )


@dataclass
class _Photo:
    """One photo at work."""

    codec: Codec
    judge: Judge
    photo: NDArray[np.uint8]
    tell: Callable[[float, str], None]
    keep: bool

    def measure(self, name: str, rates: Sequence[Rate], codecs: Sequence[OtherCodec], *, curves: bool) -> PhotoResult:
        """Return everything about it; errors as for `Codec.encode` and `OtherCodec.encode`."""
        parts = [*(f"rate {rate.index}" for rate in rates), *(other.name for other in codecs)]
        begun = iter(enumerate(parts))

        def begin_next() -> None:
            number, part = next(begun)
            self.tell(number / len(parts), part)

        reference = self.judge.reference(self.photo)
        found: list[Measurement] = []
        sizes: dict[int, int] = {}
        for rate in rates:
            begin_next()
            ours = self._ours(rate, reference)
            sizes[rate.index] = ours[0].size_bytes
            found += ours
        sweep: list[Measurement] = []
        for other in codecs:
            begin_next()
            files = _Files(self, other, reference)
            for rate_index, size_bytes in sizes.items():
                found += files.near(rate_index, size_bytes)
            if curves:
                sweep += [files.measured(files.full.at(quality), other.name, None) for quality in other.sweep]
        size = Size(height=self.photo.shape[0], width=self.photo.shape[1])
        own = lattices(self.photo, reference.flat)
        return PhotoResult(name, size, tuple(found), tuple(sweep), own, self.kept(self.photo))

    def _ours(self, rate: Rate, reference: Reference) -> list[Measurement]:
        began = time.perf_counter()
        data = self.codec.encode(self.photo, rate.index)
        encoded = time.perf_counter()
        image = self.codec.decode(data)
        decoded = time.perf_counter()
        preview = self.codec.preview(data)
        previewed = time.perf_counter()
        whole = Measurement(
            codec=OURS,
            rate=rate.index,
            quality=None,
            scale=1.0,
            size_bytes=len(data),
            bpp=self.bpp(len(data)),
            encode_ms=1e3 * (encoded - began),
            decode_ms=1e3 * (decoded - encoded),
            scores=self.judge.scores(image, reference),
            image=self.kept(image),
        )
        rough = replace(
            whole,
            codec=PREVIEW,
            decode_ms=1e3 * (previewed - decoded),
            scores=self.judge.scores(preview, reference),
            image=self.kept(preview),
        )
        return [whole, rough]

    def bpp(self, size_bytes: int) -> float:
        """Return bits per pixel of the photo."""
        return 8 * size_bytes / int(self.photo.shape[0] * self.photo.shape[1])

    def kept(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Return the middle of an image, where it is to be kept."""
        if not self.keep:
            return None
        top, left = (max(side - KEPT_SIDE_PX, 0) // 2 for side in image.shape[:2])
        return image[top : top + KEPT_SIDE_PX, left : left + KEPT_SIDE_PX].copy()


class _Files:
    """The files of one photo by another codec; nothing is coded or judged twice."""

    def __init__(self, photo: _Photo, other: OtherCodec, reference: Reference) -> None:
        self._photo, self._other, self._reference = photo, other, reference
        self.full = Encodings(other, photo.photo)
        self._at_scale: dict[float, Encodings] = {1.0: self.full}
        self._images: dict[tuple[float, int], _Decoded] = {}

    def near(self, rate: int, size_bytes: int) -> list[Measurement]:
        """Return the smallest file at or above a size, and where that is too large, the best of a smaller image."""
        full = self.measured(self.full.at_least(size_bytes), self._other.name, rate)
        if full.size_bytes <= SAME_SIZE * size_bytes:
            return [full]
        return [full, self._downscaled(rate, size_bytes)]

    def _downscaled(self, rate: int, size_bytes: int) -> Measurement:
        """Return the file with the lowest mean distance of those of our size, one for each scale.

        An encoder could not choose by the decoded image, so this is an upper bound on downscaling. Scales are
        tried from the largest until one is worse than the one before. If none reaches our size, it is the smallest
        file of all.
        """
        best: CodedFile | None = None
        too_large = []
        for scale in SCALES:
            if scale not in self._at_scale:
                self._at_scale[scale] = Encodings(self._other, self._photo.photo, scale)
            file = self._at_scale[scale].at_least(size_bytes)
            if len(file.data) > SAME_SIZE * size_bytes:
                too_large.append(file)
                continue
            if best is not None and self._decoded(file).badness() >= self._decoded(best).badness():
                break
            best = file
        found = best or min(too_large, key=lambda file: len(file.data))
        return self.measured(found, downscaled(self._other.name), rate)

    def measured(self, file: CodedFile, name: str, rate: int | None) -> Measurement:
        """Return the measurement of a file."""
        decoded = self._decoded(file)
        return Measurement(
            codec=name,
            rate=rate,
            quality=file.quality,
            scale=file.scale,
            size_bytes=len(file.data),
            bpp=self._photo.bpp(len(file.data)),
            encode_ms=file.encode_ms,
            decode_ms=decoded.decode_ms,
            scores=decoded.scores,
            image=self._photo.kept(decoded.image) if rate is not None else None,
        )

    def _decoded(self, file: CodedFile) -> _Decoded:
        key = (file.scale, file.quality)
        if key not in self._images:
            image, decode_ms = self._at_scale[file.scale].decode(file)
            self._images[key] = _Decoded(self._photo.judge, self._reference, image, decode_ms)
        return self._images[key]


@dataclass(frozen=True)
class _Decoded:
    """An image by another codec; it is judged once, and no further than needed."""

    judge: Judge
    reference: Reference
    image: NDArray[np.uint8]
    decode_ms: float

    @cached_property
    def distances(self) -> Scores:
        """The distances alone, by which scales are compared."""
        return self.judge.distances(self.image, self.reference)

    @cached_property
    def scores(self) -> Scores:
        """Every metric and fault."""
        return self.judge.scores(self.image, self.reference, self.distances)

    def badness(self) -> float:
        """Return the mean distance; the negative PSNR if the image is too small for the judges."""
        distance = mean_distance(self.distances)
        return -psnr_db(self.image, self.reference.photo) if distance is None else distance


def _chosen_rates(codec: Codec, rates: Sequence[int] | None) -> list[Rate]:
    """Return the rates, each once, largest files first."""
    indices = range(len(codec.bundle.rates)) if rates is None else dict.fromkeys(rates)
    return sorted((codec.bundle.choose_rate(index) for index in indices), key=lambda rate: -rate.bpp)


def _warm_up(codec: Codec, rates: Sequence[Rate]) -> None:
    """Load every graph, so that no photo's time includes it."""
    grey = np.full((_WARM_UP_PX, _WARM_UP_PX, 3), 128, np.uint8)
    for rate in rates:
        data = codec.encode(grey, rate.index)
        codec.decode(data)
        codec.preview(data)


def _facts(codec: Codec, rate: Rate) -> RateFacts:
    steps = codec.bundle.n_steps(rate)
    return RateFacts(rate.index, rate.label, rate.bpp, steps, rate.model_id.hex())
