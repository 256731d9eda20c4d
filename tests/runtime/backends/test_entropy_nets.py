"""The integer networks on `fake_cuda`, by the C++ build of their kernels: the CPU's integers, or the CPU itself."""

from __future__ import annotations

import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import Codec
from rdeic_rt.backends.base import Options
from rdeic_rt.backends.cpu.host import HostArrays
from rdeic_rt.backends.gpu import entropy_layers, entropy_nets
from rdeic_rt.backends.gpu.entropy_nets import GpuEvaluator
from rdeic_rt.backends.gpu.workspace import Workspace
from rdeic_rt.entropy.evaluator import HostEvaluator
from rdeic_rt.entropy.hyperprior import Hyperprior
from rdeic_rt.errors import DeviceMemoryError
from tests.conftest import REPOSITORY

from ..entropy import random_model
from . import fake_ort_cuda, fake_tensorrt
from .fake_cuda import Error, FakeCuda
from .fake_kernels import FakeKernels

GOLDEN = REPOSITORY / "tests" / "golden"
SIZES = [(1, 1), (3, 2), (2, 5)]

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


class OnGpu:
    """A random model on the GPU, a file of it that the CPU has made, and what that is decoded to."""

    def __init__(self, model: Hyperprior | None = None, size: tuple[int, int] = (3, 2), **options: Any) -> None:
        model = random_model.model() if model is None else model
        self.size = size
        self.y, self.indices = random_model.latents(1, *size)
        self.coded = random_model.encode(model, self.y, self.indices)
        self.workspace = Workspace.open(Options(**options))
        host = HostEvaluator(model.hyper, model.slices, model.tables, model.matmul)
        self.evaluator = GpuEvaluator(host, self.workspace)
        self.model = model.evaluated_by(lambda _: self.evaluator)

    def decodes_as_on_the_cpu(self) -> bool:
        """Return whether decoding gives every integer that the CPU had."""
        coded = self.coded
        found = random_model.y_hat_of(self.model, coded.z, coded.z_is_plain, coded.y, self.size)
        return found.tobytes() == coded.tensors["y_hat"].tobytes()


