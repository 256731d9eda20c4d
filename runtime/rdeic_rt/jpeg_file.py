"""Splitting JPEG files: the segments that Pillow needs for the pixels, and EXIF, XMP and ICC profile."""

from __future__ import annotations

from collections.abc import Iterator

from .exif import PREFIX
from .image_parts import Parts

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_APPLICATION = range(0xE0, 0xF0)
_WITHOUT_LENGTH = {0x01, _SOI, *range(0xD0, 0xD8)}
# Of frames; DHT, JPG and DAC lie among them.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ICC = b"ICC_PROFILE\0"
# What files with a gain map have in them, there or in the image that is the map: Ultra HDR, its standard, and Apple's.
_GAIN_MAPS = (b"hdrgm:Version", b"urn:iso:std:iso:ts:21496", b"urn:com:apple:photo:2020:aux:hdrgainmap")
_COEFFICIENTS = 64
# Of JFIF and Adobe segments, which define the colours of the components; libjpeg ignores shorter ones.
_LEAST_BYTES = 12


def take_apart(data: bytes) -> Parts:
    """Return the parts of a JPEG file; of a camera's file of several images, those of the first."""
    parts = Parts(data)
    kept: list[bytes] = [SIGNATURE[:2]]
    # Adobe's writers invert CMYK, and Pillow takes all to do so.
    parts.is_inverted = True
    icc: dict[int, bytes] = {}
    icc_count = 0
    for marker, at, end in _segments(data, 2):
        if marker == _SOS:
            kept.append(data[at:])
            break
        body = data[at + 4 : end]
        if marker not in _APPLICATION and marker != _COM:
            kept.append(data[at:end])
        elif marker in (_APP0, _APP14) and len(body) >= _LEAST_BYTES:
            kept.append(data[at:end])
            parts.is_inverted &= not body.startswith(b"Adobe")
        elif marker == _APP1 and body.startswith(PREFIX):
            # The rest of EXIF that is longer than a segment continues in the next.
            more = body.removeprefix(PREFIX)
            is_another = parts.exif is not None and more[:4] in (b"II*\0", b"MM\0*")
            parts.exif = parts.exif if is_another else (parts.exif or b"") + more
        elif marker == _APP1 and body.startswith(_XMP) and parts.xmp is None:
            parts.xmp = body.removeprefix(_XMP)
        elif marker == _APP2 and body.startswith(_ICC) and len(body) > 14:
            icc[body[12]], icc_count = body[14:], body[13]
    else:
        return parts
    if len(icc) == icc_count:
        parts.icc = b"".join(icc[number] for number in sorted(icc)) or None
    else:
        parts.problems.append(f"the image's ICC profile is damaged ({len(icc)} of {icc_count} parts); it is left out")
    if any(name in data for name in _GAIN_MAPS):
        parts.problems.append("the image has a gain map for HDR displays, which is left out")
    parts.pillow_data = b"".join(kept)
    return parts


def are_all_scans_begun(data: bytes) -> bool:
    """Return whether each coefficient of each component is in a scan to its last bit, whole or not.

    A file truncated in its last scan lacks only the pixels after that point; one truncated earlier lacks detail
    everywhere.
    """
    bits_left: dict[int, list[int]] = {}
    for marker, at, end in _segments(data, 2):
        body = data[at + 4 : end]
        if marker in _FRAMES and len(body) >= 6:
            bits_left = {component: [1] * _COEFFICIENTS for component in body[6 : 6 + 3 * body[5] : 3]}
        elif marker == _SOS and len(body) >= 4:
            n = body[0]
            if len(body) < 4 + 2 * n:
                return False
            first, last, low = body[1 + 2 * n], body[2 + 2 * n], body[3 + 2 * n] & 15
            for component in body[1 : 1 + 2 * n : 2]:
                for coefficient in range(first, min(last, _COEFFICIENTS - 1) + 1):
                    bits_left.setdefault(component, [1] * _COEFFICIENTS)[coefficient] = low
    return bool(bits_left) and not any(any(bits) for bits in bits_left.values())


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield marker, beginning and end of each segment from a byte on; coded data between them are passed over."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 2 > len(data):
            return
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _EOI or end > len(data) or end < at + 4:
            return
        yield marker, at, end
        at = end
