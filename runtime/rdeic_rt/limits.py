"""Every ceiling on untrusted input, each with its reason.

A file of thirty bytes can announce a picture of any size. What it says is held against these limits, and against the
bytes that are there, before anything is allocated for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import LimitExceededError


@dataclass(frozen=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Limits:
    """Ceilings; raise one with ``Limits(max_pixels=...)`` where the input is trusted.

    Attributes:
        max_pixels: height times width. Decoding takes memory in proportion, whatever the length of the file; 8192 x
            8192 is more than most cameras give, and the decoded picture alone takes 201 MB.
        max_side_px: height, and width. What JPEG can hold; and since a picture is padded to a multiple of the model's,
            a picture one pixel wide and very long would take many times the memory that its pixels say.
        max_file_bytes: of an .rdc file or a picture, both of which are read whole. A picture of ``max_pixels`` with 16
            bits a sample takes 403 MB uncompressed; .rdc files are a thousand times smaller.
        max_metadata_bytes: of an .rdc file's metadata section, inflated. A few kilobytes of zlib can become gigabytes;
            the largest RGB profiles in use take about 2 MB, and the EXIF of a JPEG 64 kB.
    """

    max_pixels: int = 2**26
    max_side_px: int = 65_535
    max_file_bytes: int = 2**29
    max_metadata_bytes: int = 2**22

    def check_size(self, size: Size) -> None:
        """Check a picture's size.

        Raises:
            LimitExceededError: a side or the number of pixels is over its limit.
        """
        if max(size.height, size.width) > self.max_side_px:
            raise LimitExceededError(
                f"{size.width}x{size.height} pixels: a side may have {self.max_side_px} (limit max_side_px). "
                "Scale the picture down, or raise the limit"
            )
        if size.height * size.width > self.max_pixels:
            raise LimitExceededError(
                f"{size.width}x{size.height} is {size.height * size.width} pixels: {self.max_pixels} are allowed "
                "(limit max_pixels). Scale the picture down, or raise the limit"
            )


DEFAULT_LIMITS = Limits()
