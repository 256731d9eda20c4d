"""Calls, memory, staging and the ways out, on `fake_cuda`; and the signatures of the real functions."""

from __future__ import annotations

import ctypes
import gc
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rdeic_rt.backends.base import BackendAbsentError, Options
from rdeic_rt.backends.gpu import buffers
from rdeic_rt.backends.gpu import cuda as calls
from rdeic_rt.backends.gpu.buffers import DeviceBuffer
from rdeic_rt.backends.gpu.cuda import Stream
from rdeic_rt.backends.gpu.workspace import Workspace
from rdeic_rt.errors import BackendError, DeviceMemoryError
from rdeic_rt.limits import Size

from .fake_cuda import Error, FakeCuda

# What goes wrong while something is freed is raised nowhere else.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


def put(workspace: Workspace, array: np.ndarray[Any, Any]) -> DeviceBuffer:
    with workspace.entered():
        return workspace.upload({"": array})[""]


def pixels(height: int = 4, width: int = 6) -> np.ndarray[Any, Any]:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(1, height, width, 3)


def test_call_that_fails_names_function_and_code(cuda: FakeCuda) -> None:
    cuda.failures["cudaStreamSynchronize", 1] = Error.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match=r"cudaStreamSynchronize: cudaErrorIllegalAddress \(700\): text of"):
        Stream(0).synchronize()


def test_device_facts_without_a_device_is_absent(cuda: FakeCuda) -> None:
    cuda.failures["cudaGetDeviceCount", 1] = Error.cudaErrorNoDevice
    with pytest.raises(BackendAbsentError, match=r"no NVIDIA GPU.*cudaErrorNoDevice \(100\).*nvidia-smi"):
        calls.device_facts()
    facts = calls.device_facts()
    assert (facts.name, facts.capability, facts.driver, facts.runtime) == ("Fake GPU", 89, "13.0", "12.8")


def test_upload_many_before_waiting_keeps_each(cuda: FakeCuda) -> None:
    """Page-locked memory that is still being read must not be written to."""
    workspace = Workspace.open(Options())
    arrays = [np.full((3, 5), n, np.float32) for n in range(20)]
    there = [put(workspace, array) for array in arrays]
    for array, buffer in zip(arrays, there, strict=True):
        np.testing.assert_array_equal(workspace.download(buffer), array)
    assert cuda.calls["cudaHostAlloc"] < 25


def test_upload_strided_and_empty_arrays(cuda: FakeCuda) -> None:
    workspace = Workspace.open(Options())
    array = np.arange(24, dtype=np.int64).reshape(4, 6)[::2, ::-3]
    assert workspace.download(put(workspace, array)).tolist() == array.tolist()
    assert workspace.download(put(workspace, np.zeros((0, 3), np.float32))).shape == (0, 3)


def test_memory_is_freed_in_stream_order_when_the_last_view_goes(cuda: FakeCuda) -> None:
    workspace = Workspace.open(Options())
    whole = put(workspace, np.arange(6, dtype=np.float32).reshape(2, 3))
    second = whole.items()[1]
    del whole
    assert workspace.download(second).tolist() == [[3, 4, 5]]
    assert cuda.used_bytes > 0
    del second
    assert cuda.used_bytes == 0
    assert workspace.memory.in_use == 0


def test_memory_over_the_limit_says_what_is_wanted_and_allowed(cuda: FakeCuda) -> None:
    workspace = Workspace.open(Options(max_vram=4096))
    kept = put(workspace, np.zeros(3000, np.uint8))
    with pytest.raises(DeviceMemoryError, match=r"^2048 bytes.*3072 in use.*max_vram allows 4096.*smaller image"):
        put(workspace, np.zeros(2000, np.uint8))
    del kept
    put(workspace, np.zeros(4000, np.uint8))


def test_memory_that_the_device_does_not_have_says_how_much_is_free(cuda: FakeCuda) -> None:
    cuda.total_bytes = 10_000
    workspace = Workspace.open(Options())
    with pytest.raises(
        DeviceMemoryError, match=r"cudaErrorMemoryAllocation \(2\).*20224 bytes wanted, 10000 free of 10000"
    ):
        put(workspace, np.zeros(20_000, np.uint8))


