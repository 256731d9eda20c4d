"""Archives that nobody should unpack are refused, and good ones give the files that are asked for."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rdeic_rt import bundle_archive, limits
from rdeic_rt.bundle_archive import Archive
from rdeic_rt.errors import BundleCorruptError

LIMIT_BYTES = 1 << 20
CONTENT = {"bundle.json": b"{}", "a.onnx": b"graph" * 1000, "in/b.npz": bytes(range(256))}


def tar(entries: Mapping[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for info in extra:
            packed.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return stream.getvalue()


def zipped(entries: Mapping[str, bytes], *extra: zipfile.ZipInfo) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
        for info in extra:
            packed.writestr(info, b"x")
    return stream.getvalue()


def contents(path: Path, names: list[str] | None = None) -> dict[str, bytes]:
    with Archive(path, LIMIT_BYTES) as archive:
        return {name: stream.read(1 << 20) for name, stream in archive.files(names or [*CONTENT])}


def special(name: str, kind: bytes, linked: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linked
    return info


def zip_special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize("make", [tar, zipped, lambda entries: gzip.compress(tar(entries))])
@pytest.mark.parametrize("folder", ["", "./", "micro/"])
def test_files_that_are_asked_for_come_with_their_content(
    make: Callable[[Mapping[str, bytes]], bytes], folder: str, tmp_path: Path
) -> None:
    path = tmp_path / "packed"
    path.write_bytes(make({f"{folder}{name}": content for name, content in CONTENT.items()}))

    assert contents(path) == CONTENT
    assert contents(path, ["in/b.npz", "none"]) == {"in/b.npz": CONTENT["in/b.npz"]}


@pytest.mark.parametrize("suffix", bundle_archive.SUFFIXES)
def test_what_is_written_is_read_and_the_same_each_time(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "micro"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for path, time in ((tmp_path / f"one{suffix}", 0), (tmp_path / f"two{suffix}", 10**9)):
        os.utime(folder / "a.onnx", (time, time))
        with path.open("wb") as stream:
            bundle_archive.write(stream, path.name, folder.name, {name: folder / name for name in CONTENT})

    assert contents(tmp_path / f"one{suffix}") == CONTENT
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


HOSTILE = {
    "absolute": tar({**CONTENT, "/etc/passwd": b"x"}),
    "above": tar({**CONTENT, "in/../../x": b"x"}),
    "backslash": tar({**CONTENT, "in\\x": b"x"}),
    "drive": tar({**CONTENT, "C:x": b"x"}),
    "link": tar(CONTENT, special("x", tarfile.SYMTYPE, "/etc/passwd")),
    "linked bundle.json": tar({"a.onnx": b""}, special("bundle.json", tarfile.SYMTYPE, "a.onnx")),
    "hard link": tar(CONTENT, special("x", tarfile.LNKTYPE, "a.onnx")),
    "device": tar(CONTENT, special("x", tarfile.CHRTYPE)),
    "pipe": tar(CONTENT, special("x", tarfile.FIFOTYPE)),
    "twice": tar({**CONTENT, "./a.onnx": b"x"}),
    "two bundles": tar({**CONTENT, "other/bundle.json": b"{}"}),
    "no bundle": tar({"a.onnx": b"x"}),
    "too deep": tar({"a/b/bundle.json": b"x"}),
    "empty": b"",
    "text": b"this is a text" * 100,
    "cut gzip": gzip.compress(tar(CONTENT))[:100],
    "zip: absolute": zipped({**CONTENT, "/etc/passwd": b"x"}),
    "zip: above": zipped({**CONTENT, "../x": b"x"}),
    "zip: link": zipped(CONTENT, zip_special("x", stat.S_IFLNK | 0o777)),
    "zip: device": zipped(CONTENT, zip_special("x", stat.S_IFCHR | 0o666)),
    "zip: no bundle": zipped({"a.onnx": b"x"}),
    "zip: cut": zipped(CONTENT)[:-30],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_as_a_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / "packed"
    path.write_bytes(HOSTILE[name])

    with pytest.raises(BundleCorruptError, match=str(path)):
        contents(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(zipped(CONTENT, zipfile.ZipInfo("a.onnx")))

    with pytest.raises(BundleCorruptError, match="twice"):
        contents(tmp_path / "packed")


def test_zip_that_is_encrypted_or_packed_otherwise_is_refused(tmp_path: Path) -> None:
    good = zipped({"bundle.json": b"{}"})
    central = good.index(b"PK\1\2")
    for offset, value, said in ((8, 1, "encrypted"), (10, 14, "packed in a way")):
        bad = bytearray(good)
        bad[central + offset] = value
        (tmp_path / "packed").write_bytes(bad)
        with pytest.raises(BundleCorruptError, match=said):
            contents(tmp_path / "packed")


def test_name_of_a_gigabyte_is_refused_in_little_memory(tmp_path: Path) -> None:
    huge = special("x", tarfile.GNUTYPE_LONGNAME)
    huge.size = 1 << 30
    (tmp_path / "packed").write_bytes(gzip.compress(huge.tobuf() + bytes(1 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(BundleCorruptError, match="too long"), Archive(tmp_path / "packed", 1 << 40):
            pass
        assert tracemalloc.get_traced_memory()[1] < 2 * limits.MAX_ARCHIVE_READ_BYTES
    finally:
        tracemalloc.stop()


def test_headers_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ARCHIVE_ENTRIES", 500)
    monkeypatch.setattr(limits, "MAX_ARCHIVE_HEADER_BYTES", 1 << 20)
    many = tar({f"{n}": b"" for n in range(501)})
    long = tar({"x" * (1 << 19): b"", "y" * (1 << 19): b"", "z": b""})
    deep = special("x", tarfile.GNUTYPE_LONGNAME).tobuf() * 1500
    for data in (many, long, deep, zipped({f"{n}": b"" for n in range(501)})):
        (tmp_path / "packed").write_bytes(data)
        with pytest.raises(BundleCorruptError), Archive(tmp_path / "packed", 1 << 40):
            pass


def test_sizes_below_zero_are_refused(tmp_path: Path) -> None:
    """The reader of Python 3.11 goes back by them, and round and round."""
    header = bytearray(special("x", tarfile.REGTYPE).tobuf())
    header[124:136] = b"\xff" * 11 + b"\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "packed").write_bytes(tar({"bundle.json": b"{}"})[:1024] + bytes(header) + bytes(1024))

    with pytest.raises(BundleCorruptError):
        contents(tmp_path / "packed")


def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    big = special("big", tarfile.REGTYPE)
    big.size = 2 * LIMIT_BYTES
    (tmp_path / "packed").write_bytes(gzip.compress(tar(CONTENT, big)))

    with pytest.raises(BundleCorruptError, match=f"{LIMIT_BYTES} bytes"):
        contents(tmp_path / "packed")


@pytest.mark.parametrize("make", [tar, zipped, lambda entries: gzip.compress(tar(entries), mtime=0)])
def test_damaged_archives_raise_one_error(make: Callable[[Mapping[str, bytes]], bytes], tmp_path: Path) -> None:
    good, path = make(CONTENT), tmp_path / "packed"
    chance = random.Random(5)
    refused = 0
    for _ in range(200):
        bad = bytearray(good[: chance.randrange(len(good))] if chance.random() < 0.3 else good)
        for _ in range(chance.randrange(1, 4)):
            if bad:
                bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        try:
            contents(path)
        except BundleCorruptError:
            refused += 1
    assert refused > 20
