"""`rdeic-rt eval`, on tiny images."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rdeic_eval import metrics, reference_codecs
from rdeic_rt.cli import eval as eval_verb
from rdeic_rt.cli.console import Console
from rdeic_rt.codec import Codec

from .conftest import Command

QUICK = ("eval", "--backend", "cpu", "--codecs", "jpeg", "--no-curves")


@pytest.fixture
def photos(here: Path) -> Path:
    """A folder with a photo, a damaged one, one that Pillow does not know by its name, and something else."""
    folder = here / "photos"
    folder.mkdir()
    (folder / "b.jpg").write_bytes((here / "photo.jpg").read_bytes())
    (folder / "a.PNG").write_bytes(b"damaged")
    (folder / "README.md").write_text("photos")
    with Image.open(here / "photo.jpg") as image:
        image.resize((48, 40)).save(folder / "c.png")
    return folder


def test_eval_prints_a_table_reports_the_failure_and_returns_its_code(
    command: Command, photos: Path, capsys: pytest.CaptureFixture[str], codec: Codec
) -> None:
    assert command(*QUICK, photos, "--json", "all.json") == 4

    said = capsys.readouterr()
    assert said.out.startswith("2 photos, bundle tiny-2, backend cpu")
    # In the table of metrics and in that of faults.
    assert len(re.findall(r"^\| \d, L = \d+ \| rdeic-rt \|", said.out, re.MULTILINE)) == 2 * len(codec.bundle.rates)
    (line,) = said.err.splitlines()
    assert re.match(r"rdeic-rt: .*a\.PNG: ", line)
    found = json.loads(Path("all.json").read_text())
    assert [Path(photo["name"]).name for photo in found["photos"]] == ["b.jpg", "c.png"]
    assert found["command"].startswith("rdeic-rt eval --backend cpu --codecs jpeg --no-curves ")
    assert found["versions"]["pytorch-msssim"]
    assert found["versions"]["Pillow"]
    assert found["system"]["platform"]
    assert found["curve"] == found["bd_rate"] == []
    assert found["complete"] is True


def test_eval_takes_photos_a_limit_and_rates_and_writes_json_alone(
    command: Command, photos: Path, capsys: pytest.CaptureFixture[str], codec: Codec
) -> None:
    last = codec.bundle.rates[-1].index
    assert command(*QUICK, photos / "c.png", photos, "--limit", "1", "--rates", last, "--json", "-") == 0

    found = json.loads(capsys.readouterr().out)
    assert [photo["name"] for photo in found["photos"]] == [str(photos / "c.png")]
    assert [rate["index"] for rate in found["rates"]] == [last]
    assert {file["codec"] for file in found["photos"][0]["files"]} >= {"rdeic-rt", "rdeic-rt, preview", "JPEG"}


def test_eval_draws_curves_and_a_sheet(command: Command, here: Path) -> None:
    words = ("--codecs", "webp", "--rates", "0", "--plot", "curves.png", "--sheet", "sheet.png")
    assert command("eval", "--backend", "cpu", "photo.jpg", *words) == 0

    for name in ("curves.png", "sheet.png"):
        with Image.open(here / name) as drawn:
            assert min(drawn.size) > 100


def test_eval_with_nothing_measured_writes_nothing(command: Command, photos: Path) -> None:
    assert command(*QUICK, photos / "a.PNG", "missing.jpg", "--json", "all.json") == 4
    assert not Path("all.json").exists()


def test_eval_interrupted_says_so_and_writes_nothing(
    command: Command, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics.Judge, "scores", interrupt)
    assert command(*QUICK, photos / "c.png", "--json", "all.json") == 130
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "rdeic-rt: interrupted\n")
    assert not Path("all.json").exists()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (ZeroDivisionError("oh"), 1)])
def test_eval_that_is_stopped_writes_what_is_complete(
    command: Command,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    reference = metrics.Judge.reference
    seen = []

    def stop_at_the_second(self: metrics.Judge, photo: Any) -> metrics.Reference:
        seen.append(photo)
        if len(seen) == 2:
            raise error
        return reference(self, photo)

    monkeypatch.setattr(metrics.Judge, "reference", stop_at_the_second)
    assert command(*QUICK, photos / "c.png", photos / "b.jpg", photos / "c.png", "--json", "all.json") == code
    said = capsys.readouterr()
    assert said.out.startswith("1 photo, bundle tiny-2")
    assert "measured 1 of 3 photos: what is written is of these alone" in said.err.splitlines()
    written = json.loads(Path("all.json").read_text())
    assert [Path(photo["name"]).name for photo in written["photos"]] == ["c.png"]
    assert written["complete"] is False


def test_eval_of_one_photo_shows_how_far_it_has_come(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, int, str]] = []
    monkeypatch.setattr(Console, "progress", lambda self, done, total, name, part: drawn.append((done, total, part)))
    assert command(*QUICK, photos / "c.png", "--rates", "0,1") == 0
    assert drawn == [(0, 1, "rate 0"), (1 / 3, 1, "rate 1"), (2 / 3, 1, "JPEG")]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "give at least one input"),
        (("photo.jpg", "--rates", "99"), 2, "rate 99"),
        (("photo.jpg", "--rates", "0,x"), 2, "'x' is not a whole number"),
        (("photo.jpg", "--codecs", "jpeg,bmp"), 2, "'bmp' is none of jpeg, webp, avif, jxl; or say none"),
        (("photo.jpg", "--plot", "curves.png"), 2, "--plot draws curves, which --no-curves leaves out"),
        (("photo.jpg", "--sheet", "sheet.doc"), 2, r"--sheet sheet\.doc: images are written as one of"),
        (("empty",), 2, "empty: no file in this folder ends in one of"),
        (("missing.jpg",), 3, r"missing\.jpg: No such file"),
        (("photo.jpg", "--bundle", "no-such"), 5, "no-such"),
    ],
)
def test_eval_mistake_ends_in_its_exit_code_and_one_message(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, message: str
) -> None:
    (here / "empty").mkdir()
    assert command(*QUICK, *words) == code

    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(message, said.err.splitlines()[-1])


@pytest.mark.parametrize("module", eval_verb.PACKAGES.values())
def test_eval_without_a_package_says_how_to_install_it(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert command(*QUICK, "photo.jpg") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"eval needs {module}" in last
    assert "pip install 'rdeic-rt[eval]'" in last


def test_choices_are_those_of_the_package() -> None:
    assert eval_verb.CODECS == reference_codecs.IDS
