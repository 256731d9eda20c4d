"""Splitting PNG files: the chunks that Pillow needs for the pixels, and colours and metadata from the others.

Chunks that are not needed are not read, however large or damaged they are. A chunk that is not needed for the pixels
is dropped if its checksum is wrong, as in libpng.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ImageError
from .image_parts import Parts, inflated
from .limits import Limits, Size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_NAMES = {
    b"iCCP": "ICC profile",
    b"eXIf": "EXIF",
    b"tRNS": "transparency",
    b"cICP": "colour space",
    b"gAMA": "gamma",
    b"cHRM": "chromaticities",
    b"sRGB": "sRGB",
}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_RGB, _PALETTE = 2, 3
_UNSPECIFIED = 2
# Of each pass of an interlaced image: its first column and row, and how far apart the others are.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# Filter type "up", with no difference: the row above once more.
_REPEAT_ROW = b"\2"


@dataclass(frozen=True)
class _Chunk:
    """A chunk: its name, data and checksum; of a truncated chunk, the parts that are present."""

    name: bytes
    data: memoryview
    crc: memoryview
    is_whole: bool

    @property
    def is_intact(self) -> bool:
        return self.is_whole and zlib.crc32(self.data, zlib.crc32(self.name)) == int.from_bytes(self.crc, "big")


@dataclass(frozen=True)
class _Header:
    """The contents of IHDR; sizes in pixels."""

    size: Size
    bits: int
    colour_type: int
    is_interlaced: bool

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a row of so many pixels, its filter type among them."""
        return 1 + (width * _CHANNELS.get(self.colour_type, 1) * self.bits + 7) // 8

    @property
    def passes(self) -> list[Size]:
        """The images that its data hold one after the other; of several, the last has every other row in full width."""
        height, width = self.size.height, self.size.width
        if not self.is_interlaced:
            return [self.size]
        counts = [(-(-(height - y) // down), -(-(width - x) // across)) for x, y, across, down in _ADAM7]
        return [Size(height=rows, width=columns) for rows, columns in counts]


def take_apart(data: bytes, limits: Limits, most_missing: float) -> Parts:
    """Return the parts of a PNG file.

    Args:
        data: begins with the signature.
        limits: of the image.
        most_missing: the part of its rows that may be guessed when it is cut short.
    Raises:
        LimitExceededError: the image is too large.
        ImageError: more rows than that are missing.
    """
    chunks = list(_chunks(data))
    header = _header(chunks)
    if header is None:
        return Parts(data)
    limits.check_size(header.size)
    parts = Parts(b"", bits_per_sample=header.bits, is_deep_rgb=header.bits == 16 and header.colour_type == _RGB)
    palette_alpha: list[_Chunk] = []
    for chunk in chunks:
        if chunk.name == b"tRNS" and header.colour_type == _PALETTE and chunk.is_intact:
            palette_alpha.append(chunk)
        elif chunk.name in _NAMES and not chunk.is_intact:
            parts.problems.append(f"the image's {_NAMES[chunk.name]} is damaged; it is left out")
        elif chunk.name not in _CRITICAL:
            _take(chunk, header, parts)
    before = [chunk for chunk in chunks if chunk.name in (b"IHDR", b"PLTE")]
    image_data = [chunk for chunk in chunks if chunk.name == b"IDAT"]
    if image_data and not (chunks[-1].name == b"IEND" and image_data[-1].is_whole):
        repaired = _repaired(b"".join(chunk.data for chunk in image_data), header, most_missing, parts)
        image_data = image_data if repaired is None else [_unsigned(b"IDAT", repaired)]
    needed = (*before, *palette_alpha[:1], *image_data, _unsigned(b"IEND", b""))
    parts.pillow_data = SIGNATURE + b"".join(piece for chunk in needed for piece in _written(chunk))
    return parts


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to IEND, or to where the file ends or is no longer made of chunks."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if not name.isalpha() or length > 2**31 - 1:
            return
        end = at + 8 + length
        yield _Chunk(name, view[at + 8 : end], view[end : end + 4], end + 4 <= len(data))
        if name == b"IEND":
            return
        at = end + 4


def _unsigned(name: bytes, data: bytes) -> _Chunk:
    return _Chunk(name, memoryview(data), memoryview(b""), is_whole=False)


def _written(chunk: _Chunk) -> tuple[bytes | memoryview, ...]:
    """Return the pieces of a chunk in a file; a truncated chunk gets length and checksum of the part present."""
    crc: bytes | memoryview = chunk.crc
    if not chunk.is_whole:
        crc = zlib.crc32(chunk.data, zlib.crc32(chunk.name)).to_bytes(4, "big")
    return len(chunk.data).to_bytes(4, "big"), chunk.name, chunk.data, crc


def _header(chunks: list[_Chunk]) -> _Header | None:
    if not chunks or chunks[0].name != b"IHDR" or len(chunks[0].data) < 13:
        return None
    width, height, bits, colour_type, interlace = struct.unpack(">IIBB2xB", chunks[0].data[:13])
    return _Header(Size(height=height, width=width), bits, colour_type, bool(interlace))


def _take(chunk: _Chunk, header: _Header, parts: Parts) -> None:
    """Add the contents of an ancillary chunk to the parts; only the first of its kind is used."""
    data = bytes(chunk.data) if len(chunk.data) <= 2**24 else b""
    match chunk.name:
        case b"iCCP" if parts.icc is None:
            parts.icc = inflated(data.partition(b"\0")[2][1:])
            if not parts.icc:
                parts.problems.append("the image's ICC profile is damaged; it is left out")
        case b"eXIf" if parts.exif is None:
            parts.exif = data
        case b"tRNS":
            parts.transparent = _transparent(data, header)
        case b"cICP" if len(data) >= 4:
            parts.cicp = (data[0], data[1])
            if data[2] not in (0, _UNSPECIFIED) or data[3] == 0:
                parts.problems.append(
                    "the image is said to be YCbCr or of video range, and is taken for full-range RGB"
                )
        case b"gAMA" if len(data) >= 4:
            parts.gamma = int.from_bytes(data[:4], "big") / 100_000 or None
        case b"cHRM" if len(data) >= 32:
            parts.chromaticities = tuple(value / 100_000 for value in struct.unpack(">8I", data[:32]))
        case b"sRGB":
            parts.is_srgb = True
        case b"acTL" if len(data) >= 4 and int.from_bytes(data[:4], "big") > 1:
            parts.problems.append("the image is the first of several frames; the others are left out")
        case b"iTXt" | b"zTXt" | b"tEXt":
            _take_text(chunk.name, data, parts)


def _transparent(data: bytes, header: _Header) -> tuple[int, ...] | None:
    """Return the samples of transparent pixels; of a chunk with other bits than samples have, those count."""
    n_values = {0: 1, _RGB: 3}.get(header.colour_type, 0)
    if n_values == 0 or len(data) < 2 * n_values:
        return None
    values: tuple[int, ...] = struct.unpack(f">{n_values}H", data[: 2 * n_values])
    return tuple(value & (1 << header.bits) - 1 for value in values)


def _take_text(name: bytes, data: bytes, parts: Parts) -> None:
    """Take XMP, and EXIF as ImageMagick wrote it before PNG had a chunk for it; other texts are not even unpacked."""
    keyword, _, rest = data[:2000].partition(b"\0")
    rest = data[len(keyword) + 1 :]
    if keyword == b"XML:com.adobe.xmp" and name == b"iTXt" and parts.xmp is None:
        is_compressed = rest[:1] == b"\1"
        text = rest[2:].split(b"\0", 2)[-1]
        parts.xmp = inflated(text) if is_compressed else text
    elif keyword in (b"Raw profile type exif", b"Raw profile type APP1") and name != b"iTXt" and parts.exif is None:
        text = (inflated(rest[1:]) or b"") if name == b"zTXt" else rest
        try:
            found = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
        except ValueError:
            parts.problems.append("the image's EXIF is malformed; it is left out")
            return
        if found.startswith(b"Exif\0\0") or found[:2] in (b"II", b"MM"):
            parts.exif = found


def _repaired(stream: bytes, header: _Header, most_missing: float, parts: Parts) -> bytes | None:
    """Return the image data of a truncated file, with missing rows filled by copies of the last one present.

    None if it should be left unchanged: no row is missing, or the missing rows cannot be determined.
    """
    *before, last = [header.row_bytes(size.width) * size.height if size.width > 0 else 0 for size in header.passes]
    row_bytes = header.row_bytes(header.size.width)
    try:
        raw = zlib.decompressobj().decompress(stream, sum(before) + last)
    except zlib.error:
        return None
    whole_rows = max(len(raw) - sum(before), 0) // row_bytes
    missing = last // row_bytes - whole_rows
    if len(raw) < sum(before) or missing > most_missing * header.size.height:
        part = 1 - len(raw) / (sum(before) + last)
        raise ImageError(f"the image is cut short: {100 * part:.0f} % of it is missing. Fetch it again")
    if missing <= 0:
        parts.problems.append("the image's file is cut short; all of its pixels are there")
        return None
    parts.problems.append(
        f"the image is cut short: its last rows, {missing} of {header.size.height}, repeat those before them"
    )
    whole = raw[: sum(before) + whole_rows * row_bytes]
    return zlib.compress(whole + missing * (_REPEAT_ROW + bytes(row_bytes - 1)), 1)
