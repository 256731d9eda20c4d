"""The examples of docs/neighbours.md work, each where its library is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rdeic_rt import container
from rdeic_rt.codec import Codec
from tests.packaging.building import ROOT

PAGE = (ROOT / "docs" / "neighbours.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == {"imageio", "cv2", "torchvision", "datasets", "fsspec"}
    assert len(EXAMPLES) == PAGE.count("```python")


@pytest.mark.parametrize("library", EXAMPLES)
def test_example_works(library: str, codec: Codec, photo_paths: list[Path], tmp_path: Path) -> None:
    probe = subprocess.run([sys.executable, "-c", f"import {library}"], capture_output=True, text=True, timeout=120)
    if probe.returncode:
        pytest.skip(f"{library} cannot be imported: {probe.stderr.splitlines()[-1]}")
    with Image.open(photo_paths[0]) as photo:
        small = photo.convert("RGB").crop((0, 0, 160, 120))
    small.save(tmp_path / "photo.jpg")
    folder = tmp_path / "classes" / "one"
    folder.mkdir(parents=True)
    for path in (tmp_path / "photo.rdc", folder / "photo.rdc"):
        path.write_bytes(codec.encode(small))

    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[library]],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if "again.rdc" in EXAMPLES[library]:
        size = container.parse((tmp_path / "again.rdc").read_bytes()).header.size
        assert (size.width, size.height) == small.size
    if "decoded.png" in EXAMPLES[library]:
        with Image.open(tmp_path / "decoded.png") as made:
            assert made.size == small.size
