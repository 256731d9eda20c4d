"""A small real image, its .rdc file, and the command run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rdeic_rt.cli.main import main
from rdeic_rt.codec import Codec

Command = Callable[..., int]


@pytest.fixture(scope="session")
def small_photo(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 96x80 cut from a real photo, as JPEG."""
    path = tmp_path_factory.mktemp("small") / "small.jpg"
    with Image.open(photo_paths[0]) as image:
        image.convert("RGB").crop((16, 16, 112, 96)).save(path, quality=92)
    return path


@pytest.fixture(scope="session")
def small_rdc(small_photo: Path, codec: Codec) -> bytes:
    with Image.open(small_photo) as image:
        return codec.encode(image)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_photo: Path, small_rdc: bytes) -> Path:
    """The working folder of the command, with photo.jpg and made.rdc in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(small_photo.read_bytes())
    (tmp_path / "made.rdc").write_bytes(small_rdc)
    return tmp_path


@pytest.fixture
def command(here: Path) -> Command:
    """Run `rdeic-rt` with these words and return its exit code."""

    def run(*words: str | Path) -> int:
        return main([str(word) for word in words])

    return run
