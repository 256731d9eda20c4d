"""The command as a process: binary streams, terminals, readers that leave."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "rdeic_rt"]


def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *words], input=stdin, capture_output=True, timeout=120)


def test_streams_carry_the_same_bytes_as_files(here: Path, small_rdc: bytes) -> None:
    encoded = run("encode", "-", "-q", stdin=(here / "photo.jpg").read_bytes())
    assert (encoded.returncode, encoded.stderr) == (0, b"")
    assert encoded.stdout == small_rdc

    decoded = run("decode", "-", "-q", stdin=encoded.stdout)
    assert (decoded.returncode, decoded.stderr) == (0, b"")
    with Image.open(io.BytesIO(decoded.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (96, 80))

    assert run("info", "-", stdin=small_rdc).stdout.startswith(b"file: -\n")


def test_stream_to_a_file_and_file_to_a_stream(here: Path, small_rdc: bytes) -> None:
    assert run("encode", "-", "-o", "x.rdc", stdin=(here / "photo.jpg").read_bytes()).returncode == 0
    assert (here / "x.rdc").read_bytes() == small_rdc
    assert run("encode", "photo.jpg", "-o", "-").stdout == small_rdc


def test_cut_stream_is_decoded_where_that_is_allowed(here: Path, small_rdc: bytes) -> None:
    refused = run("decode", "-", stdin=small_rdc[:-20])
    assert (refused.returncode, refused.stdout) == (4, b"")

    decoded = run("decode", "-", "--allow-partial", stdin=small_rdc[:-20])
    assert decoded.returncode == 0
    assert b"warning" in decoded.stderr
    with Image.open(io.BytesIO(decoded.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (96, 80))


def test_bad_stream_is_named_and_nothing_is_written(here: Path) -> None:
    done = run("decode", "-", stdin=b"\x89RDC")

    assert done.returncode == 4
    assert done.stdout == b""
    assert done.stderr.startswith(b"rdeic-rt: standard input: ")


@pytest.mark.parametrize("words", [("decode", "made.rdc", "-o", "-"), ("info", "made.rdc")])
def test_reader_that_leaves_ends_in_141_without_a_word(here: Path, words: tuple[str, ...]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run([*COMMAND, *words, "-q"], stdout=write_end, stderr=subprocess.PIPE, timeout=120)
    finally:
        os.close(write_end)

    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is a Linux device")
@pytest.mark.parametrize("words", [("decode", "made.rdc", "-o", "-"), ("info", "made.rdc")])
def test_full_disk_behind_standard_output_ends_in_3(here: Path, words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, *words, "-q"], stdout=full, stderr=subprocess.PIPE, timeout=120)

    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


def test_closed_standard_output_ends_in_3(here: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "encode", "photo.jpg", "-o", "-"], stderr=subprocess.PIPE, timeout=120
    )

    assert done.returncode == 3
    assert b"standard output is closed" in done.stderr


def test_terminal_gets_no_binary_and_is_not_read(here: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        to_terminal = subprocess.run(
            [*COMMAND, "encode", "photo.jpg", "-o", "-"], stdout=theirs, stderr=subprocess.PIPE, timeout=120
        )
        from_terminal = subprocess.run([*COMMAND, "decode", "-"], stdin=theirs, capture_output=True, timeout=120)
    finally:
        os.close(ours)
        os.close(theirs)

    assert (to_terminal.returncode, from_terminal.returncode) == (2, 2)
    assert b"binary data to a terminal" in to_terminal.stderr
    assert b"standard input is a terminal" in from_terminal.stderr


def test_several_inputs_draw_a_bar_on_a_terminal(here: Path) -> None:
    (here / "b.rdc").write_bytes((here / "made.rdc").read_bytes())
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run([*COMMAND, "decode", "made.rdc", "b.rdc", "-o", "out"], stderr=theirs, timeout=120)
        said = os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)

    assert done.returncode == 0
    assert b"] 0/2 made.rdc" in said
    assert b"] 1/2 b.rdc" in said
    assert said.endswith(b" s\r\n")
