"""Folders as inputs: which files are taken, where their outputs go, and the total at the end."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdeic_rt.cli.inputs import IMAGE_SUFFIXES, Input, find
from rdeic_rt.cli.outputs import UsageError

from .conftest import Command


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def album(here: Path) -> Path:
    """A folder with images, what is none, what is hidden, and links that lead round in circles."""
    photo = (here / "photo.jpg").read_bytes()
    folder = here / "album"
    for name in ("b.jpg", "a.JPG", "notes.txt", ".c.jpg", "x/d.jpeg", "x/y/e.jpg", ".hidden/f.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
    (folder / "x" / "loop").symlink_to("..")
    (folder / "x" / "link.jpg").symlink_to("d.jpeg")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    return folder


def test_find_takes_visible_files_by_suffix_and_name(album: Path) -> None:
    top = [Input("album/a.JPG", ""), Input("album/b.jpg", "")]
    below = [Input("album/x/d.jpeg", "x"), Input("album/x/link.jpg", "x"), Input("album/x/y/e.jpg", "x/y")]
    assert find(["album"], IMAGE_SUFFIXES) == top
    assert find(["album"], IMAGE_SUFFIXES, recursive=True) == top + below
    # What is named is taken whatever it is called, and a link that is named is followed.
    named = ["album/notes.txt", "none", "-"]
    assert find(named, IMAGE_SUFFIXES) == [Input(name) for name in named]
    assert [found.path for found in find(["album/x/loop"], IMAGE_SUFFIXES)] == [
        "album/x/loop/a.JPG",
        "album/x/loop/b.jpg",
    ]


def test_find_reports_a_link_that_leads_nowhere(command: Command, album: Path) -> None:
    (album / "gone.jpg").symlink_to("nowhere")
    assert Input("album/gone.jpg", "") in find(["album"], IMAGE_SUFFIXES)
    assert command("encode", "album", "-o", "out") == 3
    assert tree(Path("out")) == {"a.rdc", "b.rdc"}


def test_find_in_a_folder_without_images_is_refused(album: Path) -> None:
    (album / "empty").mkdir()
    with pytest.raises(UsageError, match=r"album/empty: no file .* ends in one of \.avif, .*; --recursive looks"):
        find(["album", "album/empty"], IMAGE_SUFFIXES)
    with pytest.raises(UsageError, match=r"ends in one of \.rdc$"):
        find(["album"], {".rdc"}, recursive=True)


def test_folders_keep_their_structure_below_the_output(
    command: Command, album: Path, small_rdc: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"a", "b", "x/d", "x/link", "x/y/e"}
    assert command("encode", "album", "-o", "out", "--recursive") == 0
    assert tree(Path("out")) == {f"{name}.rdc" for name in names}
    assert Path("out/x/y/e.rdc").read_bytes() == small_rdc
    total = capsys.readouterr().err.splitlines()[-1]
    bpp = 8 * len(small_rdc) / (96 * 80)
    assert re.fullmatch(rf"total: 5 of 5 files, {5 * len(small_rdc)} bytes, {bpp:.4f} bpp, \d+\.\d\d s", total)

    assert command("decode", "out", "-r", "-o", "images/", "-q") == 0
    assert tree(Path("images")) == {f"{name}.png" for name in names}
    assert capsys.readouterr().err == ""


def test_folders_without_an_output_are_written_into(command: Command, album: Path) -> None:
    assert command("encode", "album", "-r") == 0
    assert {"album/a.rdc", "album/x/y/e.rdc", "album/x/link.rdc"} <= {f"album/{name}" for name in tree(album)}
    assert command("encode", "album", "-r") == 3  # they exist now


def test_folder_with_one_image_goes_into_a_folder(command: Command, here: Path) -> None:
    assert command("encode", ".", "-o", "one") == 0
    assert tree(here / "one") == {"photo.rdc"}


def test_files_of_one_name_in_two_folders_are_refused(
    command: Command, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("encode", "album/x", "album/x/loop/x", "-o", "out") == 2
    assert "would both become out/d.rdc" in capsys.readouterr().err
    assert not Path("out").exists()


def test_total_counts_what_failed(command: Command, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bad.rdc").write_bytes(b"\x89RDC")
    assert command("decode", "made.rdc", "bad.rdc", "none.rdc", "-o", "out") == 4
    total = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"total: 1 of 3 files, \d+ bytes, 0\.\d{4} bpp, \d+\.\d\d s, 2 failed", total)


@pytest.mark.parametrize(("words", "size"), [((), (48, 40)), (("--preview",), (48, 40))])
def test_max_side_scales_the_decoded_image_down(
    command: Command, here: Path, words: tuple[str, ...], size: tuple[int, int]
) -> None:
    assert command("decode", "made.rdc", *words) == 0
    assert command("decode", "made.rdc", *words, "--max-side", "48", "-o", "small.png") == 0
    assert command("decode", "made.rdc", *words, "--max-side", "96", "-o", "same.png") == 0
    assert (here / "same.png").read_bytes() == (here / "made.png").read_bytes()
    with Image.open(here / "small.png") as small, Image.open(here / "made.png") as whole:
        assert small.size == size
        expected = np.asarray(whole.resize(size, Image.Resampling.BOX), float)
        assert np.abs(np.asarray(small, float) - expected).mean() < 3