def use_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let codecs on the CPU evaluate on the GPU."""
    evaluator = lambda self, host: GpuEvaluator(host, Workspace.open(Options()))  # noqa: E731
    monkeypatch.setattr(HostArrays, "evaluator", evaluator)


def assert_golden(codec: Codec, path: Path) -> None:
    expected = np.load(path.with_suffix(".npz"))["y_hat"]
    found = codec.read_latents(path.read_bytes()).tensors["y_hat"]
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("widths", "skip_below"), [((4, 4, 8), 4), ((3, 5, 6), 0)])
def test_random_model_decodes_to_the_integers_of_the_cpu(
    kernels: FakeKernels,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    widths: tuple[int, ...],
    skip_below: int,
) -> None:
    monkeypatch.setattr(random_model, "SLICES", widths)
    there = OnGpu(random_model.model(2, skip_below=skip_below), size)
    assert (there.evaluator.place, there.evaluator.why_host) == ("gpu", None)
    launches = kernels.launches["run_layer"]
    assert there.decodes_as_on_the_cpu()
    assert kernels.launches["run_layer"] > launches
    assert random_model.encode(there.model, there.y, there.indices).y == there.coded.y
    assert there.evaluator.why_host is None


@pytest.mark.parametrize("version", ["v1", "v1-levels"])
def test_golden_files_decode_to_their_integers(
    kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    use_gpu(monkeypatch)
    codec = rdeic_rt.load(GOLDEN / version / "bundle", backend="cpu")
    files = sorted((GOLDEN / version).glob("*.rdc"))
    assert len(files) >= 8
    for path in files:
        launches = kernels.launches["run_layer"]
        assert_golden(codec, path)
        assert kernels.launches["run_layer"] > launches


@pytest.mark.parametrize("rate", [0, 1.5])
def test_embedded_bundle_codes_as_on_the_cpu(
    kernels: FakeKernels,
    monkeypatch: pytest.MonkeyPatch,
    embedded_bundle: Path,
    codec: Codec,
    photo: NDArray[np.uint8],
    rate: float,
) -> None:
    data = codec.encode(photo[:100, :130], rate)
    use_gpu(monkeypatch)
    there = rdeic_rt.load(embedded_bundle, backend="cpu")
    y_hat = there.read_latents(data).tensors["y_hat"]
    assert y_hat.tobytes() == codec.read_latents(data).tensors["y_hat"].tobytes()
    assert there.encode(photo[:100, :130], rate) == data
    assert kernels.launches["store"] > 0


def test_whole_decodes_on_tensorrt_run_them(
    tensorrt: Any, kernels: FakeKernels, golden_bundle: Path, tmp_path: Path, golden_codec: Codec
) -> None:
    folder = shutil.copytree(golden_bundle, tmp_path / "copy")
    fake_tensorrt.write_plans(folder)
    codec = rdeic_rt.load(folder, backend="tensorrt")
    for path in sorted((GOLDEN / "v1").glob("c*.rdc")):
        assert_golden(codec, path)
        image = codec.decode(path.read_bytes())
        assert np.abs(image.astype(int) - golden_codec.decode(path.read_bytes())).max() <= 1
    assert codec.description()["entropy networks"] == "gpu"
    codec.trim()
    assert_golden(codec, path)


def test_whole_decodes_on_cuda_run_them(
    cuda: FakeCuda, kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch, golden_bundle: Path, golden_codec: Codec
) -> None:
    fake_ort_cuda.install(cuda, monkeypatch)
    codec = rdeic_rt.load(golden_bundle, backend="cuda", precision="fp32")
    assert "entropy networks" not in codec.description()
    data = (GOLDEN / "v1" / "coffee_r0.rdc").read_bytes()
    for _ in range(3):
        assert np.abs(codec.decode(data).astype(int) - golden_codec.decode(data)).max() <= 1
    assert codec.description()["entropy networks"] == "gpu"
    assert kernels.launches["store"] > 0


def test_threads_share_an_evaluator(kernels: FakeKernels) -> None:
    there = OnGpu()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: there.decodes_as_on_the_cpu(), range(12)))
    assert there.evaluator.why_host is None


def test_decoding_again_takes_no_more_memory_and_waits_once_a_pass(cuda: FakeCuda, kernels: FakeKernels) -> None:
    there = OnGpu()
    used, waits, copies = [], set(), set()
    for _ in range(4):
        before, copied = cuda.waits, cuda.calls["cudaMemcpyAsync"]
        assert there.decodes_as_on_the_cpu()
        waits.add(cuda.waits - before)
        copies.add(cuda.calls["cudaMemcpyAsync"] - copied)
        used.append(cuda.used_bytes)
    assert len(set(used[1:])) == 1
    n_passes = 2 * len(random_model.SLICES)
    assert waits == {n_passes}
    assert copies == {1 + 2 * n_passes}  # indices, and of each pass what is predicted and what is decoded
    assert there.workspace.memory.in_use == used[-1]  # which a bound on the codec's memory covers


def test_kernels_are_compiled_once_for_a_user(kernels: FakeKernels, tmp_path: Path) -> None:
    OnGpu()
    OnGpu()
    assert kernels.compiled == ["sm_89"]
    (kept,) = (tmp_path / "cache" / "kernels").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    assert OnGpu().evaluator.why_host is None
    assert kernels.compiled == ["sm_89"] * 2


@pytest.mark.parametrize(("capability", "target"), [((7, 5), "sm_75"), ((12, 0), "compute_90")])
def test_kernels_are_compiled_for_the_gpu_or_the_latest_before_it(
    cuda: FakeCuda, kernels: FakeKernels, capability: tuple[int, int], target: str
) -> None:
    cuda.capability = capability
    assert OnGpu().evaluator.why_host is None
    assert kernels.compiled == [target]


def test_one_wrong_integer_leaves_them_to_the_cpu(kernels: FakeKernels, caplog: pytest.LogCaptureFixture) -> None:
    kernels.wrong = True
    with caplog.at_level(logging.WARNING):
        there = OnGpu()
    assert there.evaluator.place == "cpu (slice 0 is not what the CPU makes of the same input)"
    assert [record.getMessage() for record in caplog.records] == [
        "entropy networks on the cpu: slice 0 is not what the CPU makes of the same input"
    ]
    launches = kernels.launches["run_layer"]
    assert there.decodes_as_on_the_cpu()
    assert kernels.launches["run_layer"] == launches


def test_without_nvrtc_they_stay_on_the_cpu_without_a_warning(
    kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with caplog.at_level(logging.WARNING):
        there = OnGpu()
    assert "pip install nvidia-cuda-nvrtc" in there.evaluator.place
    assert not caplog.records
    assert there.decodes_as_on_the_cpu()


def test_a_source_that_does_not_compile_says_why(kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy_layers, "source", lambda: b"nothing")
    there = OnGpu()
    assert there.evaluator.why_host == "nvrtcCompileProgram: NVRTC_ERROR_COMPILATION (6): line 1: no"
    assert there.decodes_as_on_the_cpu()


def test_a_gpu_too_old_leaves_them_to_the_cpu(cuda: FakeCuda, kernels: FakeKernels) -> None:
    cuda.capability = (7, 0)
    assert OnGpu().evaluator.why_host == "NVRTC compiles for sm_75 and later, not for sm_70"


def test_a_model_that_the_kernels_do_not_know_is_left_to_the_cpu(kernels: FakeKernels) -> None:
    arrays = random_model.arrays()
    weight = arrays["anchor.0.1.weight"]
    for name in ("weight", "weight_low"):
        arrays[f"anchor.0.1.{name}"] = np.zeros((3, 3, *weight.shape[2:]), np.int8)
    arrays["anchor.0.1.zero"] = np.zeros(weight.shape[2], np.uint16)
    evaluator = OnGpu(Hyperprior.load(arrays, 1)).evaluator
    assert evaluator.why_host == "the GPU evaluates networks whose layers of scales and means are 1x1"


@pytest.mark.parametrize("value", ["cpu", ""])
def test_the_environment_keeps_them_on_the_cpu(
    kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(entropy_nets.PLACE_VARIABLE, value)
    there = OnGpu()
    assert there.evaluator.place == ("cpu (RDEIC_RT_ENTROPY_NETWORKS is cpu)" if value else "gpu")
    assert there.decodes_as_on_the_cpu()


def test_a_launch_that_fails_anywhere_in_an_image_leaves_the_rest_to_the_cpu(kernels: FakeKernels) -> None:
    there = OnGpu()
    before = kernels.calls["cuLaunchKernel"]
    assert there.decodes_as_on_the_cpu()
    n_launches = kernels.calls["cuLaunchKernel"] - before
    for number in range(1, n_launches + 1, 5):
        there = OnGpu()
        kernels.failing["cuLaunchKernel"] = kernels.calls["cuLaunchKernel"] + number
        assert there.decodes_as_on_the_cpu()
        assert there.evaluator.why_host == "cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED (719)"


@pytest.mark.parametrize("call", ["cudaEventSynchronize", "cudaMemcpyAsync", "cudaMallocFromPoolAsync"])
def test_a_call_that_fails_in_an_image_leaves_the_rest_to_the_cpu(
    cuda: FakeCuda, kernels: FakeKernels, call: str
) -> None:
    for number in (1, 4):
        there = OnGpu()
        cuda.failures[call, cuda.calls[call] + number] = Error.cudaErrorInvalidValue
        assert there.decodes_as_on_the_cpu()
        assert there.evaluator.why_host is not None
        assert there.evaluator.why_host.startswith(call)


def test_an_image_too_large_for_the_memory_is_left_to_the_cpu_alone(cuda: FakeCuda, kernels: FakeKernels) -> None:
    there = OnGpu()
    cuda.failures["cudaMallocFromPoolAsync", cuda.calls["cudaMallocFromPoolAsync"] + 9] = (
        Error.cudaErrorMemoryAllocation
    )
    assert there.decodes_as_on_the_cpu()
    launches = kernels.launches["run_layer"]
    assert there.decodes_as_on_the_cpu()
    assert kernels.launches["run_layer"] > launches
    assert there.evaluator.why_host is None


def test_the_codecs_bound_on_memory_covers_them(cuda: FakeCuda, kernels: FakeKernels) -> None:
    bound = 2**19
    there = OnGpu(max_vram=bound)
    assert there.evaluator.why_host is None
    with there.workspace.entered():
        kept = there.workspace.memory.take(bound - there.workspace.memory.in_use)
        with pytest.raises(DeviceMemoryError):
            there.workspace.memory.take(1)
    assert there.decodes_as_on_the_cpu()
    assert there.evaluator.why_host is None
    del kept
    assert there.workspace.memory.peak == bound
