"""Packed inputs of the fuzzers: archives depend on their inputs alone, and every target has inputs."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

import pytest
from tests.fuzz import corpus

TARGETS = re.findall(
    r"^rdeic_add_fuzzer\((\w+)\)$", (corpus.CORPUS.parent / "CMakeLists.txt").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("target", TARGETS)
def test_files_that_are_not_packed_have_names_that_say_what_they_are(target: str) -> None:
    names = [path.name for path in (corpus.CORPUS / target).iterdir()]

    assert names
    assert [name for name in names if re.fullmatch("[0-9a-f]{40}", name)] == []


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "onnx_walk"])
def test_archive_is_what_packing_its_contents_makes(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = lzma.decompress((corpus.CORPUS / f"{target}.tar.xz").read_bytes())
    corpus.unpack(target, tmp_path / "inputs")
    (tmp_path / target).mkdir()
    monkeypatch.setattr(corpus, "CORPUS", tmp_path)

    packed = corpus.pack(target, tmp_path / "inputs")

    assert packed > 40
    assert lzma.decompress((tmp_path / f"{target}.tar.xz").read_bytes()) == archive


def test_input_that_is_kept_by_name_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CORPUS", tmp_path / "corpus")
    (tmp_path / "corpus" / "a").mkdir(parents=True)
    (tmp_path / "corpus" / "a" / "endless_loop").write_bytes(b"loop")
    (tmp_path / "inputs").mkdir()
    for name, data in (("1", b"loop"), ("2", b"other")):
        (tmp_path / "inputs" / name).write_bytes(data)

    assert corpus.pack("a", tmp_path / "inputs") == 1
    corpus.unpack("a", tmp_path / "unpacked")

    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == ["2"]