@pytest.mark.parametrize(
    "stream",
    [
        7,
        SimpleNamespace(__cuda_stream__=lambda: (0, 7)),
        SimpleNamespace(cuda_stream=7),
        SimpleNamespace(ptr=7),
    ],
)
def test_stream_of_the_user_in_each_form(stream: object) -> None:
    assert Stream.wrap(stream).handle == 7


@pytest.mark.parametrize("stream", ["7", True, object(), SimpleNamespace(__cuda_stream__=lambda: (1, 7))])
def test_stream_that_is_none_is_refused(stream: object) -> None:
    with pytest.raises(TypeError, match="stream"):
        Stream.wrap(stream)


def test_stream_of_the_user_is_used_and_left_alone(cuda: FakeCuda) -> None:
    _, handle = cuda.cudaStreamCreateWithFlags(1)
    workspace = Workspace.open(Options(stream=handle))
    buffer = put(workspace, np.ones(3, np.uint8))
    assert cuda.streams[handle].waiting
    assert buffer.__cuda_array_interface__["stream"] == handle
    del workspace, buffer
    gc.collect()
    assert cuda.calls["cudaStreamDestroy"] == 0
    cuda.cudaStreamDestroy(handle)


def test_cuda_array_interface_of_a_cropped_image_has_the_padded_strides(cuda: FakeCuda) -> None:
    workspace = Workspace.open(Options())
    image = put(workspace, pixels())
    interface = image.corner(Size(height=3, width=2)).__cuda_array_interface__
    assert interface["shape"] == (3, 2, 3)
    assert interface["strides"] == (18, 3, 1)
    assert (interface["typestr"], interface["version"], interface["data"]) == ("|u1", 3, (image.address, False))
    assert image.__cuda_array_interface__["strides"] is None


@pytest.mark.parametrize("consumer", ["numpy", "torch"])
def test_dlpack_hands_over_the_same_memory_and_keeps_it(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, consumer: str
) -> None:
    """Told that it is a CPU, consumers without a GPU take the capsule, and show what they make of it."""
    library = pytest.importorskip(consumer)
    monkeypatch.setattr(buffers, "_CUDA_DEVICE", 1)
    workspace = Workspace.open(Options())
    view = put(workspace, pixels()).corner(Size(height=3, width=2))
    array = library.from_dlpack(view)
    address = view.address
    del view
    gc.collect()
    cuda.drain()
    assert (array.data_ptr() if consumer == "torch" else array.ctypes.data) == address
    assert array.tolist() == pixels()[0, :3, :2].tolist()
    del array
    gc.collect()
    assert cuda.used_bytes == 0


def test_dlpack_capsule_that_nobody_takes_frees_the_memory(cuda: FakeCuda) -> None:
    workspace = Workspace.open(Options())
    buffer = put(workspace, pixels())
    capsule = buffer.__dlpack__()
    del buffer
    assert cuda.used_bytes > 0
    del capsule
    assert cuda.used_bytes == 0


def test_dlpack_refuses_what_it_cannot_do(cuda: FakeCuda) -> None:
    buffer = put(Workspace.open(Options()), pixels())
    assert buffer.__dlpack_device__() == (2, 0)
    with pytest.raises(ValueError, match="ambiguous"):
        buffer.__dlpack__(stream=0)
    with pytest.raises(BufferError):
        buffer.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        buffer.__dlpack__(dl_device=(1, 0))


def test_dlpack_consumer_waits_for_what_writes_the_memory(cuda: FakeCuda) -> None:
    buffer, seen = put(Workspace.open(Options()), pixels()), []
    capsule = buffer.__dlpack__(stream=1)
    cuda.submit(1, lambda: seen.append(cuda.view(buffer.address, 3).tolist()))
    Stream(1).synchronize()
    assert seen == [[0, 1, 2]]
    del capsule


def test_dlpack_memory_waits_for_its_consumer(cuda: FakeCuda) -> None:
    workspace = Workspace.open(Options())
    buffer = put(workspace, pixels())
    address, seen = buffer.address, []
    capsule = buffer.__dlpack__(stream=1)
    cuda.submit(1, lambda: seen.append(cuda.view(address, 3).tolist()))
    del buffer, capsule
    workspace.stream.synchronize()  # reuses the memory only after the consumer's stream has come so far
    assert seen == [[0, 1, 2]]


