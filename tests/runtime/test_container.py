"""The container: what is written is read, and everything else is refused with the right error, cheaply."""

from __future__ import annotations

import re
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdeic_rt.container import Header, Metadata, RdcFile, Size, metadata_bytes, pack, parse
from rdeic_rt.errors import (
    BitstreamError,
    ChecksumError,
    FileFormatError,
    LimitExceededError,
    NotRdcError,
    TruncatedError,
    UnsupportedVersionError,
)
from rdeic_rt.limits import DEFAULT_LIMITS, Limits

HEADER = Header(size=Size(height=300, width=451), model_id=b"\xde\xad\xbe\xef", rate=1, z_is_plain=False)
METADATA = Metadata(icc=b"profile" * 9, exif=b"II*\0" + bytes(range(40)))
PLAIN = pack(HEADER, b"zzz", bytes(range(200)))
FULL = pack(HEADER, b"zzz", bytes(range(200)), METADATA)

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"

# The example of docs/format.md.
EXAMPLE_HEADER = Header(size=Size(height=512, width=768), model_id=bytes.fromhex("01020304"), rate=1, z_is_plain=True)
EXAMPLE = bytes.fromhex("89524443 01 02 01020304 01 8006 8004 02 03 aabb 112233 0ffa2b98")


def sealed(body: bytes) -> bytes:
    """A file with these bytes before its checksum, which is right."""
    return body + int(google_crc32c.value(body)).to_bytes(4, "little")


def with_fields(*, size: bytes = b"\x05\x07", lengths: bytes = b"\x00\x00", flags: int = 0, rest: bytes = b"") -> bytes:
    return sealed(b"\x89RDC\x01" + bytes([flags]) + b"id__\x00" + size + lengths + rest)


def with_metadata(section: bytes) -> bytes:
    return with_fields(flags=1, lengths=b"\x00\x00" + varint(len(section)), rest=section)


def varint(value: int) -> bytes:
    groups = []
    while True:
        groups.append(value & 0x7F)
        value >>= 7
        if not value:
            return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


sides = st.integers(1, 8192)
headers = st.builds(
    Header,
    size=st.builds(Size, height=sides, width=sides),
    model_id=st.binary(min_size=4, max_size=4),
    rate=st.integers(0, 255),
    z_is_plain=st.booleans(),
)
items = st.none() | st.binary(min_size=1, max_size=300)


@given(headers, st.binary(max_size=300), st.binary(max_size=300), st.builds(Metadata, icc=items, exif=items))
def test_parse_packed_file_returns_what_was_packed(header: Header, z: bytes, y: bytes, metadata: Metadata) -> None:
    data = pack(header, z, y, metadata)
    file = parse(data)
    assert file == RdcFile(header=header, z=z, y=y, metadata=metadata, crc=int.from_bytes(data[-4:], "little"))
    assert pack(file.header, file.z, file.y, file.metadata) == data
    assert metadata_bytes(metadata) == len(data) - len(pack(header, z, y))


@given(st.binary(max_size=100))
def test_parse_arbitrary_bytes_raises_nothing_but_format_errors(data: bytes) -> None:
    for candidate in (data, b"\x89RDC\x01" + data, sealed(b"\x89RDC\x01" + data)):
        try:
            parse(candidate)
        except FileFormatError:
            pass


@given(st.binary(max_size=100))
def test_parse_arbitrary_metadata_raises_nothing_but_format_errors(records: bytes) -> None:
    for section in (records, zlib.compress(records)):
        try:
            parse(with_metadata(section))
        except FileFormatError:
            pass


def test_pack_example_of_the_format_page_gives_its_bytes() -> None:
    assert pack(EXAMPLE_HEADER, b"\xaa\xbb", b"\x11\x22\x33") == EXAMPLE
    assert parse(EXAMPLE).header == EXAMPLE_HEADER


def test_format_page_tables_of_varints_and_checksums_are_right() -> None:
    page = FORMAT_PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+|refused: [^|]+) \| `([0-9a-f ]+)` \|$", page, re.MULTILINE))
    assert len(rows) == 12
    for number, encoded in rows.items():
        data = with_fields(size=bytes.fromhex(encoded) + b"\x01")
        if number.isdigit() and number != "0":
            assert parse(data, Limits(max_side_px=2**32, max_pixels=2**32)).header.size.width == int(number)
        else:
            with pytest.raises(BitstreamError):
                parse(data)
    assert "89 52 44 43  01  02  01 02 03 04  01  80 06  80 04  02  03  aa bb  11 22 33  0f fa 2b 98" in page
    assert "| the text `123456789` | 0xE3069283 | `83 92 06 e3` |" in page


def test_pack_photo_of_768x512_has_at_most_24_bytes_of_overhead() -> None:
    header = Header(size=Size(height=512, width=768), model_id=b"abcd", rate=0, z_is_plain=False)
    assert len(pack(header, bytes(150), bytes(1500))) - 1650 == 23
    assert len(pack(header, bytes(1000), bytes(20_000))) - 21_000 == 24


