"""`bundle list|verify|pull|push|rm`: what they print, and their exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rdeic_rt import bundle_store, container
from tests.runtime import micro

from .conftest import Command

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return micro.write(tmp_path / "built" / "micro")


def test_list_shows_hash_size_and_rates_of_what_is_found(
    command: Command, embedded_bundle: Path, other: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(other, cache / "mine")
    assert command("bundle", "list", "--json") == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["mine", "diffo-tiny", "tiny-2"]
    mine, tiny = rows[0], rows[-1]
    assert (mine["bundle"], mine["folder"], mine["embedded"]) == ("micro", str(cache / "mine"), False)
    assert tiny["sha256"] == bundle_store.digest(embedded_bundle)
    assert tiny["embedded"]
    listed = json.loads((embedded_bundle / "bundle.json").read_bytes())
    assert tiny["bytes"] == sum(entry["bytes"] for entry in listed["files"].values())
    assert [rate["bpp"] for rate in tiny["rates"]] == [rate["bpp"] for rate in listed["rates"]]

    assert command("bundle", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith(f"tiny-2  {tiny['sha256'][:16]}  25.0 MB  rates largest (")
    assert lines[-1].endswith(f"{embedded_bundle} (embedded)")


def test_list_goes_on_after_one_that_cannot_be_used(
    command: Command, other: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(other, cache / "broken")
    (cache / "broken" / "bundle.json").write_text("{")
    assert command("bundle", "list") == 5

    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.startswith(f"rdeic-rt: broken: {cache / 'broken' / 'bundle.json'}: not valid JSON")


def test_verify_finds_a_changed_byte(
    command: Command, other: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(other, cache / "micro")
    assert command("bundle", "verify", "micro", other) == 0
    assert capsys.readouterr().err.count("as they should be") == 2

    changed = next(path for path in (cache / "micro").iterdir() if path.suffix == ".onnx")
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    assert command("bundle", "verify") == 5
    err = capsys.readouterr().err
    assert f"{changed}: SHA-256 is" in err
    assert err.count("as they should be") == 2  # the embedded ones
    assert command("bundle", "verify", "nowhere") == 5


def test_pull_push_and_rm_make_the_round(
    command: Command, other: Path, cache: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("bundle", "push", other, "micro.tar.gz") == 0
    assert command("bundle", "push", other, "micro.tar.gz") == 3
    assert command("bundle", "push", other, "micro.tar.gz", "--overwrite") == 0
    capsys.readouterr()
    assert command("bundle", "pull", "micro.tar.gz") == 0
    out, err = capsys.readouterr()
    assert err == f"micro.tar.gz -> {cache / 'micro'}\n"
    assert out.startswith(f"micro  {bundle_store.digest(other)[:16]}  ")
    assert command("bundle", "pull", "micro.tar.gz") == 0
    assert "is there already" in capsys.readouterr().err
    assert command("bundle", "pull", "micro.tar.gz", "--as", "two", "--sha256", bundle_store.digest(other)) == 0
    assert command("bundle", "pull", "micro.tar.gz", "--to", here / "to") == 0
    assert (here / "to" / "micro" / "bundle.json").is_file()

    assert command("bundle", "rm", "micro", "tiny-2", "two") == 5
    assert not list(cache.iterdir())
    assert "embedded" in capsys.readouterr().err


def test_decoding_half_is_listed_described_and_decoded_with_and_encodes_nothing(
    command: Command, golden_bundle: Path, here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(golden_bundle.parent / "coffee_r0.rdc", here / "old.rdc")
    assert command("bundle", "push", golden_bundle, "old.zip", "--decode-only") == 0
    assert command("bundle", "pull", "old.zip", "--as", "old") == 0
    assert ", decodes only  rates " in capsys.readouterr().out

    assert command("bundle", "verify", "old") == 0
    assert command("bundle", "list", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"]: row["encodes"] for row in rows} == {"old": False, "tiny-2": True, "diffo-tiny": True}
    assert command("info", cache / "old") == 0
    assert "\nencodes: no\n" in capsys.readouterr().out
    assert command("decode", "old.rdc", "-o", "old.png", "--threads", "1") == 0
    assert command("decode", "old.rdc", "-o", "look.png", "--preview", "--threads", "1") == 0

    capsys.readouterr()
    for words in (["encode", "old.png", "photo.jpg"], ["bench"]):
        assert command(*words, "--bundle", "old") == 5, words
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert f"bundle 'micro' in {cache / 'old'} only decodes. Use another one to encode: tiny-2, diffo-tiny" in err
    assert {path.suffix for path in here.iterdir() if path.stem == "old"} == {".png", ".rdc", ".zip"}


def test_pull_reports_each_fault_in_one_line_with_its_code(
    command: Command, other: Path, here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "text.tar").write_text("no archive")
    (here / "spoiled").mkdir()
    shutil.copytree(other, here / "spoiled", dirs_exist_ok=True)
    (here / "spoiled" / "bundle.json").write_text("{}")
    (cache / "micro").mkdir(parents=True)
    for words, code in (
        (["none"], 5),
        (["text.tar"], 5),
        (["spoiled"], 5),
        ([other], 3),  # there is something else in its place
        ([other, "--sha256", "0" * 64], 5),
        ([other, "--max-bytes", "10"], 5),
        (["http://127.0.0.1:9/x.tar"], 5),
        (["https://127.0.0.1:9/x.tar"], 3),
    ):
        assert command("bundle", "pull", *words) == code, words
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert err.startswith("rdeic-rt: ")


@pytest.mark.parametrize(
    "words",
    [
        ["bundle"],
        ["bundle", "pul"],
        ["bundle", "pull"],
        ["bundle", "pull", "a", "b"],
        ["bundle", "pull", "a", "--as", "../x"],
        ["bundle", "pull", "a", "--sha256", "12"],
        ["bundle", "push", "tiny-2", "https://example.org/x"],
        ["bundle", "list", "x"],
        ["bundle", "rm"],
    ],
)
def test_wrong_command_line_ends_in_2(command: Command, words: list[str]) -> None:
    assert command(*words) == 2


def test_missing_extra_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)

    assert command("bundle", "pull", "s3://bucket/micro") == 2
    assert "pip install 'rdeic-rt[remote]'" in capsys.readouterr().err


def test_file_of_a_bundle_that_is_not_there_names_its_model_and_the_command(
    command: Command, here: Path, small_rdc: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    header = container.parse(small_rdc).header
    foreign = container.pack(
        container.Header(header.size, b"\x01\x02\x03\x04", header.rate, header.z_is_plain), b"", b""
    )
    (here / "foreign.rdc").write_bytes(foreign)

    for words in (["foreign.rdc"], ["foreign.rdc", "--bundle", "tiny-2"]):
        assert command("decode", *words, "-o", "x.png") == 5
        err = capsys.readouterr().err
        assert "needs model 01020304" in err
        assert "rdeic-rt bundle pull SOURCE" in err
    assert command("decode", "made.rdc", "--bundle", "other-1", "-o", "x.png") == 5
    err = capsys.readouterr().err
    assert "no bundle 'other-1'" in err
    assert "rdeic-rt bundle pull SOURCE" in err


def test_list_loads_no_runtime_and_no_remote_library() -> None:
    script = """
import sys
from rdeic_rt.cli.main import main
assert main(["bundle", "list"]) == 0
heavy = {"onnxruntime", "constriction", "fsspec", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
