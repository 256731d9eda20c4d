"""The callables, the list of files, the room for workers and the command line: all without Ray."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rdeic_rt
from rdeic_rt import Codec, DecodeOptions, container, fleet
from rdeic_rt.cli.main import main
from rdeic_rt.fleet import Decoder, Decoding, Encoder, Encoding, JobError, Model, Pool, listing, pool, workers


@pytest.fixture(scope="module")
def contents(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two images of 96x80, by path."""
    folder = tmp_path_factory.mktemp("images")
    for name, at in (("a.png", 0), ("sub/b.png", 64)):
        (folder / name).parent.mkdir(exist_ok=True)
        image, _ = rdeic_rt.read_image(photo_paths[0])
        rdeic_rt.write_image(folder / name, image[at : at + 80, at : at + 96])
    return {name: (folder / name).read_bytes() for name in ("a.png", "sub/b.png")}


@pytest.fixture(scope="module")
def encoder(embedded_bundle: Path) -> Encoder:
    return Encoder(Encoding(Model(str(embedded_bundle), backend="cpu", threads=1), rate=0))


def batch(contents: dict[str, bytes]) -> dict[str, Any]:
    return {"path": list(contents), "bytes": list(contents.values())}


def test_encoder_gives_the_bytes_of_a_plain_loop(encoder: Encoder, codec: Codec, contents: dict[str, bytes]) -> None:
    expected = dict(codec.encode_many(list(contents.values()), 0))

    columns = encoder(batch(contents))

    assert tuple(columns) == ("path", "data", *workers.REPORT[2:])
    assert list(columns["path"]) == list(contents)
    assert list(columns["data"]) == [expected[content] for content in contents.values()]
    assert list(columns["n_bytes"]) == [len(data) for data in columns["data"]]
    assert list(columns["crc32c"]) == [container.parse(data).crc for data in columns["data"]]
    assert list(columns["width"]) == [96, 96] and list(columns["height"]) == [80, 80]
    assert set(columns["error_type"]) == set(columns["error"]) == {None}


def test_decoder_gives_the_images_of_a_plain_loop(
    encoder: Encoder, codec: Codec, contents: dict[str, bytes], tmp_path: Path
) -> None:
    encoded = encoder(batch(contents))
    decoder = Decoder(Decoding(Model(backend="cpu", threads=1), DecodeOptions(seed=3)), tmp_path)

    columns = decoder({"path": encoded["path"], "bytes": encoded["data"]})

    assert tuple(columns) == workers.REPORT
    assert list(columns["out"]) == ["a.png", "sub/b.png"]
    for out, data, crc in zip(columns["out"], encoded["data"], columns["crc32c"], strict=True):
        written, _ = rdeic_rt.read_image(tmp_path / out)
        assert np.array_equal(written, codec.decode(data, DecodeOptions(seed=3)))
        assert workers.checksum((tmp_path / out).read_bytes()) == crc


def test_a_bad_file_is_a_row_and_the_others_are_done(
    encoder: Encoder, contents: dict[str, bytes], tmp_path: Path
) -> None:
    missing = str(tmp_path / "none.png")
    files = {"bad.png": b"no image", **contents}
    columns = encoder(batch(files))
    missed = encoder({"path": [missing]})

    assert columns["error_type"][0] == "ImageError" and "not an image" in columns["error"][0]
    assert columns["data"][0] is None and columns["n_bytes"][0] is None
    assert list(columns["error_type"][1:]) == [None, None]
    assert missed["error_type"][0] == "FileNotFoundError" and missing in missed["error"][0]


