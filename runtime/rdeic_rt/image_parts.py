"""Metadata of an image file, extracted by `png_file`, `jpeg_file`, `tiff_file` and `box_file`.

Pillow always reads metadata, and rejects an image for a fault in metadata that is not needed. These modules therefore
split a file first: Pillow gets what the pixels need, and the metadata that the codec needs is kept here.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

# Limit of unpacked metadata. It is larger than what is kept, so that too large an item is recognised.
MAX_INFLATED_BYTES = 2**22


@dataclass
class Parts:
    """A file taken apart.

    Attributes:
        pillow_data: what Pillow is to decode: the file, or the part of it that pixels need.
        exif: from its byte-order mark on.
        xmp: a packet of XMP.
        icc: an ICC profile.
        cicp: code points of primaries and transfer function (ITU-T H.273).
        gamma: exponent of the samples that PNG's gAMA gives, 1/2.2 for most; None if it gives none.
        chromaticities: x and y of white, red, green and blue, of PNG's cHRM.
        is_srgb: the file has PNG's sRGB chunk, which takes precedence over gAMA and cHRM.
        bits_per_sample: as far as it is known; 8 if it is not.
        is_deep_rgb: a PNG of red, green and blue with 16 bits each.
        transparent: the grey value, or red, green and blue, that stand for transparent pixels.
        sample_max: what is white in grey samples of more than 8 bits.
        is_inverted: grey samples of more than 8 bits count from white to black; of CMYK, Pillow has them inverted.
        is_turned_by_decoder: the decoder returns an upright image, regardless of XMP.
        problems: omissions and guesses, each a line for the user.
    """

    pillow_data: bytes
    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    cicp: tuple[int, int] | None = None
    gamma: float | None = None
    chromaticities: tuple[float, ...] | None = None
    is_srgb: bool = False
    bits_per_sample: int = 8
    is_deep_rgb: bool = False
    transparent: tuple[int, ...] | None = None
    sample_max: int = 65_535
    is_inverted: bool = False
    is_turned_by_decoder: bool = False
    problems: list[str] = field(default_factory=list)


def inflated(data: bytes) -> bytes | None:
    """Return the beginning of a zlib stream, at most `MAX_INFLATED_BYTES` + 1 bytes; None if it is none."""
    try:
        return zlib.decompressobj().decompress(data, MAX_INFLATED_BYTES + 1)
    except zlib.error:
        return None
