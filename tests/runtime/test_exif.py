"""Which way up an image is, whoever says it and how; and EXIF without its thumbnail."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from rdeic_rt import exif, pixels
from rdeic_rt.codec import Codec
from rdeic_rt.container import Metadata, pack, parse
from tests.images import png, png_chunk, saved

Rgb = NDArray[np.uint8]
ORIENTATION = 0x0112
LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


def directory(*entries: tuple[int, int, bytes], order: str = "<", following: int = 0, tail: bytes = b"") -> bytes:
    """Return EXIF with one directory: tag, type and the four bytes of the value of each entry, count 1."""
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, 1) + value.ljust(4, b"\0")
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    return head + body + struct.pack(f"{order}I", following) + tail


def oriented(value: int, kind: int = 3, order: str = "<") -> bytes:
    return directory((ORIENTATION, kind, struct.pack(order + LETTERS[kind], value)), order=order)


@pytest.fixture
def small(photo: Rgb) -> Rgb:
    return np.ascontiguousarray(photo[60:107, 100:163])


def turned(image: Rgb, orientation: int) -> Rgb:
    return {1: image, 3: image[::-1, ::-1], 6: np.rot90(image, -1), 8: np.rot90(image)}[orientation]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", LETTERS)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_read_image_orientation_of_any_integer_type_is_applied(
    small: Rgb, format: str, kind: int, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    upright, _ = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), format)))
    image, metadata = pixels.read_image(
        io.BytesIO(saved(Image.fromarray(small), format, exif=exif.PREFIX + oriented(6, kind, order)))
    )
    np.testing.assert_array_equal(image, turned(upright, 6))
    assert metadata.exif == oriented(1, 3, order)
    assert caplog.records == []


@pytest.mark.parametrize("kind", LETTERS)
@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
def test_read_image_orientation_of_any_integer_type_is_applied_in_tiff(
    small: Rgb, kind: int, compression: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(saved(Image.fromarray(small), "TIFF", tiffinfo={ORIENTATION: 8}, compression=compression))
    at = data.index(struct.pack("<HHI", ORIENTATION, 3, 1))
    data[at : at + 12] = struct.pack("<HHI", ORIENTATION, kind, 1) + struct.pack("<" + LETTERS[kind], 8).ljust(4, b"\0")
    image, _ = pixels.read_image(io.BytesIO(data))
    np.testing.assert_array_equal(image, turned(small, 8))
    assert caplog.records == []
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(pixels.as_rgb(opened), turned(small, 8))


@pytest.mark.parametrize("kind", [2, 5, 7, 11, 12, 0, 99])
def test_read_image_orientation_that_is_no_number_is_told_and_the_image_read(
    small: Rgb, kind: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(saved(Image.fromarray(small), "TIFF", tiffinfo={ORIENTATION: 8}))
    at = data.index(struct.pack("<HHI", ORIENTATION, 3, 1))
    data[at + 2 : at + 4] = struct.pack("<H", kind)
    image, _ = pixels.read_image(io.BytesIO(data))
    np.testing.assert_array_equal(image, small)
    assert [record.getMessage() for record in caplog.records] == [
        "the image's orientation is none of 1 to 8, and is not applied"
    ]
    caplog.clear()
    entry = directory((ORIENTATION, kind, b"\6"))
    image, metadata = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), exif=entry)))
    np.testing.assert_array_equal(image, small)
    assert metadata.exif == oriented(1)
    assert "its orientation is none of 1 to 8" in caplog.text


def test_read_image_first_of_many_orientation_values_counts(small: Rgb) -> None:
    for count, value, tail in ((2, b"\6\0\3\0", b""), (3, struct.pack("<I", 26), b"\6\0\1\0\1\0")):
        entry = struct.pack("<HHI", ORIENTATION, 3, count) + value
        data = struct.pack("<2sHIH", b"II", 42, 8, 1) + entry + bytes(4) + tail
        image, metadata = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), exif=data)))
        np.testing.assert_array_equal(image, turned(small, 6))
        assert metadata.exif is not None and exif.upright(metadata.exif).orientation == 1
        tiff = bytearray(saved(Image.fromarray(small), "TIFF", tiffinfo={ORIENTATION: 8}))
        at = tiff.index(struct.pack("<HHI", ORIENTATION, 3, 1))
        tiff[at : at + 12] = struct.pack("<HHI", ORIENTATION, 3, 2) + b"\6\0\3\0"
        np.testing.assert_array_equal(pixels.read_image(io.BytesIO(tiff))[0], turned(small, 6))


def test_read_image_unknown_orientation_is_that_of_xmp(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    data = file_with_xmp(small, "PNG", xmp(6), oriented(0))
    np.testing.assert_array_equal(pixels.read_image(io.BytesIO(data))[0], turned(small, 6))
    image, _ = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), exif=oriented(0))))
    np.testing.assert_array_equal(image, small)
    assert caplog.records == []


def test_read_image_value_out_of_range_and_several_values_keep_the_rest(
    small: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    image, metadata = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), exif=oriented(9))))
    np.testing.assert_array_equal(image, small)
    assert metadata.exif == oriented(1)
    assert "none of 1 to 8" in caplog.text
    twice = directory((ORIENTATION, 3, b"\6"), (ORIENTATION, 3, b"\3"))
    image, metadata = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), exif=twice)))
    np.testing.assert_array_equal(image, turned(small, 6))
    assert metadata.exif == directory((ORIENTATION, 3, b"\1"), (ORIENTATION, 3, b"\1"))
    assert "several orientations, of which 6 is taken" in caplog.text


def xmp(orientation: int, as_element: bool = False) -> bytes:
    field = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if as_element else ""
    attribute = "" if as_element else f' tiff:Orientation="{orientation}"'
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{field}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def file_with_xmp(image: Rgb, format: str, packet: bytes, fields: bytes | None) -> bytes:
    if format == "PNG":
        chunks = [png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)]
        return png(image, *chunks, *([png_chunk(b"eXIf", fields)] if fields else []))
    options: dict[str, object] = {"exif": exif.PREFIX + fields} if fields and format != "TIFF" else {}
    if format == "TIFF":
        return saved(Image.fromarray(image), "TIFF", tiffinfo={700: packet} | ({ORIENTATION: 3} if fields else {}))
    return saved(Image.fromarray(image), format, xmp=packet, **options)


@pytest.mark.parametrize("as_element", [False, True])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_read_image_orientation_in_xmp_counts_where_exif_has_none(small: Rgb, format: str, as_element: bool) -> None:
    upright, _ = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), format)))
    data = file_with_xmp(small, format, xmp(6, as_element), None)
    np.testing.assert_array_equal(pixels.read_image(io.BytesIO(data))[0], turned(upright, 6))
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(pixels.as_rgb(opened), turned(upright, 6))
    both = file_with_xmp(small, format, xmp(6, as_element), oriented(3))
    np.testing.assert_array_equal(pixels.read_image(io.BytesIO(both))[0], turned(upright, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_avif_is_turned_once(small: Rgb, orientation: int) -> None:
    flat = np.zeros((40, 64, 3), np.uint8)
    flat[:8, :8] = 255
    data = saved(
        Image.fromarray(flat), "AVIF", quality=100, subsampling="4:4:4", exif=oriented(orientation), xmp=xmp(8)
    )
    image, metadata = pixels.read_image(io.BytesIO(data))
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert image.shape[:2] == ((40, 64) if orientation < 5 else (64, 40))
    assert image[corner[orientation]].min() > 240
    if metadata.exif:
        assert exif.upright(metadata.exif).orientation in (None, 1)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_write_image_never_lets_a_reader_turn_what_is_upright(small: Rgb, format: str) -> None:
    within = directory((ORIENTATION, 4, b"\6"), tail=xmp(6))
    stream = io.BytesIO()
    pixels.write_image(stream, small, Metadata(exif=within), format)
    with Image.open(io.BytesIO(stream.getvalue())) as opened:
        assert opened.getexif()[ORIENTATION] == 1
        assert b'tiff:Orientation="1"' in opened.info["exif"]
        assert opened.size == (63, 47)


def test_encode_metadata_of_an_image_that_is_upright_says_so(small: Rgb, codec: Codec) -> None:
    data = codec.encode(small, metadata=Metadata(exif=oriented(6, 4)))
    assert parse(data).metadata.exif == oriented(1)


def test_read_latents_of_a_foreign_file_say_that_the_image_is_upright(small: Rgb, codec: Codec) -> None:
    file = parse(codec.encode(small))
    foreign = pack(file.header, file.z, file.y, Metadata(exif=oriented(6)))
    assert parse(foreign).metadata.exif == oriented(6)
    assert codec.read_latents(foreign).metadata.exif == oriented(1)


@given(st.binary(max_size=80), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_upright_any_bytes_give_an_orientation_that_is_then_1(data: bytes, start: bytes) -> None:
    found = exif.upright(start + data)
    assert found.orientation is None or 1 <= found.orientation <= 8
    if found.exif is not None:
        assert len(found.exif) == len(start + data)
        assert exif.upright(found.exif).orientation in (None, 1)
        assert exif.upright(found.exif).exif == found.exif
        assert len(exif.without_thumbnail(found.exif)) <= len(found.exif)
    else:
        assert found.problems


def camera_exif(order: str = "<", thumbnail: bytes = b"\xff\xd8" + bytes(range(1, 200)) * 40 + b"\xff\xd9") -> bytes:
    """Return EXIF as cameras write it: a maker, an EXIF directory with a maker note, and a thumbnail at the end."""
    note = b"MakerNote of 24 bytes..."
    maker, exif_ifd = b"A maker\0", 8 + 2 + 3 * 12 + 4
    note_at = exif_ifd + 2 + 12 + 4
    maker_at = note_at + len(note)
    second = maker_at + len(maker)
    third_end = second + 2 + 3 * 12 + 4
    out = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    out += struct.pack(f"{order}H", 3)
    out += struct.pack(f"{order}HHII", 0x010F, 2, len(maker), maker_at)
    out += struct.pack(f"{order}HHIHH", ORIENTATION, 3, 1, 6, 0)
    out += struct.pack(f"{order}HHII", 0x8769, 4, 1, exif_ifd)
    out += struct.pack(f"{order}I", second)
    out += struct.pack(f"{order}HHHIII", 1, 0x927C, 7, len(note), note_at, 0) + note + maker
    out += struct.pack(f"{order}H", 3)
    out += struct.pack(f"{order}HHIHH", ORIENTATION, 3, 1, 6, 0)
    out += struct.pack(f"{order}HHII", 0x0201, 4, 1, third_end)
    out += struct.pack(f"{order}HHII", 0x0202, 4, 1, len(thumbnail))
    return out + struct.pack(f"{order}I", 0) + thumbnail


@pytest.mark.parametrize("order", "<>")
def test_read_image_thumbnail_is_left_out_and_the_rest_stays_in_place(small: Rgb, order: str) -> None:
    data = camera_exif(order)
    _, metadata = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), "JPEG", exif=exif.PREFIX + data)))
    assert metadata.exif is not None and len(metadata.exif) < 130 < 8000 < len(data)
    fields = Image.Exif()
    fields.load(exif.PREFIX + metadata.exif)
    assert fields[0x010F] == "A maker" and fields[ORIENTATION] == 1
    assert fields.get_ifd(0x8769)[0x927C] == b"MakerNote of 24 bytes..."
    assert fields.get_ifd(1) == {}


def test_without_thumbnail_that_overlaps_the_rest_keeps_the_rest() -> None:
    data = bytearray(camera_exif())
    at = data.index(struct.pack("<HHI", 0x0201, 4, 1))
    data[at + 8 : at + 12] = struct.pack("<I", 8)
    kept = exif.without_thumbnail(bytes(data))
    assert kept[8:46] == data[8:46]
    fields = Image.Exif()
    fields.load(exif.PREFIX + kept)
    assert fields[0x010F] == "A maker" and fields.get_ifd(0x8769)[0x927C] == b"MakerNote of 24 bytes..."


def test_without_thumbnail_in_the_middle_moves_nothing() -> None:
    after = b"what a maker note may refer to"
    data = camera_exif() + after
    kept = exif.without_thumbnail(data)
    assert len(kept) == len(data) and kept.endswith(after)
    assert b"\xff\xd8" not in kept
    assert exif.without_thumbnail(kept) == kept


def test_without_thumbnail_directories_in_a_circle_end() -> None:
    circle = directory((ORIENTATION, 3, b"\1"), following=8)
    assert exif.without_thumbnail(circle) == directory((ORIENTATION, 3, b"\1"))