def test_a_bug_is_a_row_that_says_where(
    encoder: Encoder, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("lost")

    encoder.prepare()
    monkeypatch.setattr(Codec, "encode", fail)
    columns = encoder(batch(contents))
    assert set(columns["error_type"]) == {"KeyError"}
    assert all("test_workers.py:" in text for text in columns["error"])


def test_a_model_that_cannot_be_loaded_ends_the_batch(contents: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(rdeic_rt.BundleNotFoundError):
        Encoder(Encoding(Model(str(tmp_path / "no-bundle"))))(batch(contents))


def test_callables_can_be_sent_after_they_were_used(encoder: Encoder, contents: dict[str, bytes]) -> None:
    first = encoder(batch(contents))
    again = pickle.loads(pickle.dumps(encoder))
    assert list(again(batch(contents))["data"]) == list(first["data"])


def test_nothing_is_written_outside_of_the_folder() -> None:
    assert workers.out_name("../../etc/x.jpg", ".rdc") == "etc/x.rdc"
    assert workers.out_name("/etc/x.tar.jpg", ".rdc") == "etc/x.tar.rdc"


def test_checksums_tell_rdc_files_apart(encoder: Encoder, contents: dict[str, bytes]) -> None:
    """Each ends in its CRC, and so all of them have the same one as a whole."""
    one, other = encoder(batch(contents))["data"]
    damaged = bytearray(one)
    damaged[-1] ^= 1
    assert len({workers.checksum(data) for data in (one, other, bytes(damaged))}) == 3


def test_files_are_known_by_their_path_below_the_input(tmp_path: Path) -> None:
    for name in ("in/a.JPG", "in/sub/b.webp", "in/notes.txt", "in/c.rdc", "alone.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    found = listing.find([str(tmp_path / "in"), str(tmp_path / "alone.dat")], listing.IMAGE_SUFFIXES)

    assert [file.path for file in found] == ["a.JPG", "alone.dat", "sub/b.webp"]
    assert [Path(file.source) for file in found] == [
        tmp_path / "in/a.JPG",
        tmp_path / "alone.dat",
        tmp_path / "in/sub/b.webp",
    ]


def test_files_that_would_become_one_are_refused(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "y/a.jpg", "y/a.png", "y/b.1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(JobError, match="are both a.jpg"):
        listing.find([str(tmp_path / "x"), str(tmp_path / "y")], listing.IMAGE_SUFFIXES)
    found = listing.find([str(tmp_path / "y")], listing.IMAGE_SUFFIXES)
    with pytest.raises(JobError, match=r"a\.jpg and a\.png would both become a\.rdc"):
        listing.refuse_clashes(found, ".rdc")
    assert [file.key for file in found] == ["a", "a", "b_1"]


@pytest.mark.skipif(sys.platform == "win32", reason="names of files are text there")
def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(JobError, match="UTF-8"):
        listing.find([str(tmp_path)], listing.IMAGE_SUFFIXES)


ONE = [{"CPU": 4.0}]


@pytest.mark.parametrize(
    ("asked", "nodes", "resuming", "expected"),
    [
        (Pool(), ONE, False, (3, 3)),
        (Pool(), ONE, True, (2, 2)),
        (Pool(cpus=0.5), ONE, False, (6, 6)),
        (Pool(2, 3), ONE, False, (2, 3)),
        (Pool(gpus=0.5), [{"CPU": 16.0, "GPU": 2.0}], False, (4, 4)),
        (Pool(cpus=3), [{"CPU": 4.0}, {"CPU": 4.0}], False, (2, 2)),
        (Pool(1, cpus=0), ONE, False, (1, 1)),
    ],
)
def test_workers_that_fit(
    asked: Pool, nodes: list[dict[str, float]], resuming: bool, expected: tuple[int, int]
) -> None:
    assert pool.sized(asked, nodes, resuming=resuming) == expected


@pytest.mark.parametrize(
    ("asked", "nodes", "resuming", "numbers"),
    [
        (Pool(4), ONE, False, r"4 worker\(s\) of 1 CPU each take 4 of 4 CPUs .*: 3 fit.*--workers.*--cpus-per-worker"),
        (Pool(3), ONE, True, "leaving out what is done needs 1 more.*: 2 fit"),
        (Pool(1, 4), ONE, False, "3 fit"),
        (Pool(), [{"CPU": 1.0}], False, "take 1 of 1 CPUs"),
        (Pool(gpus=1), ONE, False, "1 CPU and 1 GPU each .* and 0 GPUs"),
        (Pool(1, memory_bytes=2**33), [{"CPU": 4.0, "memory": 2.0**32}], False, "8 GiB each .* with 4 GiB, .*: 0 fit"),
        (Pool(1, cpus=5), [{"CPU": 4.0}, {"CPU": 4.0}], False, "5 of 8 CPUs on 2 machine"),
    ],
)
def test_workers_that_leave_no_room_are_refused_with_the_numbers(
    asked: Pool, nodes: list[dict[str, float]], resuming: bool, numbers: str
) -> None:
    with pytest.raises(JobError, match=numbers):
        pool.sized(asked, nodes, resuming=resuming)


@pytest.mark.parametrize("package", ["ray", "pyarrow"])
def test_without_ray_the_error_names_the_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("job", "ledger", "on_ray"):  # which may be imported already
        monkeypatch.delitem(sys.modules, f"rdeic_rt.fleet.{name}", raising=False)
        monkeypatch.delattr(fleet, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)

    assert main(["batch", "encode", str(tmp_path), "-o", str(tmp_path / "out")]) == 6
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'rdeic-rt[fleet]'" in said
    with pytest.raises(rdeic_rt.BackendUnavailableError, match="fleet"):
        fleet.encode(None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["batch"], "required: COMMAND"),
        (["batch", "encode", "in"], "required: -o"),
        (["batch", "encode", "-o", "out"], "at least one input"),
        (["batch", "decode", "in", "-o", "out", "--workers", "3:2"], "lower one"),
        (["batch", "decode", "in", "-o", "out", "--workers", "0"], "number of workers"),
        (["batch", "decode", "in", "-o", "out", "--sharpnes", "1"], "did you mean --sharpness?"),
        (["batch", "encode", "in", "-o", "out", "--cpus-per-worker", "nan"], "between 0 and 1024"),
    ],
)
def test_a_wrong_command_line_is_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_help_has_a_text_for_every_option(direction: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", direction, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: rdeic-rt batch {direction} [options] IN... -o OUT")
    assert all(flag in text for flag in ("--workers", "--resume", "--report", "--on-error", "--format", "--address"))
