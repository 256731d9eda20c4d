"""One small evaluation, on real photos, that the tests of its results share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rdeic_eval import Evaluation, evaluate
from rdeic_eval.metrics import Judge
from rdeic_rt import Codec

LARGE = (168, 176)  # height and width, enough for every metric
SMALL = (40, 48)  # too small for MS-SSIM


@pytest.fixture(scope="session")
def crops(photo: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two cuts from a real photo, and between them a file that is no picture."""
    folder = tmp_path_factory.mktemp("crops")
    for name, (height, width) in (("a.png", LARGE), ("c.png", SMALL)):
        Image.fromarray(photo[60 : 60 + height, 100 : 100 + width]).save(folder / name)
    (folder / "b.png").write_bytes(b"no picture")
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def evaluation(codec: Codec, crops: list[Path]) -> Evaluation:
    return evaluate(codec, crops, codecs=("jpeg", "webp"), keep_pictures=1)


@pytest.fixture(scope="session")
def judge() -> Judge:
    return Judge()