def test_pack_equal_arguments_give_equal_bytes() -> None:
    assert pack(HEADER, b"zzz", bytes(range(200)), METADATA) == FULL


def test_pack_empty_metadata_takes_no_section() -> None:
    assert pack(HEADER, b"zzz", bytes(range(200)), Metadata(icc=b"", exif=None)) == PLAIN


@pytest.mark.parametrize(
    ("header", "metadata", "message"),
    [
        (Header(Size(0, 5), b"abcd", 0, False), Metadata(), "height is 0"),
        (Header(Size(5, 2**32), b"abcd", 0, False), Metadata(), "width is 4294967296"),
        (Header(Size(5, 5), b"abc", 0, False), Metadata(), "model_id has 3 bytes"),
        (Header(Size(5, 5), b"abcd", 256, False), Metadata(), "rate is 256"),
        (HEADER, Metadata(icc=bytes(DEFAULT_LIMITS.max_metadata_bytes)), "metadata takes 4194309 bytes"),
    ],
)
def test_pack_field_out_of_range_raises_value_error(header: Header, metadata: Metadata, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(header, b"", b"", metadata)


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
def test_parse_any_kind_of_buffer_gives_the_same(view: Callable[[bytes], bytes]) -> None:
    assert parse(view(FULL)) == parse(FULL)


@pytest.mark.parametrize("data", [PLAIN, FULL], ids=["plain", "with metadata"])
def test_parse_file_cut_at_any_length_raises_truncated(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(TruncatedError):
            parse(data[:length])


@pytest.mark.parametrize("data", [PLAIN, FULL, EXAMPLE], ids=["plain", "with metadata", "example"])
def test_parse_file_with_any_bit_flipped_raises_format_error(data: bytes) -> None:
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FileFormatError):
            parse(flipped)


def test_parse_last_payload_bit_flipped_raises_checksum_error() -> None:
    flipped = bytearray(PLAIN)
    flipped[-5] ^= 1
    with pytest.raises(ChecksumError, match=r"checksum at byte 221: the file says \w{8}, its bytes give \w{8}"):
        parse(flipped)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0 a JPEG", b"\x09RDC\x01", b"RDC\x01", b"\0"])
def test_parse_other_signature_raises_not_rdc(data: bytes) -> None:
    with pytest.raises(NotRdcError, match="should be 89 52 44 43, found"):
        parse(data)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_parse_other_version_raises_unsupported_version(version: int) -> None:
    data = bytearray(PLAIN)
    data[4] = version
    with pytest.raises(UnsupportedVersionError, match=f"the file is version {version}, this reader knows version 1"):
        parse(data)


@pytest.mark.parametrize("bit", range(2, 8))
def test_parse_reserved_flag_raises_unsupported_version(bit: int) -> None:
    with pytest.raises(UnsupportedVersionError, match=f"flags at byte 5: 0x{1 << bit:02x}"):
        parse(with_fields(flags=1 << bit))


@pytest.mark.parametrize(
    ("encoded", "problem"),
    [
        (b"\x85\x00", "5 is written in more bytes than it needs"),
        (b"\x80\x00", "0 is written in more bytes than it needs"),
        (b"\xff\xff\xff\xff\x00", "268435455 is written in more bytes than it needs"),
        (b"\x80\x80\x80\x80\x10", "4294967296 has more than 32 bits"),
        (b"\xff\xff\xff\xff\x7f", "34359738367 has more than 32 bits"),
        (b"\xff\xff\xff\xff\xff\x01", "a number of more than 5 bytes"),
        (b"\x80\x80\x80\x80\x80\x00", "a number of more than 5 bytes"),
    ],
)
def test_parse_varint_that_no_encoder_writes_raises_bitstream_error(encoded: bytes, problem: str) -> None:
    with pytest.raises(BitstreamError, match=f"width at byte 11: {problem}"):
        parse(with_fields(size=encoded + b"\x07"))
    with pytest.raises(BitstreamError, match=f"y section length at byte 14: {problem}"):
        parse(with_fields(lengths=b"\x00" + encoded))


@pytest.mark.parametrize(("size", "text"), [(b"\x00\x07", "0x7"), (b"\x05\x00", "5x0")])
def test_parse_side_of_zero_raises_bitstream_error(size: bytes, text: str) -> None:
    with pytest.raises(BitstreamError, match=f"size at byte 11: {text} pixels"):
        parse(with_fields(size=size))


@pytest.mark.parametrize(
    ("width", "height", "limit"),
    [(65_536, 1, "max_side_px"), (1, 2**32 - 1, "max_side_px"), (8193, 8192, "max_pixels")],
)
def test_parse_image_over_a_limit_raises_limit_exceeded(width: int, height: int, limit: str) -> None:
    data = with_fields(size=varint(width) + varint(height))
    with pytest.raises(LimitExceededError, match=f"size at byte 11: {width}x{height} .*{limit}"):
        parse(data)
    assert parse(data, Limits(max_side_px=2**32, max_pixels=2**40)).header.size == Size(height=height, width=width)


@pytest.mark.parametrize(("width", "height"), [(65_535, 1), (1, 65_535), (8192, 8192)])
def test_parse_image_at_a_limit_is_accepted(width: int, height: int) -> None:
    data = with_fields(size=varint(width) + varint(height))
    assert parse(data).header.size == Size(height=height, width=width)


def test_parse_file_over_the_limit_raises_limit_exceeded() -> None:
    assert parse(PLAIN, Limits(max_file_bytes=len(PLAIN)))
    with pytest.raises(LimitExceededError, match="max_file_bytes"):
        parse(PLAIN, Limits(max_file_bytes=len(PLAIN) - 1))


@pytest.mark.parametrize(
    ("lengths", "flags", "message"),
    [
        (varint(2**32 - 1) + b"\x00", 0, "z section at byte 19: should have 4294967295 bytes, 14 are left"),
        (b"\x02" + varint(2**31), 0, "y section at byte 21: should have 2147483648 bytes, 12 are left"),
        (b"\x02\x02" + varint(2**28), 1, "metadata section at byte 24: should have 268435456 bytes, 10 are left"),
        (b"\x02\x0b", 0, "checksum at byte 28: should have 4 bytes, 1 are left"),
    ],
)
def test_parse_section_longer_than_file_raises_truncated(lengths: bytes, flags: int, message: str) -> None:
    data = with_fields(lengths=lengths, flags=flags, rest=bytes(10))
    with pytest.raises(TruncatedError, match=re.escape(message)):
        parse(data)


def test_parse_huge_lengths_allocates_nothing_for_them() -> None:
    data = with_fields(lengths=varint(2**32 - 1) * 2 + varint(2**32 - 1), flags=1, rest=bytes(100))

    def work() -> None:
        with pytest.raises(TruncatedError):
            parse(data)

    work()
    assert peak_bytes(work) < 200_000


@pytest.mark.parametrize("extra", [b"\0", b"\n", PLAIN])
def test_parse_bytes_after_the_checksum_raises_bitstream_error(extra: bytes) -> None:
    with pytest.raises(BitstreamError, match=f"byte {len(PLAIN)}: the file should end here, {len(extra)} bytes follow"):
        parse(PLAIN + extra)


def test_parse_unknown_metadata_tag_is_skipped() -> None:
    records = b"\x07\x03abc" + b"\x02\x02II" + b"\x07\x00" + b"\xff\x01x"
    assert parse(with_metadata(zlib.compress(records))).metadata == Metadata(exif=b"II")
    assert parse(with_metadata(zlib.compress(b""))).metadata == Metadata()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (b"", "its zlib stream does not end"),
        (b"not zlib", "not a zlib stream"),
        (zlib.compress(b"\x01\x03abc")[:-1], "its zlib stream does not end"),
        (zlib.compress(b"\x01\x03abc")[:-4] + b"\0\0\0\0", "not a zlib stream"),
        (zlib.compress(b"\x01\x03abc") + b"more", "4 bytes follow its zlib stream"),
        (zlib.compress(b"\x01\x04abc"), "record at byte 2 of the inflated metadata: should have 4 bytes, 3 are left"),
        (zlib.compress(b"\x01" + varint(2**32 - 1)), "should have 4294967295 bytes, 0 are left"),
        (zlib.compress(b"\x01"), "record length at byte 1 of the inflated metadata: should have 1 bytes"),
        (zlib.compress(b"\x01\x83\x00abc"), "record length at byte 1 of the inflated metadata: 3 is written in more"),
        (zlib.compress(b"\x01\x01a\x01\x01b"), "record at byte 3 of the inflated metadata: tag 1 comes twice"),
        (zlib.compress(b"\x02\x00"), "record at byte 0 of the inflated metadata: tag 2 is empty"),
    ],
)
def test_parse_malformed_metadata_raises_bitstream_error(section: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        parse(with_metadata(section))


def test_parse_damaged_metadata_raises_checksum_error_before_it_is_inflated() -> None:
    data = bytearray(FULL)
    data[-10] ^= 0x40
    with pytest.raises(ChecksumError):
        parse(data)


def test_parse_metadata_bomb_raises_limit_exceeded_in_bounded_memory() -> None:
    limits = Limits(max_metadata_bytes=2**16)
    bomb = with_metadata(zlib.compress(b"\x07" + varint(2**26) + bytes(2**26), 9))
    assert len(bomb) < 70_000

    def work() -> None:
        with pytest.raises(LimitExceededError, match="inflates to more than 65536 bytes"):
            parse(bomb, limits)

    work()
    assert peak_bytes(work) < 1_000_000


def test_parse_metadata_at_the_limit_is_accepted() -> None:
    section = zlib.compress(b"\x07\xfc\x01" + bytes(252))
    assert parse(with_metadata(section), Limits(max_metadata_bytes=255)).metadata == Metadata()
    with pytest.raises(LimitExceededError):
        parse(with_metadata(section), Limits(max_metadata_bytes=254))


def test_crc_is_crc32c_castagnoli() -> None:
    assert sealed(b"123456789")[-4:] == bytes.fromhex("839206e3")
    assert parse(EXAMPLE).crc == int.from_bytes(EXAMPLE[-4:], "little")
