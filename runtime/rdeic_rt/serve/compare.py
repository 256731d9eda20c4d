"""The same image in another codec's file of a given size, for the viewer; Pillow's codecs."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from .. import pillow_guard, stopping
from ..errors import ImageError

_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "jpeg": {"optimize": True},
    "webp": {"method": 4},
    "avif": {"speed": 6},
}
_QUALITIES = range(1, 96)
# Where the least quality gives more bytes than there are, a smaller image is sent, with no less than this quality.
_LEAST_WHEN_SCALED = 10
_SHRINK = 0.75
_LEAST_SIDE = 8


@dataclass(frozen=True)
class Compared:
    """What a codec makes of an image.

    Attributes:
        image: as decoded, uint8 [H, W, 3], at the size of the source.
        data: the file.
        quality: that was asked for.
        scale: of the image that was coded, 1 or less.
    """

    image: NDArray[np.uint8]
    data: bytes
    quality: int
    scale: float

    @property
    def n_bytes(self) -> int:
        """Length of the file."""
        return len(self.data)


def available() -> tuple[str, ...]:
    """Return the codecs that this Pillow can write."""
    return tuple(name for name in _OPTIONS if name == "jpeg" or features.check(name))


def compare(image: NDArray[np.uint8], codec: str, target_bytes: int) -> Compared:
    """Return the best of a codec in at most so many bytes: at full size if any quality fits, else scaled down.

    Args:
        image: uint8 [H, W, 3].
        codec: one of `available`.
        target_bytes: of the whole file.

    Raises:
        ValueError: no such codec here.
        ImageError: not even an image of 8 pixels is so small.
    """
    if codec not in available():
        raise ValueError(f"codec {codec!r} is not one of {', '.join(available())}")
    source, scale = Image.fromarray(image), 1.0
    while True:
        width, height = (max(1, round(side * scale)) for side in source.size)
        scaled = source if scale == 1 else source.resize((width, height), Image.Resampling.LANCZOS)
        least = 0 if scale == 1 else _QUALITIES.index(_LEAST_WHEN_SCALED)
        found = _best(scaled, codec, target_bytes, _QUALITIES[least:])
        if found is not None:
            quality, data = found
            with pillow_guard.quiet(), Image.open(BytesIO(data)) as decoded:
                shown = decoded.convert("RGB")
            if scale < 1:
                shown = shown.resize(source.size, Image.Resampling.BICUBIC)
            return Compared(np.asarray(shown), data, quality, scale)
        if max(width, height) <= _LEAST_SIDE:
            raise ImageError(f"no {codec.upper()} file has {target_bytes} bytes or fewer")
        scale *= _SHRINK


def _best(image: Image.Image, codec: str, target_bytes: int, qualities: range) -> tuple[int, bytes] | None:
    """Return the highest quality whose file fits, and the file; sizes are taken to rise with quality."""
    best = None
    low, high = 0, len(qualities) - 1
    middle = low  # where nothing fits, that is known after one file
    while low <= high:
        stopping.go_on()
        data = _encode(image, codec, qualities[middle])
        if len(data) <= target_bytes:
            best, low = (qualities[middle], data), middle + 1
        elif best is None:
            break
        else:
            high = middle - 1
        middle = (low + high) // 2
    return best


def _encode(image: Image.Image, codec: str, quality: int) -> bytes:
    encoded = BytesIO()
    with pillow_guard.quiet():
        image.save(encoded, codec.upper(), quality=quality, **_OPTIONS[codec])
    return encoded.getvalue()
