"""What `rdeic-rt bench` measures, and the image it draws when it is given none."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import timing
from ..codec import Codec
from ..decode_options import DecodeOptions
from ..limits import Size

# The first finds graphs not loaded, and on a backend that records, the second finds nothing recorded.
WARM_UP_RUNS = 2


@dataclass(frozen=True)
class Spread:
    """Durations of one thing over several runs, in milliseconds."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Stages:
    """Time of each stage of one direction.

    Attributes:
        ms: by stage; one inside another is named after it, ``denoise.control``.
        one_by_one: whether a codec that records nothing was measured, as one that replays has no stages after y_hat.
    """

    ms: dict[str, Spread]
    one_by_one: bool


def decode_ms(
    codec: Codec, data: bytes, options: DecodeOptions, runs: int, *, nvtx: bool, done: Callable[[], None]
) -> Spread:
    """Return the time of `Codec.decode`, warm; the image is on the host when it ends."""
    for _ in range(WARM_UP_RUNS - 1):  # the caller has run it once
        codec.decode(data, options)
    return _spread(_timed(lambda: codec.decode(data, options), runs, nvtx=nvtx, done=done))


def encode_ms(codec: Codec, image: NDArray[np.uint8], rate: float, runs: int, done: Callable[[], None]) -> Spread:
    """Return the time of `Codec.encode`, warm."""
    return _spread(_timed(lambda: codec.encode(image, rate), runs, nvtx=False, done=done))


def decode_stages(
    codec: Codec,
    unrecorded: Callable[[], Codec],
    data: bytes,
    options: DecodeOptions,
    runs: int,
    *,
    nvtx: bool,
    done: Callable[[], None],
) -> Stages:
    """Return the time of each stage of decoding, waiting for the device after each.

    Args:
        codec: warm; where it turns out to replay what it recorded, its stages after y_hat cannot be told apart.
        unrecorded: opens one that records nothing, which is measured then.
        data, options: what is decoded, and how.
        runs: counted ones.
        nvtx: also mark NVTX ranges.
        done: called after each run.
    """
    with timing.collect() as times:
        codec.decode(data, options)
    one_by_one = "vae" not in times.seconds
    if one_by_one:
        codec = unrecorded()
        for _ in range(WARM_UP_RUNS):
            codec.decode(data, options)
    return Stages(_stages(lambda: codec.decode(data, options), codec, runs, nvtx=nvtx, done=done), one_by_one)


def encode_stages(
    codec: Codec, image: NDArray[np.uint8], rate: float, runs: int, *, nvtx: bool, done: Callable[[], None]
) -> Stages:
    """Return the time of each stage of encoding; nothing of it is ever recorded."""
    return Stages(_stages(lambda: codec.encode(image, rate), codec, runs, nvtx=nvtx, done=done), one_by_one=False)


def peak_rss_bytes() -> int | None:
    """Return the most memory that this process has had at a time, or None where the system does not say."""
    try:  # rusage would count what the process was forked from
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    except OSError:
        pass  # not Linux
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def drawn_image(size: Size) -> NDArray[np.uint8]:
    """Return an image, uint8 [H, W, 3], with the spectrum of a landscape: 1/f texture, a horizon, a few hard edges."""
    rng = np.random.default_rng(0)
    y, x = (
        np.arange(side)[:, None] / side if axis == 0 else np.arange(side)[None] / side
        for axis, side in enumerate((size.height, size.width))
    )
    frequency = np.hypot(np.fft.fftfreq(size.height)[:, None], np.fft.rfftfreq(size.width)[None])
    frequency[0, 0] = np.inf

    def texture() -> NDArray[np.float64]:
        spectrum = np.fft.rfft2(rng.standard_normal((size.height, size.width))) / frequency
        field = np.fft.irfft2(spectrum, (size.height, size.width))
        return np.asarray(field / (field.std() or 1.0))

    relief, tint = texture(), texture()
    ground = y > 0.55 + 0.04 * relief[:1]
    brightness = np.where(ground, 90 + 34 * relief, 205 - 60 * y + 12 * relief)
    for centre, width, top in ((0.2, 0.05, 0.35), (0.62, 0.09, 0.22), (0.85, 0.03, 0.45)):
        brightness = np.where((np.abs(x - centre) < width) & (y > top) & (y < 0.8), 60 + 14 * relief, brightness)
    colour = np.stack([brightness + 8 * tint, brightness + 2 * tint, brightness - 10 * tint + 20 * (1 - y)], axis=-1)
    return np.clip(np.rint(colour), 0, 255).astype(np.uint8)


def _timed(function: Callable[[], object], runs: int, *, nvtx: bool, done: Callable[[], None]) -> list[float]:
    seconds = []
    for _ in range(runs):
        with timing.collect(nvtx=True) if nvtx else contextlib.nullcontext():
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        done()
    return seconds


def _stages(
    function: Callable[[], object], codec: Codec, runs: int, *, nvtx: bool, done: Callable[[], None]
) -> dict[str, Spread]:
    by_stage: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        with timing.collect(nvtx=nvtx, wait=codec.synchronize) as times:
            function()
        for name, ms in times.total_ms().items():
            by_stage[name].append(ms / 1e3)
        done()
    order = list(by_stage)
    # A stage ends after those inside it; it is listed before them.
    names = sorted(by_stage, key=lambda name: (order.index(name.partition(".")[0]), "." in name, order.index(name)))
    return {name: _spread(by_stage[name]) for name in names}


def _spread(seconds: Sequence[float]) -> Spread:
    ms = [1e3 * value for value in seconds]
    return Spread(statistics.median(ms), min(ms), max(ms))
