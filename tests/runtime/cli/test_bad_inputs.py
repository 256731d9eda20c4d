"""What one input does is told in one line, for that input; names and warnings cannot fool or flood a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from rdeic_rt import colour, container, exif, pixels
from rdeic_rt.cli.console import printable, write_output
from rdeic_rt.codec import Codec
from tests.images import png_chunk, saved, with_png_chunks

from ..test_exif import camera_exif
from ..test_image_colour import SRGB
from .conftest import Command
from .test_encode_decode import DISPLAY_P3, names_in, pixels_of

BUG = "this is a bug in rdeic-rt; please report it with the lines above and what you ran"


def run(here: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `rdeic-rt` in a process of its own, as warnings and encodings are the process's."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run([sys.executable, "-m", "rdeic_rt", *words], cwd=here, env=variables, capture_output=True)


def test_encode_goes_on_whatever_one_input_does(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = TiffImagePlugin.ImageFileDirectory_v2()
    fields.tagtype[0x0112] = 1
    fields[0x0112] = 6
    Image.new("RGB", (64, 48), "red").save(here / "odd.tif", tiffinfo=fields)
    (here / "no.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (here / "cut.jpg").write_bytes((here / "photo.jpg").read_bytes()[:-700])
    assert command("encode", "odd.tif", "no.png", "gone.png", "cut.jpg", "photo.jpg", "-o", "out") == 4
    assert names_in(here / "out") == {"odd.rdc", "photo.rdc"}
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines if line.startswith("rdeic-rt: ")] == ["no.png", "gone.png", "cut.jpg"]
    assert "odd.tif -> out/odd.rdc: 48x64" in lines[0]


@pytest.mark.parametrize("verb", ["encode", "decode", "info"])
def test_a_bug_with_one_input_is_told_and_the_others_are_done(
    command: Command, here: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "second.rdc").write_bytes((here / "made.rdc").read_bytes())
    (here / "second.jpg").write_bytes((here / "photo.jpg").read_bytes())
    owner, name = {
        "encode": (pixels, "read_image"),
        "decode": (Codec, "decode_with_metadata"),
        "info": (container, "parse"),
    }[verb]
    original = getattr(owner, name)
    calls = []

    def fail_once(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise AttributeError("no such thing")
        return original(*args, **options)

    monkeypatch.setattr(owner, name, fail_once)
    suffix = "jpg" if verb == "encode" else "rdc"
    first = "photo.jpg" if verb == "encode" else "made.rdc"
    where = [] if verb == "info" else ["-o", "out/"]
    assert command(verb, first, f"no.{suffix}", f"second.{suffix}", *where) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert f"rdeic-rt: {first}: {BUG}" in lines
    assert "AttributeError: no such thing" in lines
    assert any(line.startswith(f"rdeic-rt: no.{suffix}: ") for line in lines)
    if verb == "info":
        assert "file: second.rdc" in said.out
    else:
        assert len(names_in(here / "out")) == 1


def test_too_little_memory_for_one_input_is_one_line(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Codec, "encode", fail)
    assert command("encode", "photo.jpg") == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rdeic-rt: photo.jpg: not enough memory; ")


@pytest.mark.parametrize("setting", ["", "error", "always"])
def test_encode_shows_no_python_warning(here: Path, setting: str) -> None:
    Image.new("1", (10_000, 10_000)).save(here / "large.png")
    fields = TiffImagePlugin.ImageFileDirectory_v2()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fields.tagtype[282] = 5
        fields[282] = (1.0, 2.0, 3.0)
        Image.new("RGB", (40, 30), "red").save(here / "odd.tif", tiffinfo=fields)
    done = run(here, "encode", "-q", "large.png", "odd.tif", "photo.jpg", "-o", "out", PYTHONWARNINGS=setting)
    assert done.returncode == 4
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("rdeic-rt: large.png: 10000x10000 is 100000000 pixels: 67108864 are allowed")
    assert names_in(here / "out") == {"odd.rdc", "photo.rdc"}


def test_encode_shows_nothing_that_c_libraries_write(here: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    data = bytearray(saved(Image.fromarray(rows), "TIFF", compression="tiff_lzw"))
    data[500:520] = 20 * b"\xff"
    (here / "damaged.tif").write_bytes(data)
    Image.new("L", (40, 30)).save(here / "grey.png")
    done = run(here, "encode", "damaged.tif", "grey.png", "-o", "out")
    assert done.returncode == 4
    error, warning, line, _ = done.stderr.decode().splitlines()
    assert error.startswith("rdeic-rt: damaged.tif: the image cannot be decoded")
    assert warning == "rdeic-rt: warning: the image is grey, and is coded as colour"
    assert line.startswith("grey.png -> out/grey.rdc")
    assert b"code not yet in table" in run(here, "encode", "-vv", "damaged.tif").stderr


def test_python_warnings_of_libraries_are_details(
    command: Command, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    original = pixels.read_image

    def warn(*args: object, **options: object) -> object:
        warnings.warn("a hint for programmers", stacklevel=1)
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pixels, "read_image", warn)
    stream = io.StringIO()
    for verbosity, is_shown in (([], False), (["-v"], False), (["-vv"], True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert command("encode", "photo.jpg", "--overwrite", *verbosity) == 0
        assert ("a hint for programmers" in stream.getvalue()) == is_shown


# Names.

NAMES = [
    ("a\x1b]0;title\x07b", r"a\x1b]0;title\x07b"),
    ("two\nlines", r"two\nlines"),
    ("tab\tand\rreturn", r"tab\tand\rreturn"),
    ("c1 \x9b31m", r"c1 \x9b31m"),
    ("turned \u202egnp", r"turned \u202egnp"),
    ("\u2028 line", r"\u2028 line"),
    ("undecodable \udcff", r"undecodable \udcff"),
]


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_names_that_cannot_be_shown_are_escaped_by_every_verb(
    command: Command, here: Path, name: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / f"{name}.jpg").write_bytes((here / "photo.jpg").read_bytes())
    (here / f"{name} .rdc").write_bytes((here / "made.rdc").read_bytes())
    assert command("encode", f"{name}.jpg") == 0
    assert command("decode", f"{name}.rdc") == 0
    assert command("info", f"{name} .rdc") == 0
    for verb in ("encode", "decode", "info"):
        assert command(verb, f"no {name}.x") == 3
    assert command("encode", "--" + name.replace(" ", "")) == 2
    assert command("encode", f"{name}.jpg", "photo.jpg", "-o", f"{name}.rdc") == 2
    said = capsys.readouterr()
    assert name not in said.out + said.err
    assert f"file: {shown} .rdc" in said.out
    assert f"{shown}.jpg -> {shown}.rdc: 96x80" in said.err
    assert said.err.count(shown) >= 8
    assert "--" + shown.replace(" ", "") in said.err
    assert not set(said.out + said.err) & {"\x1b", "\r", "\x07", "\x9b", "\u202e", "\u2028", "\udcff"}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_encoding_lacks_are_escaped_by_every_verb(here: Path, encoding: str) -> None:
    name = "é日"
    (here / f"{name}.rdc").write_bytes((here / "made.rdc").read_bytes())
    shown = name.encode(encoding, "backslashreplace")
    for words in (["info"], ["decode", "--preview"], ["info", "--json"]):
        done = run(here, *words, f"{name}.rdc", f"no {name}", PYTHONIOENCODING=encoding, LC_ALL="C.UTF-8")
        assert done.returncode in (2, 3)
        assert b"bug" not in done.stderr
        if words == ["info"]:
            assert b"file: " + shown + b".rdc" in done.stdout
        if words[0] == "info":
            assert b"no " + shown in done.stderr


def test_printable_keeps_what_can_be_read() -> None:
    for text in (
        "plain",
        "é日本語",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "a\u00a0b",
        "\U0001f469\u200d\U0001f4bb",
    ):
        assert printable(text) == text
    assert printable("\x00\x7f\x85\ufeff\u200b") == r"\x00\x7f\x85\ufeff\u200b"


def test_write_output_keeps_lines(capsys: pytest.CaptureFixture[str]) -> None:
    write_output("one\ntwo \x1b\n")
    assert capsys.readouterr().out == "one\ntwo \\x1b\n"


# What metadata takes.


def test_encode_metadata_that_says_nothing_takes_no_bytes(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(here / "photo.jpg") as image:
        image.save(here / "srgb.png", icc_profile=SRGB)
        image.save(here / "plain.png")
        image.save(here / "thumbnail.png", exif=exif.PREFIX + camera_exif())
        image.save(here / "wide.png", icc_profile=DISPLAY_P3)
    sizes = {}
    for name in ("srgb", "plain", "thumbnail", "wide"):
        assert command("encode", "-v", f"{name}.png") == 0
        sizes[name] = (here / f"{name}.rdc").stat().st_size
    said = capsys.readouterr().err
    assert sizes["srgb"] == sizes["plain"]
    assert sizes["thumbnail"] < sizes["plain"] + 130
    assert "ICC profile of 588 bytes is that of sRGB; it is left out" in said
    assert "kept: ICC profile 'Display P3', 492 bytes" in said
    assert "kept: EXIF, " in said
    assert command("encode", "wide.png", "-o", "wide.rdc", "--target-size", "60") == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert f", {sizes['wide'] - sizes['plain']} bytes of which are metadata. " in line
    assert line.endswith("or leave out its metadata (--strip)")
    assert command("encode", "plain.png", "-o", "plain.rdc", "--target-size", "40") == 4
    assert "metadata" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_strip_converts_to_srgb_by_the_profile(command: Command, here: Path, verb: str) -> None:
    space = colour.from_code_points(12, 13)
    assert space is not None
    samples = np.full((80, 96, 3), (200, 60, 40), np.uint8)
    (here / "wide.png").write_bytes(saved(Image.fromarray(samples), icc_profile=DISPLAY_P3))
    assert command("encode", "wide.png", *(["--strip"] if verb == "encode" else [])) == 0
    assert command("decode", "wide.rdc", "-o", "out.png", *(["--strip"] if verb == "decode" else [])) == 0
    expected = colour.converted(samples, space, colour.Space()).mean((0, 1))
    assert np.abs(pixels_of(here / "out.png").mean((0, 1)) - expected).max() < 12
    assert np.abs(samples.mean((0, 1)) - expected).max() > 15


def test_encode_png_with_a_megabyte_of_text_gives_the_same_file(command: Command, here: Path) -> None:
    with Image.open(here / "photo.jpg") as image:
        plain = saved(image)
    (here / "plain.png").write_bytes(plain)
    (here / "text.png").write_bytes(with_png_chunks(plain, png_chunk(b"tEXt", b"workflow\0" + bytes(2_000_000))))
    assert command("encode", "plain.png", "text.png", "-o", "out") == 0
    assert (here / "out" / "plain.rdc").read_bytes() == (here / "out" / "text.rdc").read_bytes()