def test_memory_used_on_a_stream_that_may_be_gone_waits_for_the_device(cuda: FakeCuda) -> None:
    workspace = Workspace.open(Options())
    uses: list[Callable[[Any], Any]] = [lambda b: b.__cuda_array_interface__, lambda b: b.__dlpack__(stream=-1)]
    for use in uses:
        buffer, before = put(workspace, pixels()), cuda.calls["cudaDeviceSynchronize"]
        used = use(buffer)
        del buffer, used
        gc.collect()
        assert cuda.calls["cudaDeviceSynchronize"] == before + 1


def real_runtime() -> Any:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU, on which these calls would be undefined")
    return runtime


def test_cuda_python_takes_every_call_as_it_is_made() -> None:
    """Without a driver each call fails with its code; one with the wrong arguments fails with TypeError."""
    real = real_runtime()
    properties = real.cudaMemPoolProps()
    properties.allocType = real.cudaMemAllocationType.cudaMemAllocationTypePinned
    properties.location.type = real.cudaMemLocationType.cudaMemLocationTypeDevice
    properties.location.id = 0
    uint64 = getattr(real, "cuuint64_t", None) or importlib.import_module("cuda.bindings.driver").cuuint64_t
    threshold = real.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
    event, pool, graph, executable = (
        real.cudaEvent_t(0),
        real.cudaMemPool_t(0),
        real.cudaGraph_t(0),
        real.cudaGraphExec_t(0),
    )
    arguments: dict[str, tuple[Any, ...]] = {
        "cudaGetDeviceCount": (),
        "cudaGetDevice": (),
        "cudaSetDevice": (0,),
        "cudaGetDeviceProperties": (0,),
        "cudaMemGetInfo": (),
        "cudaDeviceSynchronize": (),
        "cudaStreamCreateWithFlags": (real.cudaStreamNonBlocking,),
        "cudaStreamDestroy": (7,),
        "cudaStreamSynchronize": (7,),
        "cudaStreamWaitEvent": (7, event, 0),
        "cudaStreamBeginCapture": (7, real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
        "cudaStreamEndCapture": (7,),
        "cudaEventCreateWithFlags": (real.cudaEventDisableTiming,),
        "cudaEventRecord": (event, 7),
        "cudaEventSynchronize": (event,),
        "cudaEventQuery": (event,),
        "cudaEventDestroy": (event,),
        "cudaMemPoolCreate": (properties,),
        "cudaMemPoolSetAttribute": (pool, threshold, uint64(2**64 - 1)),
        "cudaMemPoolDestroy": (pool,),
        "cudaMallocFromPoolAsync": (4096, pool, 7),
        "cudaFreeAsync": (4096, 7),
        "cudaHostAlloc": (4096, 0),
        "cudaFreeHost": (4096,),
        "cudaMemcpyAsync": (4096, 8192, 16, real.cudaMemcpyKind.cudaMemcpyDefault, 7),
        "cudaMemsetAsync": (4096, 0, 16, 7),
        "cudaGraphInstantiate": (graph, 0),
        "cudaGraphLaunch": (executable, 7),
        "cudaGraphDestroy": (graph,),
        "cudaGraphExecDestroy": (executable,),
    }
    for name, given in arguments.items():
        code, *values = getattr(real, name)(*given)
        assert code != real.cudaError_t.cudaSuccess, name
        assert len(values) == FakeCuda._RESULTS.get(name, 0), name
    # Whatever the code calls of the runtime is among these, and the fake has it.
    known = {*arguments, "cudaGetErrorString", "cudaDriverGetVersion", "cudaRuntimeGetVersion"}
    assert all(hasattr(FakeCuda, name) for name in known)


def test_cuda_python_takes_every_call_of_the_driver_as_it_is_made() -> None:
    """Without a driver a call is refused once its arguments are taken; with the wrong ones it is a TypeError."""
    real_runtime()
    driver = importlib.import_module("cuda.bindings.driver")
    arguments = ctypes.c_int32(0)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    module, function = driver.CUmodule(0), driver.CUfunction(0)
    calls: dict[str, tuple[Any, ...]] = {
        "cuModuleLoadData": (b"image",),
        "cuModuleGetFunction": (module, b"name"),
        "cuLaunchKernel": (function, *[1] * 6, 0, 7, ctypes.addressof(pointers), 0),
        "cuModuleUnload": (module,),
    }
    for name, given in calls.items():
        try:
            code, *_ = getattr(driver, name)(*given)
        except RuntimeError:
            continue
        assert code != driver.CUresult.CUDA_SUCCESS, name
