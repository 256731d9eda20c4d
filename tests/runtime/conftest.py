from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt import bundle_search, user_cache
from rdeic_rt.backends.gpu import cuda as cuda_calls

from . import micro
from .backends import fake_kernels, fake_tensorrt
from .backends.fake_cuda import FakeCuda
from .backends.fake_kernels import FakeKernels


@pytest.fixture
def micro_folder(tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return micro.write(tmp_path / "micro")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own bundles: not there yet, and the only one but the embedded bundles."""
    monkeypatch.delenv(bundle_search.SEARCH_VARIABLE, raising=False)
    monkeypatch.setattr(user_cache, "folder", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "bundles"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A GPU that is not there; after each test everything on it must have been freed."""
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    cuda_calls.api.cache_clear()
    gc.collect()
    gc.freeze()  # only what a test makes is looked through afterwards
    yield fake
    fake.failures.clear()
    gc.collect()
    leaks = fake.leaks()
    gc.unfreeze()
    cuda_calls.api.cache_clear()
    assert not leaks


@pytest.fixture(scope="session")
def kernel_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels of entropy networks, compiled for the CPU."""
    return fake_kernels.build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def kernels(
    cuda: FakeCuda, kernel_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeKernels:
    """A driver and a compiler for kernels on that GPU, and an empty cache folder."""
    fake = FakeKernels(cuda, kernel_library)
    fake.install(monkeypatch)
    monkeypatch.setattr(user_cache, "folder", lambda name: tmp_path / "cache" / name)
    return fake


@pytest.fixture
def tensorrt(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorRT for RTX on that GPU; TensorRT is not installed."""
    fake = fake_tensorrt.library(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return fake
