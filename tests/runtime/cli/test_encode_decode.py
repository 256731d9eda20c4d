"""`encode` and `decode` on files: names, options, what is kept, and what each mistake ends in."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdeic_rt import DecodeOptions, colour, container
from rdeic_rt.codec import Codec

from .conftest import Command

ORIENTATION = 0x0112
DISPLAY_P3 = colour.icc_profile(colour.Space(((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), name="Display P3"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_encode_and_decode_without_o_write_beside_the_input(command: Command, here: Path, small_rdc: bytes) -> None:
    assert command("encode", "photo.jpg") == 0
    assert command("decode", "photo.rdc") == 0

    assert (here / "photo.rdc").read_bytes() == small_rdc
    assert pixels_of(here / "photo.png").shape == (80, 96, 3)
    assert names_in(here) == {"photo.jpg", "made.rdc", "photo.rdc", "photo.png"}


def test_decode_matches_the_library(command: Command, here: Path, small_rdc: bytes, codec: Codec) -> None:
    assert command("decode", "made.rdc", "--seed", "7", "--backend", "cpu") == 0

    assert np.array_equal(pixels_of(here / "made.png"), codec.decode(small_rdc, DecodeOptions(seed=7)))


def test_decode_seed_changes_the_image_and_default_repeats_it(command: Command, here: Path) -> None:
    assert command("decode", "made.rdc", "-o", "first.png") == 0
    assert command("decode", "made.rdc", "-o", "second.png") == 0
    assert command("decode", "made.rdc", "-o", "other.png", "--seed", "0x10") == 0

    assert (here / "first.png").read_bytes() == (here / "second.png").read_bytes()
    assert not np.array_equal(pixels_of(here / "first.png"), pixels_of(here / "other.png"))


def test_decode_sharpness_and_steps_reach_the_codec(
    command: Command, here: Path, small_rdc: bytes, codec: Codec
) -> None:
    rate = codec.bundle.choose_rate(None)
    own = codec.bundle.choose_schedule(rate, None)
    assert own is not None
    schedules = [own, *(codec.bundle.schedules[name] for name in rate.step_tables)]
    steps = max(schedule.n_steps for schedule in schedules if schedule.sampler == own.sampler)
    assert command("decode", "made.rdc", "--sharpness", "0.5", "--steps", str(steps), "--backend", "cpu") == 0

    assert np.array_equal(
        pixels_of(here / "made.png"), codec.decode(small_rdc, DecodeOptions(sharpness=0.5, steps=steps))
    )


def test_encode_rate_chooses_the_rate(command: Command, here: Path, codec: Codec) -> None:
    for rate in codec.bundle.rates:
        assert command("encode", "photo.jpg", "--rate", str(rate.index), "-o", "photo.rdc") == 0
        assert container.parse((here / "photo.rdc").read_bytes()).header.rate == rate.number
    below, above = codec.bundle.rates[:2]
    assert command("encode", "photo.jpg", "--rate", "0.25", "-o", "photo.rdc") == 0
    header = container.parse((here / "photo.rdc").read_bytes()).header
    assert header.rate == round(0.75 * below.number + 0.25 * above.number)


def test_encode_rate_chooses_among_rates_with_graphs_of_their_own(
    command: Command, here: Path, golden_bundle: Path, golden_codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate in golden_codec.bundle.rates:
        words = ("encode", "photo.jpg", "--rate", str(rate.index), "--bundle", golden_bundle)
        assert command(*words, "-o", "photo.rdc") == 0
        header = container.parse((here / "photo.rdc").read_bytes()).header
        assert (header.rate, header.model_id) == (rate.index, rate.model_id)
    capsys.readouterr()
    assert command("encode", "photo.jpg", "--rate", "0.5", "--bundle", golden_bundle) == 2
    assert "rate 0.5 is not one of bundle 'micro'" in capsys.readouterr().err


@pytest.mark.parametrize("bundle", ["codec", "golden_codec"])  # with levels, and without
def test_encode_to_a_target_makes_the_best_file_that_fits(
    command: Command, here: Path, bundle: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    codec: Codec = request.getfixturevalue(bundle)
    encode = ("encode", "photo.jpg", "--overwrite", "--bundle", codec.bundle.folder)
    sizes = []
    for rate in codec.bundle.rates:
        assert command(*encode, "--rate", str(rate.index)) == 0
        sizes.append((here / "photo.rdc").stat().st_size)
    for options in (("--target-size", str(min(sizes))), ("--target-bpp", f"{8 * min(sizes) / (96 * 80) + 1e-9:.12f}")):
        assert command(*encode, *options) == 0
        assert (here / "photo.rdc").stat().st_size == min(sizes)
    assert command(*encode, "--target-size", "4k") == 0
    largest = container.parse((here / "photo.rdc").read_bytes())
    assert largest.header.rate == 0  # with levels the first of them, which is beyond the first rate
    if codec.bundle.levels is None:
        assert (here / "photo.rdc").stat().st_size == sizes[0]
    else:
        assert (here / "photo.rdc").stat().st_size > sizes[0] == max(sizes)

    capsys.readouterr()
    assert command(*encode, "--target-size", str(min(sizes) - 1)) == 4
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("rdeic-rt: photo.jpg: ")
    assert f"is {min(sizes)} bytes" in said


def test_encode_to_a_target_does_each_input_on_its_own(command: Command, here: Path, small_rdc: bytes) -> None:
    with Image.open(here / "photo.jpg") as image:
        image.resize((960, 800)).save(here / "large.png")

    assert command("encode", "large.png", "photo.jpg", "--target-size", "200", "-o", "out") == 4
    assert names_in(here / "out") == {"photo.rdc"}


def test_decode_preview_matches_the_library(command: Command, here: Path, small_rdc: bytes, codec: Codec) -> None:
    assert command("decode", "made.rdc", "--preview", "--backend", "cpu") == 0

    assert np.array_equal(pixels_of(here / "made.png"), codec.preview(small_rdc))


def test_decode_cut_file_is_refused_unless_allowed(
    command: Command, here: Path, small_rdc: bytes, codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "cut.rdc").write_bytes(small_rdc[:-20])
    assert command("decode", "cut.rdc") == 4
    assert "--allow-partial" in capsys.readouterr().err

    assert command("decode", "cut.rdc", "made.rdc", "--allow-partial", "--backend", "cpu", "-o", "out") == 0
    warning, cut, whole, _ = capsys.readouterr().err.splitlines()
    assert re.search(r"warning: .*cut short by 20 bytes.* \d of \d slices", warning)
    assert re.fullmatch(r"cut\.rdc -> .*: 96x80, \d of \d slices, .* s", cut)
    assert "slices" not in whole
    assert np.array_equal(
        pixels_of(here / "out" / "cut.png"), codec.decode(small_rdc[:-20], DecodeOptions(allow_partial=True))
    )

    assert command("decode", "cut.rdc", "--allow-partial", "--preview", "--backend", "cpu") == 0
    assert np.array_equal(
        pixels_of(here / "cut.png"), codec.preview(small_rdc[:-20], DecodeOptions(allow_partial=True))
    )


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tiff", ".ppm", ".PNG"])
def test_decode_suffix_chooses_the_format(command: Command, here: Path, suffix: str) -> None:
    assert command("decode", "made.rdc", "-o", f"out{suffix}") == 0

    with Image.open(here / f"out{suffix}") as image:
        assert image.size == (96, 80)
        assert image.format == {".jpg": "JPEG", ".webp": "WEBP", ".tiff": "TIFF", ".ppm": "PPM", ".PNG": "PNG"}[suffix]


def test_several_inputs_go_into_a_folder_that_is_made(command: Command, here: Path) -> None:
    (here / "b.jpg").write_bytes((here / "photo.jpg").read_bytes())

    assert command("encode", "photo.jpg", "b.jpg", "-o", "new/deeper") == 0
    assert names_in(here / "new" / "deeper") == {"photo.rdc", "b.rdc"}


def test_one_input_goes_into_an_existing_folder_or_a_trailing_slash(command: Command, here: Path) -> None:
    (here / "have").mkdir()

    assert command("decode", "made.rdc", "-o", "have") == 0
    assert command("decode", "made.rdc", "-o", "slash/") == 0
    assert names_in(here / "have") == names_in(here / "slash") == {"made.png"}


def test_several_inputs_bad_ones_do_not_stop_the_rest_and_highest_code_wins(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.rdc").write_bytes(b"GIF89a")
    (here / "last.rdc").write_bytes((here / "made.rdc").read_bytes())

    assert command("decode", "bad.rdc", "missing.rdc", "made.rdc", "last.rdc", "-o", "out") == 4

    assert names_in(here / "out") == {"made.png", "last.png"}
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("rdeic-rt: bad.rdc: ")
    assert said[1].startswith("rdeic-rt: missing.rdc: ")
    assert len(said) == 5
    assert said[4].startswith("total: 2 of 4 files, ")


def test_options_may_stand_between_inputs(command: Command, here: Path) -> None:
    (here / "b.jpg").write_bytes((here / "photo.jpg").read_bytes())

    assert command("encode", "photo.jpg", "-q", "b.jpg", "-o", "out") == 0
    assert names_in(here / "out") == {"photo.rdc", "b.rdc"}


def test_double_dash_ends_the_options(command: Command, here: Path) -> None:
    (here / "--rate.jpg").write_bytes((here / "photo.jpg").read_bytes())

    assert command("encode", "--rate.jpg") == 2
    assert command("encode", "-q", "--", "--rate.jpg") == 0
    assert (here / "--rate.rdc").is_file()


@pytest.mark.parametrize("words", [("encode", "photo.jpg"), ("decode", "photo.rdc")])
@pytest.mark.parametrize("folder", [(), ("-o", "."), ("-o", "./")])
def test_file_of_a_name_that_was_not_asked_for_is_replaced_only_with_overwrite(
    command: Command,
    here: Path,
    small_rdc: bytes,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    folder: tuple[str, ...],
) -> None:
    if words[0] == "decode":
        (here / "photo.rdc").write_bytes(small_rdc)
    target = here / ("photo.rdc" if words[0] == "encode" else "photo.png")
    target.write_bytes(b"precious")

    for options in ((), ("-q",), ("--no-overwrite",)):
        assert command(*words, *folder, *options) == 3
        assert target.read_bytes() == b"precious"
        (said,) = capsys.readouterr().err.splitlines()
        assert f"{target.name}: exists" in said
        assert ("--overwrite to replace it" in said) == ("--no-overwrite" not in options)

    assert command(*words, *folder, "--overwrite") == 0
    assert target.read_bytes() != b"precious"


def test_file_of_a_name_that_was_asked_for_is_replaced_but_with_no_overwrite(
    command: Command, here: Path, small_rdc: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "photo.rdc").write_bytes(b"precious")

    assert command("encode", "photo.jpg", "-o", "photo.rdc", "--no-overwrite") == 3
    assert (here / "photo.rdc").read_bytes() == b"precious"
    assert "photo.rdc: exists, and --no-overwrite was given" in capsys.readouterr().err

    assert command("encode", "photo.jpg", "-o", "photo.rdc") == 0
    assert (here / "photo.rdc").read_bytes() == small_rdc
    assert command("encode", "photo.jpg", "--overwrite", "--no-overwrite") == 2


def test_decoding_what_was_encoded_leaves_the_source(command: Command, here: Path) -> None:
    with Image.open(here / "photo.jpg") as image:
        image.save(here / "shot.png")
    source = (here / "shot.png").read_bytes()

    assert command("encode", "shot.png", "-q") == 0
    assert command("decode", "shot.rdc", "-q") == 3
    assert (here / "shot.png").read_bytes() == source


def test_several_outputs_one_that_exists_does_not_stop_the_rest(command: Command, here: Path, small_rdc: bytes) -> None:
    for name in ("a.rdc", "b.rdc", "c.rdc"):
        (here / name).write_bytes(small_rdc)
    (here / "b.png").write_bytes(b"precious")

    assert command("decode", "a.rdc", "b.rdc", "c.rdc") == 3
    assert (here / "b.png").read_bytes() == b"precious"
    assert (here / "a.png").read_bytes() == (here / "c.png").read_bytes()


def test_failure_leaves_an_existing_output_and_no_debris(command: Command, here: Path, small_rdc: bytes) -> None:
    (here / "cut.rdc").write_bytes(small_rdc[:-6])
    (here / "cut.png").write_bytes(b"precious")
    before = names_in(here)

    assert command("decode", "cut.rdc", "-o", "cut.png") == 4
    assert (here / "cut.png").read_bytes() == b"precious"
    assert names_in(here) == before


@pytest.mark.parametrize(("failure", "code"), [(RuntimeError, 1), (KeyboardInterrupt, 130), (OSError, 3)])
@pytest.mark.parametrize("words", [("encode", "photo.jpg", "-o", "out.rdc"), ("decode", "made.rdc", "-o", "out.png")])
def test_failure_in_the_middle_of_writing_leaves_an_existing_output_and_no_debris(
    command: Command,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    failure: type[BaseException],
    code: int,
) -> None:
    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    (here / words[-1]).write_bytes(b"precious")
    before = names_in(here)

    assert command(*words) == code
    assert (here / words[-1]).read_bytes() == b"precious"
    assert names_in(here) == before


def test_bug_shows_its_traceback_and_asks_for_a_report(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(Codec, "decode_with_metadata", broken)

    assert command("decode", "made.rdc") == 1
    said = capsys.readouterr().err
    assert "RuntimeError: out of ideas" in said
    assert "please report" in said


def test_output_that_is_not_a_regular_file_is_written_into(command: Command, here: Path, small_rdc: bytes) -> None:
    os.mkfifo(here / "pipe")
    reader = os.open(here / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert command("encode", "photo.jpg", "-o", "pipe") == 0
        assert os.read(reader, 1 << 16) == small_rdc
    finally:
        os.close(reader)


def test_metadata_is_kept_and_orientation_applied_once(command: Command, here: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "A maker"
    with Image.open(here / "photo.jpg") as image:
        image.save(here / "turned.jpg", exif=exif, icc_profile=DISPLAY_P3)

    assert command("encode", "turned.jpg") == 0
    assert command("decode", "turned.rdc", "-o", "turned.png") == 0
    with Image.open(here / "turned.png") as decoded:
        assert decoded.size == (80, 96)
        assert decoded.info["icc_profile"] == DISPLAY_P3
        assert decoded.getexif()[0x010F] == "A maker"
        assert decoded.getexif().get(ORIENTATION, 1) == 1


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_strip_leaves_metadata_out(command: Command, here: Path, verb: str) -> None:
    with Image.open(here / "photo.jpg") as image:
        image.save(here / "tagged.jpg", icc_profile=DISPLAY_P3)

    assert command("encode", "tagged.jpg", *(["--strip"] if verb == "encode" else [])) == 0
    kept = container.parse((here / "tagged.rdc").read_bytes()).metadata.icc
    assert kept == (None if verb == "encode" else DISPLAY_P3)

    assert command("decode", "tagged.rdc", "-o", "tagged.png", *(["--strip"] if verb == "decode" else [])) == 0
    with Image.open(here / "tagged.png") as decoded:
        assert "icc_profile" not in decoded.info


def test_messages_one_line_each_unless_quiet(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("encode", "photo.jpg") == 0
    expected = r"photo\.jpg -> photo\.rdc: 96x80, \d+ bytes, \d\.\d{4} bpp, rate large, \d+\.\d\d s\n"
    assert re.fullmatch(expected, capsys.readouterr().err)
    assert command("decode", "photo.rdc", "-q") == 0
    assert capsys.readouterr() == ("", "")

    assert command("decode", "photo.rdc", "-v", "-o", "photo.png") == 0
    assert "rdeic-rt: bundle " in capsys.readouterr().err


def test_debug_shows_the_traceback_of_an_error(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("decode", "photo.jpg") == 4
    assert "Traceback" not in capsys.readouterr().err
    assert command("decode", "photo.jpg", "--debug") == 4
    assert "NotRdcError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["encode"], 2, "at least one input"),
        (["encode", "photo.jpg", "--rate", "99"], 2, "rate 99"),
        (["encode", "photo.jpg", "--rate", "-0.5"], 2, "-0.5 is not from 0 to 255"),
        (["encode", "photo.jpg", "--rate", "nan"], 2, "nan is not from 0 to 255"),
        (["encode", "photo.jpg", "--rate", "one"], 2, "rate 'one' is not one of bundle"),
        (
            ["encode", "photo.jpg", "--quality", "30"],
            2,
            "encode: error: unrecognized arguments: --quality. The size of",
        ),
        (["encode", "photo.jpg", "--raet", "1"], 2, "unrecognized arguments: --raet; did you mean --rate?"),
        (["encode", "photo.jpg", "--rate", "0", "--target-bpp", "0.1"], 2, "not allowed with"),
        (["encode", "photo.jpg", "--target-size", "1k", "--target-bpp", "0.1"], 2, "not allowed with"),
        (["encode", "photo.jpg", "--target-bpp", "0"], 2, "not over 0"),
        (["encode", "photo.jpg", "--target-size", "four"], 2, "4096 or 4k"),
        (["encode", "photo.jpg", "--target-size", "10"], 4, "Raise the target"),
        (["encode", "photo.jpg", "--threads", "0"], 2, "not between 1 and"),
        (["encode", "photo.jpg", "--rat", "0"], 2, "unrecognized arguments: --rat"),
        (["encode", "photo.jpg", "-o", "photo.jpg"], 2, "would be overwritten"),
        (["encode", "missing.jpg"], 3, "missing.jpg: No such file"),
        (["encode", "photo.jpg", "-o", "no/such/folder.rdc"], 3, "rdeic-rt: no/such/folder.rdc: No such file"),
        (["encode", "photo.jpg", "-o", "made.rdc/x.rdc"], 3, "rdeic-rt: made.rdc/x.rdc: Not a directory"),
        (["encode", "photo.jpg", "-o", "made.rdc/"], 3, "rdeic-rt: made.rdc/: "),
        (["decode", "/dev"], 2, "no file in this folder ends in one of .rdc; --recursive looks"),
        (["encode", ".", "-o", "made.rdc"], 2, "-o made.rdc is a file, but the input is a folder"),
        (["encode", "photo.jpg", "--jobs", "0"], 2, "not between 1 and"),
        (["decode", "made.rdc", "--max-side", "0"], 2, "not between 1 and"),
        (["encode", "made.rdc", "-o", "again.rdc"], 4, "made.rdc: "),
        (["encode", "photo.jpg", "--max-pixels", "100"], 4, "100"),
        (["encode", "photo.jpg", "--bundle", "no-such-bundle"], 5, "no-such-bundle"),
        (["encode", "photo.jpg", "--backend", "cuda"], 6, "cuda"),
        (["encode", "photo.jpg", "--precision", "fp16"], 6, "fp16"),
        (["decode", "made.rdc", "--steps", "77"], 2, "77 steps"),
        (["decode", "made.rdc", "--seed", "-1"], 2, "not between 0 and"),
        (["decode", "made.rdc", "--preview", "--steps", "2"], 2, "leave out --steps"),
        (["decode", "photo.jpg", "--allow-partial"], 4, "photo.jpg: "),
        (["decode", "made.rdc", "--sharpness", "nan"], 2, "not between 0 and 10"),
        (["decode", "made.rdc", "-o", "image.xyz"], 2, ".xyz"),
        (["decode", "photo.jpg"], 4, "photo.jpg: "),
        (["decode", "made.rdc", "--max-pixels", "100"], 4, "100"),
        (["decode", "made.rdc", "--max-memory", "100K"], 4, "102400 are allowed (limit max_memory_bytes)"),
        (["encode", "photo.jpg", "--max-memory", "100K"], 4, "102400 are allowed (limit max_memory_bytes)"),
        (["decode", "made.rdc", "--max-seconds", "1e-9"], 4, "not done after 1e-09 s (limit max_seconds)"),
        (["encode", "photo.jpg", "--max-seconds", "1e-9"], 4, "not done after 1e-09 s (limit max_seconds)"),
        (["decode", "made.rdc", "--max-seconds", "0"], 2, "0 is not over 0"),
        (["decode", "made.rdc", "--bundle", "/"], 5, "bundle.json"),
        (["transmogrify"], 2, "no command 'transmogrify'; there are encode,"),
        (["encod", "photo.jpg"], 2, "did you mean encode?"),
        ([], 2, "commands:"),
    ],
)
def test_mistake_ends_in_its_exit_code_and_one_message(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    before = names_in(here)

    assert command(*words) == code

    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert "Traceback" not in err
    assert names_in(here) == before


def test_file_of_another_model_ends_in_5_and_names_both(
    command: Command, here: Path, small_rdc: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = container.parse(small_rdc)
    other = container.pack(replace(file.header, model_id=b"\xde\xad\xbe\xef"), file.z, file.y)
    (here / "other.rdc").write_bytes(other)

    assert command("decode", "other.rdc") == 5
    assert "deadbeef" in capsys.readouterr().err
    assert command("decode", "other.rdc", "--bundle", "tiny-2") == 5
    said = capsys.readouterr().err
    assert "deadbeef" in said
    assert file.header.model_id.hex() in said
