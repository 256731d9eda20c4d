"""Which bundles `decode` loads, and how often; tests/conformance/output_rules.py has what both commands do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rdeic_rt import codec as codecs
from rdeic_rt.codec import Codec
from rdeic_rt.errors import BackendError

from .conftest import Command


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The bundles that `rdeic_rt.load` has been given, in order."""
    given: list[Path] = []
    load: Callable[..., Codec] = codecs.load

    def recorded(bundle: Path, **options: Any) -> Codec:
        given.append(bundle)
        return load(bundle, **options)

    monkeypatch.setattr(codecs, "load", recorded)
    return given


@pytest.fixture
def golden_files(here: Path, golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of an installed bundle beside the default one, in the working folder."""
    bundles = here.parent / f"{here.name}-bundles"
    bundles.mkdir()
    (bundles / "micro").symlink_to(golden_bundle)
    monkeypatch.setenv("RDEIC_RT_BUNDLES", str(bundles))
    return [shutil.copy(golden_bundle.parent / f"coffee_r{rate}.rdc", f"golden{rate}.rdc") for rate in (0, 1)]


def test_decode_loads_each_bundle_once_when_it_is_needed(
    command: Command, here: Path, golden_files: list[str], golden_codec: Codec, loaded: list[Path], codec: Codec
) -> None:
    inputs = ["made.rdc", golden_files[0], "again.rdc", golden_files[1]]
    shutil.copy("made.rdc", "again.rdc")
    assert command("decode", *inputs, "--backend", "cpu") == 0

    assert loaded == [codec.bundle.folder, golden_codec.bundle.folder]
    for name, maker in zip(inputs, [codec, golden_codec] * 2, strict=True):
        with Image.open(Path(name).with_suffix(".png")) as image:
            assert np.array_equal(np.asarray(image), maker.decode(Path(name).read_bytes()))


def test_decode_does_not_load_the_default_bundle_for_files_of_another(
    command: Command, golden_files: list[str], golden_codec: Codec, loaded: list[Path]
) -> None:
    assert command("decode", *golden_files, "--preview") == 0
    assert loaded == [golden_codec.bundle.folder]


def test_decode_with_a_bundle_loads_that_one_alone(
    command: Command, golden_files: list[str], loaded: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("decode", "made.rdc", *golden_files, "--preview", "--bundle", "micro", "-o", "out") == 5
    assert [str(bundle) for bundle in loaded] == ["micro"]
    assert capsys.readouterr().err.count("made.rdc: the file needs model") == 1


def test_decode_loads_nothing_for_a_file_that_is_bad_or_of_no_bundle(
    command: Command, here: Path, golden_files: list[str], loaded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RDEIC_RT_BUNDLES")
    (here / "bad.rdc").write_bytes(b"GIF89a")
    assert command("decode", "bad.rdc", golden_files[0]) == 5
    assert loaded == []


def test_decode_tries_a_bundle_that_cannot_be_loaded_once_and_says_so_of_each_file(
    command: Command, golden_files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def fail(bundle: Path, **_: object) -> Codec:
        tried.append(bundle)
        raise BackendError("no such device")

    monkeypatch.setattr(codecs, "load", fail)
    assert command("decode", *golden_files) == 6
    assert len(tried) == 1
    said = capsys.readouterr().err.splitlines()[:-1]  # the last is the total
    assert said == [f"rdeic-rt: {name}: no such device" for name in golden_files]
