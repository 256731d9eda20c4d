"""Images, and one cluster for all tests that need Ray: they are skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rdeic_rt


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """Ray, with a cluster of 4 CPUs by name: more than the machine may have, so that nothing waits for ever."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'rdeic-rt[fleet]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(address="local", num_cpus=4, object_store_memory=2**28, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def folder(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of 64 to 75 x 64 pixels, four of them in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    image, _ = rdeic_rt.read_image(photo_paths[0])
    for n in range(12):
        name = f"sub/{n:02d}.png" if n >= 8 else f"{n:02d}.png"
        rdeic_rt.write_image(folder / name, image[8 * n : 8 * n + 64, 8 * n : 9 * n + 64])
    return folder
