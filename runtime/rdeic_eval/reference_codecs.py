"""The codecs that ours is compared with: those of Pillow, at settings that make small files, and other bundles."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from rdeic_rt.codec import Codec
from rdeic_rt.errors import ImageError

# What Pillow and its plugins raise when a codec refuses an image.
_CODEC_ERRORS = (OSError, ValueError, RuntimeError, SystemError, UnidentifiedImageError)


class OtherCodec(ABC):
    """A codec and its settings.

    Attributes:
        name: for people.
        settings: what is fixed, in words.
        qualities: what it may be asked for, smallest files first.
        sweep: the qualities of its rate-distortion curve.
    """

    name: str
    settings: str
    qualities: range
    sweep: tuple[int, ...]

    @abstractmethod
    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Return the file of an RGB image.

        Raises:
            RdeicError: the codec refuses it, as for one that is too large.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Image.Image:
        """Return the RGB image in a file.

        Raises:
            RdeicError: the codec cannot read what it wrote.
        """


class BundleCodec(OtherCodec):
    """Another bundle than the one that is measured; if it has levels, in steps of an eighth of a rate."""

    _BETWEEN = 8

    def __init__(self, codec: Codec) -> None:
        """Take a bundle that is loaded."""
        rates = codec.bundle.rates
        self._codec = codec
        self._between = self._BETWEEN if codec.bundle.levels is not None else 1
        self.name = codec.bundle.name
        self.settings = f"bundle of family {codec.bundle.family}, rates 0 to {len(rates) - 1}"
        self.qualities = range((len(rates) - 1) * self._between + 1)
        self.sweep = tuple(range(0, len(self.qualities), self._between))
        # From the smallest files on; bundles with rates between have theirs in order, largest first.
        self._rates = sorted(range(len(rates)), key=lambda index: rates[index].bpp)

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Return the .rdc file; errors as of `Codec.encode`."""
        whole, part = divmod(quality, self._between)
        rate = self._rates[whole]
        return self._codec.encode(np.asarray(image), rate - part / self._between if part else rate)

    def decode(self, data: bytes) -> Image.Image:
        """Return the image; errors as of `Codec.decode`."""
        return Image.fromarray(self._codec.decode(data))


