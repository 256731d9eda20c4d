"""Everything here needs a GPU, and is skipped with the reason where there is none: `python -m pytest -m gpu`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import BackendError, BackendUnavailableError, Codec
from rdeic_rt.backends import cuda

from ..conftest import REPOSITORY

Load = Callable[..., Codec]
Files = dict[tuple[int, int], bytes]

SIZES = ((300, 451), (128, 192))


@pytest.fixture(scope="session", autouse=True)
def device() -> cuda.Device:
    """The GPU."""
    try:
        return cuda.device_facts()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def planned_bundle(embedded_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded bundle with plans in every precision that the installed TensorRT builds for this GPU, if any."""
    folder = shutil.copytree(embedded_bundle, tmp_path_factory.mktemp("gpu") / "tiny")
    for precision in ("fp32", "fp16"):
        command = [
            sys.executable,
            "export/build_engines.py",
            "--bundle",
            str(folder),
            "--precision",
            precision,
            "--no-verify",
        ]
        subprocess.run(command, cwd=REPOSITORY, check=False)  # a backend without plans says why it is skipped
    return Path(folder)


@pytest.fixture(scope="session")
def load(planned_bundle: Path) -> Load:
    """Load a codec on a GPU backend, or skip with the reason that it cannot run."""

    @lru_cache(maxsize=8)
    def cached(backend: str, precision: str) -> Codec:
        return rdeic_rt.load(planned_bundle, backend=backend, precision=precision)

    def load(backend: str, precision: str = "auto", **options: Any) -> Codec:
        try:
            if options:
                return rdeic_rt.load(planned_bundle, backend=backend, precision=precision, **options)
            return cached(backend, precision)
        except BackendUnavailableError as error:
            pytest.skip(str(error))

    return load


@pytest.fixture(scope="session")
def files(codec: Codec, photo: NDArray[np.uint8]) -> Files:
    """The same photo in two sizes, encoded on the CPU."""
    return {(height, width): codec.encode(photo[:height, :width]) for height, width in SIZES}


@pytest.fixture(scope="session")
def images(codec: Codec, files: Files) -> dict[tuple[int, int], NDArray[np.uint8]]:
    """What the cpu backend decodes them to."""
    return {size: codec.decode(data) for size, data in files.items()}


def free_bytes() -> int:
    """Return the free memory of the GPU."""
    try:
        return cuda.device_facts().free_bytes()
    except BackendError as error:
        pytest.fail(str(error))
