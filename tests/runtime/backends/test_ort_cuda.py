"""The cuda backend with ONNX Runtime's CPU provider in place of its CUDA provider, on `fake_cuda`.

Binding by address, ownership and errors are the real ones; streams and speed are not.
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import rdeic_rt
from rdeic_rt.backends import ort_cuda
from rdeic_rt.backends.base import BackendAbsentError, Options
from rdeic_rt.backends.ort_cuda import OrtCudaBackend
from rdeic_rt.errors import BackendError, BackendUnavailableError, DeviceMemoryError
from rdeic_rt.limits import Size

from .fake_cuda import Error, FakeCuda
from .test_trt import SIZES, assert_alike, images

pytestmark = [
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Duplicate provider"),
]


@pytest.fixture
def shared(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    monkeypatch.setattr(ort_cuda, "_PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(ort_cuda, "_DEVICE_TYPE", "cpu")
    cuda.is_shared = True
    return cuda


@pytest.mark.parametrize("options", [{}, {"sharpness": 0.7}])
def test_decode_gives_the_image_of_the_cpu(shared: FakeCuda, micro_folder: Path, options: dict[str, float]) -> None:
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    assert codec.backend == "cuda"
    assert_alike(micro_folder, codec, SIZES * 2, **options)


def test_decode_many_times_takes_no_more_memory(shared: FakeCuda, micro_folder: Path) -> None:
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    used = []
    for _ in range(20):
        images(codec, SIZES[:2])
        used.append(shared.used_bytes)
    assert len(set(used[2:])) == 1
    assert shared.calls["cudaStreamBeginCapture"] == 0


def test_output_lives_as_long_as_what_refers_to_it(shared: FakeCuda, micro_folder: Path) -> None:
    backend = OrtCudaBackend.open(Options())
    graph = backend.load(rdeic_rt.load(micro_folder, backend="cpu").bundle.reference("vae_decoder"))
    z_0 = backend.put(np.full((2, 4, 1, 1), 7, np.float32))
    image = backend.crop(backend.split(graph.run({"z_0": z_0})["image"])[1], Size(5, 3))
    del backend, graph, z_0
    gc.collect()
    interface = image.__cuda_array_interface__
    assert interface["strides"] == (24, 3, 1)
    assert shared.view(interface["data"][0], 3).tolist() == [7, 7, 7]
    waits = shared.calls["cudaDeviceSynchronize"]
    del image
    assert shared.calls["cudaDeviceSynchronize"] == waits + 1  # a consumer was given it


def test_run_out_of_memory_says_what_is_free(
    shared: FakeCuda, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OrtCudaBackend.open(Options())
    graph = backend.load(rdeic_rt.load(micro_folder, backend="cpu").bundle.reference("vae_decoder"))

    def run(*_: object) -> None:
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setattr(graph._session, "run_with_iobinding", run)
    with pytest.raises(
        DeviceMemoryError, match=r"'vae_decoder' on z_0 \[1, 4, 1, 1\].* bytes are free\. Decode a smaller"
    ):
        graph.run({"z_0": backend.put(np.zeros((1, 4, 1, 1), np.float32))})


def test_run_failing_inside_raises_backend_error(shared: FakeCuda, micro_folder: Path) -> None:
    backend = OrtCudaBackend.open(Options())
    graph = backend.load(rdeic_rt.load(micro_folder, backend="cpu").bundle.reference("vae_decoder"))
    with pytest.raises(BackendError, match="vae_decoder"):
        graph.run({"z_0": backend.put(np.zeros((1, 2, 1, 1), np.float32))})


def test_open_without_the_provider_says_what_to_install(cuda: FakeCuda) -> None:
    with pytest.raises(
        BackendAbsentError, match=r"^cuda: onnxruntime \S+ has no CUDAExecutionProvider.*rdeic-rt\[cuda\]"
    ):
        OrtCudaBackend.open(Options())


def test_open_without_a_driver_says_so(shared: FakeCuda) -> None:
    shared.failures["cudaGetDeviceCount", 1] = Error.cudaErrorNoDevice
    with pytest.raises(BackendAbsentError, match="^cuda: no NVIDIA GPU"):
        OrtCudaBackend.open(Options())


def test_open_when_the_provider_falls_back_is_refused(shared: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime takes the CPU instead when a library of CUDA is missing, with a line in its log."""
    monkeypatch.setattr(ort_cuda, "_PROVIDER", "AzureExecutionProvider")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider"])
    session = ort.InferenceSession

    def falling_back(path: Path, options: ort.SessionOptions, providers: object) -> ort.InferenceSession:
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", falling_back)
    with pytest.raises(BackendUnavailableError, match="cannot load its AzureExecutionProvider and would use CPUExec"):
        OrtCudaBackend.open(Options())


def test_open_for_int8_is_refused(shared: FakeCuda) -> None:
    with pytest.raises(BackendUnavailableError, match="^cuda: .*no INT8 kernels"):
        OrtCudaBackend.open(Options(precision="int8"))
