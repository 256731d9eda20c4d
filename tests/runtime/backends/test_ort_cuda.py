"""The cuda backend with ONNX Runtime's CPU provider in place of its CUDA provider, on `fake_cuda`.

Binding by address, ownership and errors are the real ones; streams and speed are not.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import rdeic_rt
from rdeic_rt.backends.base import BackendAbsentError, Options
from rdeic_rt.backends.gpu import ort_cuda
from rdeic_rt.backends.gpu.ort_cuda import OrtCudaBackend
from rdeic_rt.errors import BackendError, BackendUnavailableError, DeviceMemoryError
from rdeic_rt.limits import Size

from . import fake_ort_cuda
from .fake_cuda import Error, FakeCuda
from .fake_ort_cuda import FakeProvider
from .test_trt import SIZES, assert_alike, images

OUT_OF_MEMORY = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"

pytestmark = [
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Duplicate provider"),
]


@pytest.fixture
def provider(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    fake = fake_ort_cuda.install(cuda, monkeypatch)
    yield fake
    gc.collect()
    assert not fake.counts["aborted"]


@pytest.fixture
def shared(provider: FakeProvider) -> FakeCuda:
    return provider.cuda


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
    z_0 = backend.put(np.full((2, 4, 8, 8), 7, np.float32))
    image = backend.crop(backend.split(graph.run({"z_0": z_0})["image"])[1], Size(5, 3))
    del backend, graph, z_0
    gc.collect()
    interface = image.__cuda_array_interface__
    assert interface["strides"] == (192, 3, 1)
    assert shared.view(interface["data"][0], 3).tolist() == [7, 7, 7]
    waits = shared.calls["cudaDeviceSynchronize"]
    del image
    assert shared.calls["cudaDeviceSynchronize"] == waits + 1  # a consumer was given it


def test_run_binds_nothing_anew_that_lies_where_it_lay(provider: FakeProvider, micro_folder: Path) -> None:
    backend = OrtCudaBackend.open(Options())
    graph = backend.load(rdeic_rt.load(micro_folder, backend="cpu").bundle.reference("vae_decoder"))
    z_0 = backend.put(np.full((1, 4, 8, 8), 7, np.float32))
    address = graph.run({"z_0": z_0})["image"].address  # type: ignore[attr-defined]
    bound = provider.counts["bound"]
    held = [graph.run({"z_0": z_0})["image"] for _ in range(5)]
    addresses = [address, *(image.address for image in held)]  # type: ignore[attr-defined]
    moves = sum(a != b for a, b in zip(addresses, addresses[1:], strict=False))
    assert provider.counts["bound"] - bound == moves
    assert len(set(addresses[1:])) == 5  # no later run overwrites what is held
    assert all((backend.get(image) == 7).all() for image in held)


def test_run_writes_results_into_memory_that_counts(provider: FakeProvider, micro_folder: Path) -> None:
    backend = OrtCudaBackend.open(Options())
    graph = backend.load(rdeic_rt.load(micro_folder, backend="cpu").bundle.reference("vae_decoder"))
    z_0 = backend.put(np.zeros((1, 4, 8, 8), np.float32))
    memory = backend.workspace.memory
    before = memory.in_use
    image = graph.run({"z_0": z_0})["image"]
    assert memory.in_use - before == 64 * 64 * 3
    del image
    assert memory.in_use == before


def test_run_out_of_memory_says_what_is_free(provider: FakeProvider, micro_folder: Path) -> None:
    backend = OrtCudaBackend.open(Options())
    graph = backend.load(rdeic_rt.load(micro_folder, backend="cpu").bundle.reference("vae_decoder"))
    provider.failing.append(OUT_OF_MEMORY)
    with pytest.raises(
        DeviceMemoryError, match=r"'vae_decoder' on z_0 \[1, 4, 8, 8\].* bytes are free\. Decode a smaller"
    ):
        graph.run({"z_0": backend.put(np.zeros((1, 4, 8, 8), np.float32))})


def test_sizes_in_turn_are_planned_once_each(provider: FakeProvider, micro_folder: Path) -> None:
    """A session plans all convolutions when the size changes: half a second, where a decode takes a tenth."""
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    assert_alike(micro_folder, codec, SIZES * 2)
    before, sessions = provider.counts.copy(), len(provider.settings)
    assert_alike(micro_folder, codec, SIZES * 3)
    assert provider.counts["planned"] == before["planned"]
    assert provider.counts["runs"] > before["runs"]
    assert len(provider.settings) == sessions


def test_sizes_that_come_once_share_a_session(provider: FakeProvider, micro_folder: Path) -> None:
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    images(codec, (Size(64, 64), Size(64, 128), Size(64, 192), Size(128, 64)))
    assert Counter(each["graph"] for each in provider.settings)["unet_step"] == 1


def test_sizes_have_so_many_sessions_and_no_more(provider: FakeProvider, micro_folder: Path) -> None:
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    sizes = tuple(Size(64, 64 * columns) for columns in range(1, 13))
    assert_alike(micro_folder, codec, sizes * 3)
    assert Counter(each["graph"] for each in provider.settings)["unet_step"] <= 3 * 12
    assert len(codec._loaded.decoders[0, "ddpm-2"].stages[0].graphs[0]._sessions) == 8  # type: ignore[attr-defined]


@pytest.mark.parametrize("why", ["max_vram", "little is free"])
def test_sizes_share_a_session_where_memory_is_short(provider: FakeProvider, micro_folder: Path, why: str) -> None:
    provider.cuda.total_bytes = 2**20
    codec = rdeic_rt.load(micro_folder, backend="cuda", max_vram=2**20 if why == "max_vram" else None)
    taken = None
    if why == "little is free":
        taken = provider.cuda.cudaMallocFromPoolAsync(2**19, next(iter(provider.cuda.pools)), 0)[1]
    assert_alike(micro_folder, codec, SIZES * 3)
    assert Counter(each["graph"] for each in provider.settings)["unet_step"] == 1
    if taken:
        provider.cuda.cudaFreeAsync(taken, 0)


def test_run_out_of_memory_drops_the_sessions_of_other_sizes_and_tries_again(
    provider: FakeProvider, micro_folder: Path
) -> None:
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    images(codec, SIZES * 2)
    provider.failing.append(OUT_OF_MEMORY)
    assert_alike(micro_folder, codec, SIZES[:1])
    stages = codec._loaded.decoders[0, "ddpm-2"].stages
    assert {len(graph._sessions) for stage in stages for graph in stage.graphs} <= {0, 1}  # type: ignore[attr-defined]


def test_trim_drops_the_sessions_of_sizes(provider: FakeProvider, micro_folder: Path) -> None:
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    images(codec, SIZES * 2)
    codec.trim()
    stages = codec._loaded.decoders[0, "ddpm-2"].stages
    assert {len(graph._sessions) for stage in stages for graph in stage.graphs} == {0}  # type: ignore[attr-defined]
    assert_alike(micro_folder, codec, SIZES)


def test_run_failing_inside_raises_backend_error(shared: FakeCuda, micro_folder: Path) -> None:
    backend = OrtCudaBackend.open(Options())
    graph = backend.load(rdeic_rt.load(micro_folder, backend="cpu").bundle.reference("vae_decoder"))
    with pytest.raises(BackendError, match="vae_decoder"):
        graph.run({"z_0": backend.put(np.zeros((1, 2, 8, 8), np.float32))})


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (
            {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"},
            r"^cuda: onnxruntime 1\.32\.0 and onnxruntime-gpu 1\.31\.1 are both installed, .*"
            r"`pip install --force-reinstall --no-deps onnxruntime-gpu`\.$",
        ),
        (
            {"onnxruntime": "1.32.0"},
            r"^cuda: onnxruntime \S+ has no CUDAExecutionProvider\. .*`pip install 'rdeic-rt\[cuda\]' && "
            r"pip install --force-reinstall --no-deps onnxruntime-gpu`\.$",
        ),
    ],
)
def test_open_without_the_provider_says_what_to_type(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], message: str
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(ort_cuda, "version", version)
    with pytest.raises(BackendAbsentError, match=message):
        OrtCudaBackend.open(Options())


def test_open_where_a_distribution_was_uninstalled_from_under_the_other_says_what_to_type(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ort, "__version__")
    with pytest.raises(BackendAbsentError, match="^cuda: onnxruntime.* has no CUDAExecutionProvider"):
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
    said = "Failed to load libcublasLt.so.13: no such file"
    monkeypatch.setattr(ort, "preload_dlls", lambda: print(said), raising=False)
    message = rf"cannot load its AzureExecutionProvider \({said}\) and would use CPUExec.*onnxruntime-gpu\[cuda,cudnn\]"
    with pytest.raises(BackendUnavailableError, match=message):
        OrtCudaBackend.open(Options())


def test_open_prints_nothing_of_what_onnxruntime_prints(
    shared: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    severities: list[int] = []
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13"), raising=False)
    monkeypatch.setattr(ort, "set_default_logger_severity", severities.append)
    with caplog.at_level("INFO", "rdeic_rt"):
        OrtCudaBackend.open(Options())
    assert capfd.readouterr().out == ""
    assert "Failed to load libcublasLt.so.13" in caplog.text
    assert severities == [3]  # at 2 it tells on standard error, for each session, that another device was not found


def test_open_without_a_driver_loads_no_library_of_cuda(shared: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    monkeypatch.setattr(ort, "preload_dlls", lambda: loaded.append(True), raising=False)
    shared.failures["cudaGetDeviceCount", 1] = Error.cudaErrorNoDevice
    with pytest.raises(BackendAbsentError):
        OrtCudaBackend.open(Options())
    assert not loaded


@pytest.fixture
def settings(provider: FakeProvider) -> list[dict[str, str]]:
    """What each session was given for the provider, in order."""
    return provider.settings


@pytest.mark.parametrize(("stream", "told"), [(0, "1"), (1, "1"), (2, "2")])
def test_sessions_work_on_the_stream_that_was_given_and_never_get_0(
    settings: list[dict[str, str]], micro_folder: Path, stream: int, told: str
) -> None:
    """To ONNX Runtime, 0 is no stream: each session would work on one of its own, beside ours."""
    codec = rdeic_rt.load(micro_folder, backend="cuda", stream=stream)
    images(codec, SIZES[:1])
    assert {each["user_compute_stream"] for each in settings} == {told}
    assert len(settings) > 2


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("auto", "1")])
def test_products_have_all_bits_where_fp32_is_asked_for_and_in_what_encodes(
    settings: list[dict[str, str]], micro_folder: Path, precision: str, tf32: str
) -> None:
    codec = rdeic_rt.load(micro_folder, backend="cuda", precision=precision)
    images(codec, SIZES[:1])
    codec._analyse(codec.bundle.rates[0], np.zeros((64, 64, 3), np.uint8))
    used = {each["graph"]: each["use_tf32"] for each in settings}
    assert used.pop("analysis") == "0"
    assert set(used.values()) == {tf32}


def test_max_vram_is_of_all_sessions_together(settings: list[dict[str, str]], micro_folder: Path) -> None:
    """ONNX Runtime bounds each session alone; between its runs one is to keep no more than its weights."""
    bound = 2**22
    codec = rdeic_rt.load(micro_folder, backend="cuda", max_vram=bound)
    images(codec, SIZES[:1])
    limits = [int(each["gpu_mem_limit"]) for each in settings]
    sizes = {each["graph"]: codec.bundle.reference(each["graph"]).path.stat().st_size for each in settings[1:-1]}
    assert limits == sorted(limits, reverse=True)
    assert limits[0] == bound
    assert limits[-1] <= bound - sum(sizes.values()) + sizes[settings[-2]["graph"]]
    graph = codec._selection.backend.load(codec.bundle.reference("vae_decoder"))
    shrinks = graph._run_options.get_run_config_entry("memory.enable_memory_arena_shrinkage")  # type: ignore[attr-defined]
    assert shrinks == "cpu:0"
    with pytest.raises(DeviceMemoryError, match="max_vram allows 5000"):
        images(rdeic_rt.load(micro_folder, backend="cuda", max_vram=5000), SIZES[:1])


def test_peak_bytes_count_what_onnxruntime_holds(shared: FakeCuda, micro_folder: Path) -> None:
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    theirs = shared.cudaMallocFromPoolAsync(10**7, next(iter(shared.pools)), 0)[1]
    assert codec.peak_device_bytes() == 10**7
    shared.cudaFreeAsync(theirs, 0)


def test_decode_in_another_thread_than_that_of_load_works_on_the_device_of_load(
    shared: FakeCuda, micro_folder: Path
) -> None:
    """A new thread's current device is 0, whatever that of the others is."""
    shared.n_devices = 2
    shared.cudaSetDevice(1)
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    expected = images(codec, SIZES)
    caught: list[BaseException] = []
    got: list[Any] = []

    def work() -> None:
        try:
            got.extend(images(codec, SIZES))
            assert shared.current == 0
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not caught
    for image, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(image, other)


def test_image_given_away_waits_on_its_own_device_when_it_goes(shared: FakeCuda, micro_folder: Path) -> None:
    shared.n_devices = 2
    shared.cudaSetDevice(1)
    codec = rdeic_rt.load(micro_folder, backend="cuda")
    graph = codec._selection.backend.load(codec.bundle.reference("vae_decoder"))
    image = graph.run({"z_0": codec._selection.backend.put(np.zeros((1, 4, 8, 8), np.float32))})["image"]
    assert image.__cuda_array_interface__  # type: ignore[attr-defined]
    shared.cudaSetDevice(0)
    waited_on: list[int] = []
    wait = shared.cudaDeviceSynchronize

    def noted() -> Any:
        waited_on.append(shared.current)
        return wait()

    shared.cudaDeviceSynchronize = noted  # type: ignore[method-assign]
    del image
    assert waited_on == [1]


def test_open_for_int8_is_refused(shared: FakeCuda) -> None:
    with pytest.raises(BackendUnavailableError, match="^cuda: .*no INT8 kernels"):
        OrtCudaBackend.open(Options(precision="int8"))
