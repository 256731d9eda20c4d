"""Everything here needs a GPU, and is skipped with the reason where there is none: `python -m pytest -m gpu`."""

from __future__ import annotations

import os
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
from rdeic_rt.backends.gpu import cuda

from ..conftest import REPOSITORY

Load = Callable[..., Codec]
Files = dict[tuple[int, int], bytes]

# What two runs of the same work have in common where kernels for one shape round otherwise than general ones.
SAME_DB = 60.0
BUNDLE_VARIABLE = "RDEIC_RT_GPU_BUNDLE"
SIZES = ((300, 451), (128, 192))


@pytest.fixture(scope="session", autouse=True)
def device() -> cuda.Device:
    """The GPU."""
    try:
        return cuda.device_facts()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def codec(fp32_codec: Codec) -> Codec:
    """What GPUs are compared with."""
    return fp32_codec


@pytest.fixture(scope="session")
def planned_bundle(embedded_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded bundle with plans in every precision that the installed TensorRT builds for this GPU, and in fp16.

    The environment variable RDEIC_RT_GPU_BUNDLE names one that was made before.
    """
    if BUNDLE_VARIABLE in os.environ:
        return Path(os.environ[BUNDLE_VARIABLE])
    forms = tmp_path_factory.mktemp("forms") / "tiny-2"
    _build("--bundle", embedded_bundle, "--library", "onnx", "--precision", "fp16", "--output", forms)
    if (forms / "bundle.json").is_file():
        embedded_bundle = forms
    folder = shutil.copytree(embedded_bundle, tmp_path_factory.mktemp("gpu") / "tiny-2")
    for precision in ("fp32", "fp16"):
        _build("--bundle", folder, "--precision", precision)
    return Path(folder)


def _build(*words: object) -> None:
    """Build engines; what cannot be built is missed by the test that needs it, which says so."""
    command = [sys.executable, "export/build_engines.py", "--no-verify", *map(str, words)]
    subprocess.run(command, cwd=REPOSITORY, check=False)


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
