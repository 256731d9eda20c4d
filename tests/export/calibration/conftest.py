from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.micro.make_micro import PHOTOS


@pytest.fixture(scope="session")
def crop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 128x64 pixels, alone in its folder."""
    path = tmp_path_factory.mktemp("photos") / "crop.png"
    Image.open(PHOTOS / "chelsea.jpg").crop((60, 60, 188, 124)).save(path)
    return path
