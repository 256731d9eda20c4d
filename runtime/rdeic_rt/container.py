"""The .rdc container, version 1: bytes <-> header and sections (docs/format.md is the specification).

    89 52 44 43 │ version │ flags │ model id │ rate │ width │ height │ z_bytes │ y_bytes │ [metadata_bytes]
        4            1        1        4        1     └───────────────── varints ──────────────────────┘
    z section │ y section │ [metadata section] │ CRC-32C
                                                    4

The structure is checked first, from front to back, so that a message can state where a file is truncated; then the
checksum; then the metadata is inflated. The sections z and y are decoded by `entropy`. If a file is truncated after its
z section, `parse` can return the part that is present.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NoReturn

import google_crc32c

from .errors import (
    BitstreamError,
    ChecksumError,
    FileFormatError,
    LimitExceededError,
    NotRdcError,
    TruncatedError,
    UnsupportedVersionError,
)
from .limits import DEFAULT_LIMITS, MAX_METADATA_RECORDS, Limits, Size

__all__ = ["SIGNATURE", "VERSION", "Header", "Metadata", "RdcFile", "Size", "metadata_bytes", "pack", "parse"]

SIGNATURE = b"\x89RDC"
VERSION = 1

_FLAG_METADATA = 0x01
_FLAG_PLAIN_Z = 0x02
_KNOWN_FLAGS = _FLAG_METADATA | _FLAG_PLAIN_Z
_MODEL_ID_BYTES = 4
_CRC_BYTES = 4
_VARINT_MAX_BYTES = 5
_TAG_ICC = 1
_TAG_EXIF = 2

_FETCH_AGAIN = "The file is cut short; fetch it again."
_FETCH_OR_PARTIAL = "The file is cut short; fetch it again, or decode what is there with --allow-partial."
_NO_ENCODER = "No encoder writes this; the file is damaged or made by a faulty program."


@dataclass(frozen=True)
class Metadata:
    """Metadata of the source image; None or empty if it has none.

    Attributes:
        icc: ICC profile of the RGB samples.
        exif: a TIFF structure, from its byte-order mark on, without the prefix ``Exif\\0\\0`` of JPEG.
    """

    icc: bytes | None = None
    exif: bytes | None = None


@dataclass(frozen=True)
class Header:
    """The fields that are needed to decode the sections.

    Attributes:
        size: of the source image, each side 1 to 2**32 - 1.
        model_id: 4 bytes that identify the entropy model, networks and tables.
        rate: index of the rate in its bundle, 0 to 255.
        z_is_plain: section z holds indices of fixed width instead of range-coded ones.
    """

    size: Size
    model_id: bytes
    rate: int
    z_is_plain: bool


@dataclass(frozen=True)
class RdcFile:
    """A file whose structure and checksum are correct; its sections are still coded.

    Attributes:
        header: its header.
        z: section of the VQ indices.
        y: section of the latents; the beginning of it in a truncated file.
        metadata: of the source image; empty if its section is not complete.
        crc: CRC-32C of all bytes before it; the default seed of the noise. In a truncated file, CRC-32C of the bytes
            that are present.
        missing_bytes: number of missing bytes; 0 for a whole file, more only with ``allow_partial``.
        missing_y_bytes: how many of these belong to the y section.
    """

    header: Header
    z: bytes
    y: bytes
    metadata: Metadata
    crc: int
    missing_bytes: int = 0
    missing_y_bytes: int = 0


def pack(header: Header, z: bytes, y: bytes, metadata: Metadata = Metadata()) -> bytes:
    """Return the bytes of an .rdc file.

    Equal arguments give equal bytes; those of the metadata section may differ from one zlib library to another.

    Raises:
        ValueError: a field is out of range, or the metadata is larger than what readers accept.
    """
    size = header.size
    for name, side in (("height", size.height), ("width", size.width)):
        if not 1 <= side < 2**32:
            raise ValueError(f"{name} is {side}; it must be from 1 to 2**32 - 1")
    if len(header.model_id) != _MODEL_ID_BYTES:
        raise ValueError(f"model_id has {len(header.model_id)} bytes; it must have {_MODEL_ID_BYTES}")
    if not 0 <= header.rate <= 255:
        raise ValueError(f"rate is {header.rate}; it must be from 0 to 255")
    section = _metadata_section(metadata)
    flags = (_FLAG_METADATA if section else 0) | (_FLAG_PLAIN_Z if header.z_is_plain else 0)
    numbers = [size.width, size.height, len(z), len(y)] + ([len(section)] if section else [])
    body = b"".join(
        [
            SIGNATURE,
            bytes([VERSION, flags]),
            header.model_id,
            bytes([header.rate]),
            *map(_varint, numbers),
            z,
            y,
            section,
        ]
    )
    return body + _crc32c(body).to_bytes(_CRC_BYTES, "little")


def metadata_bytes(metadata: Metadata) -> int:
    """Return how many bytes metadata add to a file; ValueError if they are larger than what readers accept."""
    section = _metadata_section(metadata)
    return len(_varint(len(section))) + len(section) if section else 0


def parse(
    data: bytes | bytearray | memoryview, limits: Limits = DEFAULT_LIMITS, *, allow_partial: bool = False
) -> RdcFile:
    """Return header and sections of an .rdc file, after all checks that need no model.

    Args:
        data: the whole file.
        limits: limits on the file.
        allow_partial: if the file is truncated after its z section, return the part that is present. Damage to it
            cannot be detected then.

    Raises:
        NotRdcError: wrong signature.
        TruncatedError: it ends too early.
        UnsupportedVersionError: another version, or a flag that version 1 does not have.
        LimitExceededError: the file, the image or the inflated metadata is over a limit.
        ChecksumError: it is complete, but damaged.
        BitstreamError: a side of 0, a varint that is too long or over 32 bits, bytes after the end, malformed metadata.
    """
    file_bytes = memoryview(data).nbytes
    if file_bytes > limits.max_file_bytes:
        raise LimitExceededError(
            f"{file_bytes} bytes; an .rdc file may have {limits.max_file_bytes} (limit max_file_bytes)"
        )
    data = bytes(data)
    _check_signature(data)
    reader = _Reader(data, at=len(SIGNATURE))
    version = reader.u8("version")
    if version != VERSION:
        raise UnsupportedVersionError(
            f"version at byte 4: the file is version {version}, this reader knows version {VERSION}. Upgrade rdeic-rt"
        )
    flags = reader.u8("flags")
    if flags & ~_KNOWN_FLAGS:
        raise UnsupportedVersionError(
            f"flags at byte 5: 0x{flags:02x}, version {VERSION} defines only the bits of 0x{_KNOWN_FLAGS:02x}. "
            "The file needs a later rdeic-rt, or is damaged"
        )
    model_id = reader.take(_MODEL_ID_BYTES, "model id")
    rate = reader.u8("rate")
    size = _read_size(reader, limits)
    z_bytes = reader.varint("z section length")
    y_bytes = reader.varint("y section length")
    metadata_bytes = reader.varint("metadata section length") if flags & _FLAG_METADATA else 0

    header = Header(size=size, model_id=model_id, rate=rate, z_is_plain=bool(flags & _FLAG_PLAIN_Z))

    z = reader.take(z_bytes, "z section")
    reader.advice = _FETCH_OR_PARTIAL
    missing_bytes = y_bytes + metadata_bytes + _CRC_BYTES - reader.left
    if allow_partial and missing_bytes > 0:
        return _parse_cut(reader, header, z, y_bytes, metadata_bytes, missing_bytes, limits)
    y = reader.take(y_bytes, "y section")
    metadata_at = reader.at
    section = reader.take(metadata_bytes, "metadata section")
    crc_at = reader.at
    crc = int.from_bytes(reader.take(_CRC_BYTES, "checksum"), "little")
    if reader.left:
        raise BitstreamError(f"byte {reader.at}: the file should end here, {reader.left} bytes follow. {_NO_ENCODER}")
    computed = reader.crc_of_first(crc_at)
    if crc != computed:
        raise ChecksumError(
            f"checksum at byte {crc_at}: the file says {crc:08x}, its bytes give {computed:08x}. "
            "The file is damaged; fetch it again."
        )
    metadata = _parse_metadata(section, metadata_at, limits) if flags & _FLAG_METADATA else Metadata()
    return RdcFile(header=header, z=z, y=y, metadata=metadata, crc=crc)


def _parse_cut(
    reader: _Reader, header: Header, z: bytes, y_bytes: int, metadata_bytes: int, missing_bytes: int, limits: Limits
) -> RdcFile:
    """Return the part of a truncated file that is present, from its y section on."""
    y = reader.take(min(y_bytes, reader.left), "y section")
    metadata = Metadata()
    metadata_at = reader.at
    if 0 < metadata_bytes <= reader.left:
        metadata = _parse_metadata(reader.take(metadata_bytes, "metadata section"), metadata_at, limits)
    # What is left is the beginning of a section that is not whole, or of the checksum.
    crc_at = reader.at + (reader.left if missing_bytes > _CRC_BYTES else 0)
    return RdcFile(header, z, y, metadata, reader.crc_of_first(crc_at), missing_bytes, y_bytes - len(y))


class _Reader:
    """Takes fields off the front of `data`, never past its end; `what` names the data in messages."""

    def __init__(
        self,
        data: bytes,
        *,
        at: int = 0,
        what: str = "",
        short: type[FileFormatError] = TruncatedError,
        advice: str = _FETCH_AGAIN,
    ) -> None:
        self._data = data
        self.at = at
        self._what = what
        self._short = short
        self.advice = advice

    @property
    def left(self) -> int:
        return len(self._data) - self.at

    def place(self, name: str, at: int) -> str:
        return f"{name} at byte {at}{self._what}"

    def crc_of_first(self, n_bytes: int) -> int:
        return _crc32c(self._data[:n_bytes])

    def take(self, n_bytes: int, name: str) -> bytes:
        if n_bytes > self.left:
            raise self._short(
                f"{self.place(name, self.at)}: should have {n_bytes} bytes, {self.left} are left. {self.advice}"
            )
        start, self.at = self.at, self.at + n_bytes
        return self._data[start : self.at]

    def u8(self, name: str) -> int:
        return self.take(1, name)[0]

    def varint(self, name: str) -> int:
        """Return a little-endian base-128 number: 7 bits a byte, the high bit set in all but the last."""
        start, value = self.at, 0
        for position in range(_VARINT_MAX_BYTES):
            byte = self.u8(name)
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if byte == 0 and position > 0:
                    self._malformed(name, start, f"{value} is written in more bytes than it needs")
                if value >= 2**32:
                    self._malformed(name, start, f"{value} has more than 32 bits")
                return value
        self._malformed(name, start, f"a number of more than {_VARINT_MAX_BYTES} bytes")

    def _malformed(self, name: str, start: int, problem: str) -> NoReturn:
        raise BitstreamError(f"{self.place(name, start)}: {problem}. {_NO_ENCODER}")


def _check_signature(data: bytes) -> None:
    found = data[: len(SIGNATURE)]
    if found == SIGNATURE:
        return
    if SIGNATURE.startswith(found):
        raise TruncatedError(
            f"signature at byte 0: should have {len(SIGNATURE)} bytes, {len(found)} are left. {_FETCH_AGAIN}"
        )
    raise NotRdcError(
        f"signature at byte 0: should be {SIGNATURE.hex(' ')}, found {found.hex(' ')}. This is not an .rdc file"
    )


def _read_size(reader: _Reader, limits: Limits) -> Size:
    start = reader.at
    width = reader.varint("width")
    height = reader.varint("height")
    place = reader.place("size", start)
    if width == 0 or height == 0:
        raise BitstreamError(f"{place}: {width}x{height} pixels, an image has at least 1x1. {_NO_ENCODER}")
    size = Size(height=height, width=width)
    try:
        limits.check_size(size)
    except LimitExceededError as error:
        raise LimitExceededError(f"{place}: {error}") from None
    return size


def _metadata_section(metadata: Metadata) -> bytes:
    records = _metadata_records(metadata)
    if len(records) > DEFAULT_LIMITS.max_metadata_bytes:
        raise ValueError(f"metadata takes {len(records)} bytes; it may take {DEFAULT_LIMITS.max_metadata_bytes}")
    return zlib.compress(records, 9) if records else b""


def _metadata_records(metadata: Metadata) -> bytes:
    records = ((_TAG_ICC, metadata.icc), (_TAG_EXIF, metadata.exif))
    return b"".join(bytes([tag]) + _varint(len(data)) + data for tag, data in records if data)


def _parse_metadata(section: bytes, at: int, limits: Limits) -> Metadata:
    reader = _Reader(
        _inflate(section, at, limits.max_metadata_bytes),
        what=" of the inflated metadata",
        short=BitstreamError,
        advice=_NO_ENCODER,
    )
    found: dict[int, bytes] = {}
    n_records = 0
    while reader.left:
        start = reader.at
        n_records += 1
        if n_records > MAX_METADATA_RECORDS:
            raise LimitExceededError(
                f"{reader.place('record', start)}: more than {MAX_METADATA_RECORDS}, which is all that there may be"
            )
        tag = reader.u8("record tag")
        data = reader.take(reader.varint("record length"), "record")
        if tag in (_TAG_ICC, _TAG_EXIF):
            if tag in found or not data:
                problem = "comes twice" if tag in found else "is empty"
                raise BitstreamError(f"{reader.place('record', start)}: tag {tag} {problem}. {_NO_ENCODER}")
            found[tag] = data
    return Metadata(icc=found.get(_TAG_ICC), exif=found.get(_TAG_EXIF))


def _inflate(section: bytes, at: int, limit_bytes: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(section, limit_bytes + 1)
    except zlib.error as error:
        raise BitstreamError(f"metadata section at byte {at}: not a zlib stream ({error}). {_NO_ENCODER}") from None
    if len(data) > limit_bytes:
        raise LimitExceededError(
            f"metadata section at byte {at}: inflates to more than {limit_bytes} bytes (limit max_metadata_bytes)"
        )
    if not stream.eof:
        raise BitstreamError(f"metadata section at byte {at}: its zlib stream does not end. {_NO_ENCODER}")
    if stream.unused_data:
        extra = len(stream.unused_data)
        raise BitstreamError(f"metadata section at byte {at}: {extra} bytes follow its zlib stream. {_NO_ENCODER}")
    return data


def _varint(value: int) -> bytes:
    if value >= 2**32:
        raise ValueError(f"{value} does not fit a length of 32 bits")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))