@dataclass(frozen=True)
class PillowCodec(OtherCodec):
    """A codec of Pillow's.

    Attributes:
        id: for the command line.
        name, settings, qualities, sweep: as of `OtherCodec`; Pillow's ``quality``.
        pillow_format, options: what Pillow is told.
    """

    id: str
    name: str
    settings: str
    pillow_format: str
    options: Mapping[str, Any]
    qualities: range
    sweep: tuple[int, ...]

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Return the file of an RGB image.

        Raises:
            ImageError: the codec refuses it, as for one that is too large.
        """
        buffer = BytesIO()
        try:
            image.save(buffer, self.pillow_format, quality=quality, **self.options)
        except _CODEC_ERRORS as error:
            raise ImageError(f"{self.name} cannot encode {image.width}x{image.height} pixels: {error}") from None
        return buffer.getvalue()

    def decode(self, data: bytes) -> Image.Image:
        """Return the RGB image in a file.

        Raises:
            ImageError: the codec cannot read what it wrote.
        """
        try:
            return Image.open(BytesIO(data), formats=[self.pillow_format]).convert("RGB")
        except _CODEC_ERRORS as error:
            raise ImageError(f"{self.name} cannot decode its own file: {error}") from None


# AVIF at speed 0 would gain little, in five to ten times the time (docs/evaluation.md). Its files depend on whether it
# has more than one thread, but not on how many.
_SWEEP = (0, 4, 10, 20, 40)
CODECS = (
    PillowCodec(
        "jpeg",
        "JPEG",
        "progressive, optimised Huffman tables, 4:2:0",
        "JPEG",
        {"progressive": True, "optimize": True, "subsampling": "4:2:0"},
        range(1, 96),
        (1, *_SWEEP[1:]),
    ),
    PillowCodec("webp", "WebP", "lossy, method 6", "WEBP", {"method": 6}, range(101), _SWEEP),
    PillowCodec("avif", "AVIF", "speed 4, 4:2:0", "AVIF", {"speed": 4, "max_threads": 2}, range(101), _SWEEP),
    PillowCodec("jxl", "JPEG XL", "lossy, effort 8", "JXL", {"effort": 8}, range(100), _SWEEP),
)
IDS = tuple(codec.id for codec in CODECS)


@dataclass(frozen=True)
class Available:
    """Which of the codecs asked for can run here.

    Attributes:
        codecs: those that can.
        libraries: what does the work, with its version, by the codec's name.
        left_out: why the others cannot, by name.
    """

    codecs: tuple[PillowCodec, ...]
    libraries: Mapping[str, str]
    left_out: Mapping[str, str]


def available(ids: Iterable[str] = IDS) -> Available:
    """Return which of these codecs can run here.

    Raises:
        ValueError: there is no codec of an id.
    """
    wanted = list(ids)
    unknown = [name for name in wanted if name not in IDS]
    if unknown:
        raise ValueError(f"no codec {', '.join(unknown)}; there are {', '.join(IDS)}")
    found, libraries, left_out = [], {}, {}
    for codec in CODECS:
        if codec.id in wanted:
            try:
                libraries[codec.name] = _library(codec.id)
                found.append(codec)
            except ImportError as error:
                left_out[codec.name] = str(error)
    return Available(tuple(found), libraries, left_out)


def _library(codec_id: str) -> str:
    """Return name and version of the library of a codec, once Pillow can use it (ImportError where it cannot)."""
    if codec_id == "jxl":
        try:
            import pillow_jxl  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"pillow_jxl cannot be imported ({error}); install it with `pip install pillow-jxl-plugin`"
            ) from None
        return f"pillow-jxl-plugin {version('pillow-jxl-plugin')}"
    if codec_id == "jpeg":
        turbo = features.version("libjpeg_turbo")
        return f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"
    if not features.check(codec_id):
        raise ImportError(f"Pillow {version('pillow')} is built without it here; install a newer one")
    return f"lib{codec_id} {features.version(codec_id)}"


@dataclass(frozen=True)
class CodedFile:
    """One file by another codec, at one quality and scale; encode_ms counts the scaling."""

    quality: int
    scale: float
    data: bytes
    encode_ms: float


class Encodings:
    """The files of one photo by one codec at one scale, each made once however often it is asked for."""

    def __init__(self, codec: OtherCodec, photo: NDArray[np.uint8], scale: float = 1.0) -> None:
        """Scale the photo, uint8 [H, W, 3], down by Lanczos resampling; sides stay at least a pixel."""
        self._codec = codec
        self._scale = scale
        self._size = (photo.shape[1], photo.shape[0])
        self._files: dict[int, CodedFile] = {}
        began = time.perf_counter()
        self._image = Image.fromarray(photo)
        if scale != 1.0:
            width, height = (max(round(scale * side), 1) for side in self._size)
            self._image = self._image.resize((width, height), Image.Resampling.LANCZOS)
        self._scaling_ms = 1e3 * (time.perf_counter() - began)

    def at(self, quality: int) -> CodedFile:
        """Return the file of this quality."""
        if quality not in self._files:
            began = time.perf_counter()
            data = self._codec.encode(self._image, quality)
            encode_ms = self._scaling_ms + 1e3 * (time.perf_counter() - began)
            self._files[quality] = CodedFile(quality, self._scale, data, encode_ms)
        return self._files[quality]

    def at_least(self, size_bytes: int) -> CodedFile:
        """Return the smallest file of at least this size, or the largest there is.

        The quality is searched in doubling steps from the lowest and then by bisection: small files are quick to make.
        A codec whose sizes do not always grow with its quality may have a slightly smaller one.
        """
        below, highest = self._codec.qualities[0], self._codec.qualities[-1]
        if len(self.at(below).data) >= size_bytes:
            return self.at(below)
        step = 1
        while len(self.at(reached := min(below + step, highest)).data) < size_bytes and reached < highest:
            below, step = reached, 2 * step
        while reached - below > 1:
            middle = (below + reached) // 2
            if len(self.at(middle).data) >= size_bytes:
                reached = middle
            else:
                below = middle
        return self.at(reached)

    def decode(self, file: CodedFile) -> tuple[NDArray[np.uint8], float]:
        """Return the image in one of the files, in the photo's size, and the time it took in milliseconds."""
        began = time.perf_counter()
        image = self._codec.decode(file.data)
        if image.size != self._size:
            image = image.resize(self._size, Image.Resampling.LANCZOS)
        samples = np.asarray(image)
        return samples, 1e3 * (time.perf_counter() - began)
