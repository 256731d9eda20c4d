"""`--jobs`: several images at a time give what one at a time gives, in the same order, and end as well."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt.cli import cpu, decode
from rdeic_rt.cli.loop import Done
from rdeic_rt.cli.outputs import Job

from .conftest import Command

COMMAND = [sys.executable, "-m", "rdeic_rt"]
BATCH_LENGTH = 300
SECONDS = re.compile(r"\d+\.\d\d s")


@pytest.fixture
def batch(here: Path, small_rdc: bytes) -> list[str]:
    """Inputs to decode, of which some fail, each in another way."""
    names = [f"{number}.rdc" for number in range(6)]
    for name in names:
        (here / name).write_bytes(small_rdc)
    (here / "1.rdc").write_bytes(small_rdc[:-20])
    (here / "4.rdc").write_bytes(b"GIF89a")
    return [*names, "none.rdc"]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return SECONDS.sub("N s", capsys.readouterr().err).splitlines()


@pytest.mark.parametrize("words", [(), ("--allow-partial",)])
def test_jobs_say_and_write_what_one_at_a_time_does(
    command: Command, here: Path, batch: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    decode = ("decode", *batch, "--backend", "cpu", "--threads", "1", *words)
    assert command(*decode, "-o", "one") == 4
    lines = said(capsys)
    assert command(*decode, "-o", "many", "-j", "3") == 4
    assert said(capsys) == [line.replace("one/", "many/") for line in lines]
    assert len(lines) == len(batch) + 1 + len(words)  # the total, and a warning for the file that is cut short
    assert lines[-1].endswith(f"{3 - len(words)} failed")
    written = {path.name: path.read_bytes() for path in (here / "one").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (here / "many").iterdir()}
    assert len(written) == 4 + len(words)


def test_jobs_encode_the_same_files(command: Command, here: Path, small_rdc: bytes) -> None:
    for number in range(4):
        (here / f"{number}.jpg").write_bytes((here / "photo.jpg").read_bytes())
    assert command("encode", *(f"{number}.jpg" for number in range(4)), "--jobs", "2") == 0
    assert all((here / f"{number}.rdc").read_bytes() == small_rdc for number in range(4))


def test_jobs_replace_only_what_may_be_replaced(command: Command, here: Path, batch: list[str]) -> None:
    (here / "0.png").write_bytes(b"precious")
    assert command("decode", "0.rdc", "2.rdc", "-j", "2") == 3
    assert (here / "0.png").read_bytes() == b"precious"
    assert (here / "2.png").exists()


@pytest.mark.parametrize(
    ("words", "threads"), [(("-j", "2"), 4), (("-j", "64"), 2), (("-j", "2", "--threads", "7"), 7)]
)
def test_jobs_share_the_cores(
    command: Command, batch: list[str], words: tuple[str, ...], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(*_: object, **options: object) -> None:
        asked.append(options["threads"])
        raise OSError("enough")

    monkeypatch.setattr(cpu, "n_cores", lambda: 8)
    monkeypatch.setattr("rdeic_rt.codec.load", load)
    assert command("decode", *batch[:4], "--bundle", "tiny-2", *words) == 3
    assert asked == [threads]


def test_a_bug_in_one_job_does_not_stop_the_others(
    command: Command, batch: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode_one = decode.decode_one

    def broken(job: Job, *rest: Any) -> Done:
        if job.source == "2.rdc":
            raise ZeroDivisionError("oh")
        return decode_one(job, *rest)

    monkeypatch.setattr(decode, "decode_one", broken)
    assert command("decode", "0.rdc", "2.rdc", "3.rdc", "-j", "2") == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oh" in err and "2.rdc: this is a bug" in err
    assert "3.rdc -> 3.png" in err


def started_batch(here: Path, small_rdc: bytes) -> subprocess.Popen[str]:
    """Start to decode BATCH_LENGTH files to the folder `out`."""
    names = [f"{index}.rdc" for index in range(BATCH_LENGTH)]
    for name in names:
        (here / name).write_bytes(small_rdc)
    words = [*COMMAND, "decode", *names, "-o", "out", "-j", "2", "--backend", "cpu"]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_jobs_that_are_ended_leave_whole_files_alone(here: Path, small_rdc: bytes, number: signal.Signals) -> None:
    started = started_batch(here, small_rdc)
    assert started.stderr is not None
    first = started.stderr.readline()
    started.send_signal(number)
    began = time.monotonic()
    err = first + started.communicate(timeout=60)[1]
    assert time.monotonic() - began < 30
    assert started.returncode == (130 if number == signal.SIGINT else -number), err
    out = list((here / "out").iterdir())
    assert 0 < len(out) < BATCH_LENGTH
    assert all(path.suffix == ".png" and path.read_bytes()[-8:-4] == b"IEND" for path in out), out


def test_ctrl_c_says_what_was_done(here: Path, small_rdc: bytes) -> None:
    started = started_batch(here, small_rdc)
    assert started.stderr is not None
    started.stderr.readline()
    started.send_signal(signal.SIGINT)
    lines = started.stderr.read().splitlines()
    started.wait(60)
    assert lines[-1] == "rdeic-rt: interrupted"
    assert re.fullmatch(rf"total: \d+ of {BATCH_LENGTH} files, .*, \d+ not done", lines[-2]), lines[-2:]
    assert "Traceback" not in "\n".join(lines)


@pytest.mark.parametrize(("words", "shown"), [((), "0 % made.rdc: entropy"), (("b.rdc", "-j", "2"), "] 0/2 made.rdc")])
def test_bar_moves_within_a_decode_on_a_terminal(here: Path, words: tuple[str, ...], shown: str) -> None:
    (here / "b.rdc").write_bytes((here / "made.rdc").read_bytes())
    ours, theirs = pty.openpty()
    try:
        decode = [*COMMAND, "decode", "made.rdc", *words, "-o", "out/", "--backend", "cpu"]
        done = subprocess.run(decode, stderr=theirs, timeout=120)
        seen = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert shown in seen
    if not words:
        shares = [int(share) for share in re.findall(r"(\d+) % made", seen)]
        assert shares == sorted(set(shares)) and len(shares) >= 4 and shares[-1] == 100


def test_everything_said_includes_the_time_of_each_stage(
    command: Command, batch: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("0.rdc",), ("2.rdc", "3.rdc", "-j", "2")):
        assert command("decode", *words, "-vv", "--backend", "cpu") == 0
        err = capsys.readouterr().err
        for name in (word for word in words if word.endswith(".rdc")):
            assert re.search(rf"^rdeic-rt: {name}: container \d+\.\d ms, .*vae \d+\.\d ms", err, re.MULTILINE), err
    assert command("decode", "5.rdc", "-v") == 0
    assert " ms" not in capsys.readouterr().err
