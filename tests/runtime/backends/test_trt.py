"""The tensorrt backend from plan to image, on `fake_cuda` and `fake_tensorrt`, against the cpu backend."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import shutil
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import Codec, DecodeOptions
from rdeic_rt.backends import select
from rdeic_rt.backends.base import Recordings
from rdeic_rt.backends.gpu import cuda as cuda_calls
from rdeic_rt.backends.tensorrt import library as trt_library
from rdeic_rt.backends.tensorrt.plans import PlanKey, Profile, read_key, write_key
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.container import Metadata
from rdeic_rt.errors import BackendError, BackendUnavailableError, BundleCorruptError, DeviceMemoryError
from rdeic_rt.latents import Latents
from rdeic_rt.limits import Size
from rdeic_rt.manifest import Rate

from . import fake_tensorrt
from .fake_cuda import Error, FakeCuda

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

SIZES = (Size(64, 64), Size(100, 190), Size(129, 70))


@pytest.fixture
def planned(micro_folder: Path) -> Path:
    """The micro bundle with plans that fit the fake GPU."""
    fake_tensorrt.write_plans(micro_folder)
    return micro_folder


def latents(size: Size, seed: int = 0) -> Latents:
    tables = dict.fromkeys(("ddpm-2", "ddpm-1"), Path())  # all that is asked of a rate is its number and its schedules
    rate = Rate(0, 0, "", 0.1, b"", {}, OwnFile(Path()), "ddpm-2", tables)  # type: ignore[arg-type]
    shape = (1, 4, -(-size.height // 64) * 4, -(-size.width // 64) * 4)
    y_hat = np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)
    return Latents(size, rate, {"y_hat": y_hat}, seed, Metadata())


def largest_size(codec: Codec) -> Size | None:
    """Return the largest image that decoding takes in one piece."""
    graphs = [graph for stage in codec._loaded.decoders[0, "ddpm-2"].stages for graph in stage.graphs]
    return codec._selection.backend.largest_size(graphs)


def images(codec: Codec, sizes: tuple[Size, ...], **options: Any) -> list[NDArray[np.uint8]]:
    return [codec.decode(latents(size, seed), DecodeOptions(**options)) for seed, size in enumerate(sizes)]


def assert_alike(folder: Path, codec: Codec, sizes: tuple[Size, ...], **options: Any) -> None:
    expected = images(rdeic_rt.load(folder, backend="cpu"), sizes, **options)
    for image, other in zip(images(codec, sizes, **options), expected, strict=True):
        assert image.shape == other.shape
        # The same arithmetic, but for the rounding of one multiplication and addition.
        assert np.abs(image.astype(int) - other).max() <= 1


@pytest.mark.parametrize("options", [{}, {"sharpness": 0.7}, {"steps": 1}, {"seed": 5}])
@pytest.mark.parametrize("capture", [True, False])
def test_decode_gives_the_image_of_the_cpu(
    tensorrt: Any, planned: Path, capture: bool, options: dict[str, Any]
) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt", capture=capture)
    assert codec.backend == "tensorrt"
    assert_alike(planned, codec, SIZES[:2] * 4, **options)


@pytest.mark.parametrize("capture", [True, False])
def test_preview_gives_the_image_of_the_cpu_beside_decodes(tensorrt: Any, planned: Path, capture: bool) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt", capture=capture)
    cpu = rdeic_rt.load(planned, backend="cpu")
    for seed in range(4):
        of_size = latents(SIZES[seed % 2], seed)
        assert np.abs(codec.preview(of_size).astype(int) - cpu.preview(of_size)).max() <= 1
        assert np.abs(codec.decode(of_size).astype(int) - cpu.decode(of_size)).max() <= 1
        assert hasattr(codec.decode_on_device(of_size, DecodeOptions(preview=True)), "__cuda_array_interface__")


def test_decode_the_embedded_bundle_end_to_end(
    tensorrt: Any, embedded_bundle: Path, fp32_codec: Codec, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    folder = shutil.copytree(embedded_bundle, tmp_path / "copy", ignore=lambda *_: ["plans"])
    fake_tensorrt.write_plans(folder)
    fast = rdeic_rt.load(folder, backend="tensorrt")
    data = fp32_codec.encode(photo[:64, :60])
    assert fast.encode(photo[:64, :60]) == data  # on the cpu backend, whatever decodes
    expected = fp32_codec.decode(data)
    for _ in range(3):
        assert np.abs(fast.decode(data).astype(int) - expected).max() <= 1


def test_decode_to_the_device_is_a_view_that_outlives_the_codec(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    size = SIZES[1]
    codec = rdeic_rt.load(planned, backend="tensorrt")
    expected = codec.decode(latents(size))
    there = [codec.decode_on_device(latents(size)) for _ in range(3)]
    del codec
    gc.collect()
    cuda.drain()
    for image in there:
        interface = image.__cuda_array_interface__
        assert interface["shape"] == (100, 190, 3)
        assert interface["strides"] == (192 * 3, 3, 1)
        padded = cuda.view(interface["data"][0], 128 * 192 * 3).reshape(128, 192, 3)
        np.testing.assert_array_equal(padded[:100, :190], expected)
    assert len({image.address for image in there}) == 3


def test_decode_to_the_device_waits_for_nothing(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    for _ in range(2):
        codec.decode_on_device(latents(SIZES[0]))
    cuda.drain()
    before = cuda.waits
    for _ in range(4):
        codec.decode_on_device(latents(SIZES[0]))
    assert cuda.waits == before
    assert cuda.calls["cudaGraphLaunch"] == 4


def test_progress_is_told_once_of_each_part_also_while_it_is_recorded(
    tensorrt: Any, cuda: FakeCuda, planned: Path
) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    told: list[list[tuple[str, int, int]]] = [[], [], []]
    for parts in told:
        codec.decode(latents(SIZES[0]), DecodeOptions(on_progress=lambda *part, parts=parts: parts.append(part)))
    assert cuda.calls["cudaGraphLaunch"] == 1
    assert (
        told[0] == told[1] == [("synthesis", 0, 4), ("denoise", 1, 4), ("denoise", 2, 4), ("vae", 3, 4), ("done", 4, 4)]
    )
    assert told[2] == [("done", 4, 4)]


def test_decode_on_the_stream_of_the_user(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    _, stream = cuda.cudaStreamCreateWithFlags(0)
    assert_alike(planned, rdeic_rt.load(planned, backend="tensorrt", stream=stream), SIZES[:2] * 3)
    gc.collect()
    cuda.cudaStreamDestroy(stream)


def test_decode_on_the_default_stream_is_recorded_on_another(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    assert_alike(planned, rdeic_rt.load(planned, backend="tensorrt", stream=0), SIZES[:1] * 4)
    assert cuda.calls["cudaGraphLaunch"] == 2


def test_decode_from_threads_gives_each_its_own(tensorrt: Any, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    expected = images(rdeic_rt.load(planned, backend="cpu"), SIZES)

    def work(n: int) -> bool:
        image = codec.decode(latents(SIZES[n % 3], n % 3))
        return int(np.abs(image.astype(int) - expected[n % 3]).max()) <= 1

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(48)))


def test_two_codecs_on_two_devices_decode_in_any_thread(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    """Streams and events belong to a device; each thread has a current one, which is 0 at first."""
    cuda.n_devices = 2
    codecs = []
    for ordinal in (0, 1):
        cuda.cudaSetDevice(ordinal)
        codecs.append(rdeic_rt.load(planned, backend="tensorrt"))
    cuda.cudaSetDevice(0)
    assert [codec._selection.backend.workspace.device.ordinal for codec in codecs] == [0, 1]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        for codec in codecs:
            pool.submit(assert_alike, planned, codec, SIZES * 3).result()
    assert codecs[1].decode_on_device(latents(SIZES[0])).__dlpack_device__() == (2, 1)
    assert cuda.current == 0


def test_decode_many_times_takes_no_more_memory(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    used = []
    for n in range(200):
        codec.decode(latents(SIZES[n % 2]))
        used.append(cuda.used_bytes)
    assert len(set(used[10:])) <= 2  # one for each size, if anything
    there = cuda.leaks()
    assert there["graphs"] == 2
    assert there["host"] <= 4


def test_out_of_memory_at_any_allocation_is_typed_and_leaks_nothing(
    tensorrt: Any, cuda: FakeCuda, planned: Path
) -> None:
    """Each allocation of three decodes fails once: plain, recorded and replayed; the one after it works again."""
    expected = rdeic_rt.load(planned, backend="cpu").decode(latents(SIZES[0]))
    call, failed, nth = "cudaMallocFromPoolAsync", 0, 0
    while cuda.calls[call] >= nth:
        nth, cuda.calls[call], cuda.failures = nth + 1, 0, {(call, nth + 1): Error.cudaErrorMemoryAllocation}
        codec = rdeic_rt.load(planned, backend="tensorrt")
        for _ in range(3):
            try:
                codec.decode(latents(SIZES[0]))
            except DeviceMemoryError as error:
                failed += 1
                assert re.search(r"\d+ bytes wanted, \d+ free of \d+ .* Decode a smaller image", str(error))
        reached = cuda.calls[call]
        assert np.abs(codec.decode(latents(SIZES[0])).astype(int) - expected).max() <= 1
        cuda.calls[call] = reached
        del codec
        gc.collect()
        assert not cuda.leaks()
    assert nth > 25
    assert 10 < failed < nth  # once something is recorded, there is memory that can be given up instead


@pytest.mark.parametrize("name", ["cudaGraphInstantiate", "cudaStreamBeginCapture", "cudaStreamEndCapture"])
def test_recording_that_fails_once_is_tried_again(
    tensorrt: Any, cuda: FakeCuda, planned: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Another thread may do what CUDA forbids meanwhile; torch in the same process does all the time."""
    cuda.failures[name, 1] = Error.cudaErrorStreamCaptureUnsupported
    codec = rdeic_rt.load(planned, backend="tensorrt")
    assert_alike(planned, codec, SIZES[:1] * 5)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert codec.recordings() == Recordings(1, ())
    assert cuda.calls["cudaGraphLaunch"] == 2


@pytest.mark.parametrize("name", ["cudaGraphInstantiate", "cudaStreamBeginCapture", "cudaStreamEndCapture"])
def test_recording_that_fails_twice_warns_once_and_others_are_recorded(
    tensorrt: Any, cuda: FakeCuda, planned: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    for nth in (1, 2):
        cuda.failures[name, nth] = Error.cudaErrorStreamCaptureUnsupported
    codec = rdeic_rt.load(planned, backend="tensorrt")
    assert_alike(planned, codec, SIZES[:1] * 6)
    why = f"{name}: cudaErrorStreamCaptureUnsupported (900): text of cudaErrorStreamCaptureUnsupported"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"not recorded as a CUDA graph from here on, others still are: {why}"
    ]
    assert codec.recordings() == Recordings(0, (why,))
    assert cuda.calls[name] == 2
    assert_alike(planned, codec, SIZES[1:2] * 4)
    assert codec.recordings() == Recordings(1, (why,))
    assert cuda.calls["cudaGraphLaunch"] == 2


def test_garbage_that_is_found_while_recording_ends_nothing_and_is_freed(
    tensorrt: Any, cuda: FakeCuda, planned: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A codec in a cycle is freed whenever the collector comes, in whatever thread: freeing calls CUDA."""
    codec = rdeic_rt.load(planned, backend="tensorrt")
    images(codec, SIZES[:1])
    lost = rdeic_rt.load(planned, backend="tensorrt")
    images(lost, SIZES[:1] * 3)
    lost.itself = lost  # type: ignore[attr-defined]
    del lost
    assert gc.isenabled()
    assert_alike(planned, codec, SIZES[:1] * 3)
    assert gc.isenabled()
    assert codec.recordings() == Recordings(1, ())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    del codec
    gc.collect()
    assert not cuda.leaks()


def test_after_an_error_that_stays_every_decode_fails_with_its_type(
    tensorrt: Any, cuda: FakeCuda, planned: Path
) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    images(codec, SIZES[:1] * 3)
    cuda.failures["cudaGraphLaunch", 2] = Error.cudaErrorIllegalAddress
    for _ in range(3):
        with pytest.raises(BackendError, match=r"cudaErrorIllegalAddress \(700\)"):
            codec.decode(latents(SIZES[0]))
    cuda.is_lost = False  # a new process


def test_sizes_in_turn_are_replayed_and_cost_nothing_once_recorded(
    tensorrt: Any, cuda: FakeCuda, planned: Path
) -> None:
    sizes = tuple(Size(64 * rows, 64 * columns) for rows in (1, 2, 3) for columns in (1, 2, 3))
    codec = rdeic_rt.load(planned, backend="tensorrt")
    for _ in range(2):
        images(codec, sizes)
    before, launches = tensorrt.counts.copy(), cuda.calls["cudaGraphLaunch"]
    instantiated = cuda.calls["cudaGraphInstantiate"]
    for _ in range(3):
        images(codec, sizes)
    assert cuda.calls["cudaGraphLaunch"] - launches == 27
    assert tensorrt.counts == before
    assert cuda.calls["cudaGraphInstantiate"] == instantiated == 9
    assert before["create_execution_context"] == 5 + 9 * 5


def test_larger_image_leaves_the_recordings_of_smaller_ones_alone(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    for number, size in enumerate((Size(64, 64), Size(128, 128), Size(192, 256), Size(256, 320)), 1):
        images(codec, (size,) * 3)
        assert codec.recordings() == Recordings(number, ())


def test_larger_image_within_max_vram_leaves_recordings_alone_too(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt", max_vram=2**26)
    for number, size in enumerate((Size(64, 64), Size(128, 128), Size(192, 256)), 1):
        images(codec, (size,) * 3)
        assert codec.recordings() == Recordings(number, ())


def test_scratch_memory_for_the_largest_image_is_not_insisted_on(
    tensorrt: Any, cuda: FakeCuda, micro_folder: Path
) -> None:
    fake_tensorrt.write_plans(micro_folder, scratch=1000)
    cuda.total_bytes = 2**25
    codec = rdeic_rt.load(micro_folder, backend="tensorrt")
    assert codec.decode(latents(SIZES[0])).shape == (64, 64, 3)


def test_caches_are_written_when_something_was_compiled_and_not_for_each_size(tensorrt: Any, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    codec.decode(latents(SIZES[0]))
    first = tensorrt.counts["serialize"]
    assert first == 5
    for columns in range(1, 6):
        codec.decode(latents(Size(64, 64 * columns)))
    assert tensorrt.counts["serialize"] == first + 5  # 64x64 came again, and was recorded


def test_kernels_are_taken_from_disk_in_a_thread_that_has_called_nothing_of_cuda(tensorrt: Any, planned: Path) -> None:
    """The library needs a current context for that, and ignores what is kept without one."""
    images(rdeic_rt.load(planned, backend="tensorrt"), SIZES[:1] * 3)
    kept = caches(planned)
    codec = rdeic_rt.load(planned, backend="tensorrt", max_vram=2**26)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(images, codec, SIZES[:1]).result()
    assert caches(planned) == kept


def test_prepare_does_what_the_first_decodes_would(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    codec._loaded.entropy_models = defaultdict(object)  # type: ignore[assignment]  # this bundle has none
    codec.prepare(SIZES[1])
    before, launches = tensorrt.counts.copy(), cuda.calls["cudaGraphLaunch"]
    images(codec, SIZES[1:2])
    assert tensorrt.counts == before
    assert cuda.calls["cudaGraphLaunch"] == launches + 1


def test_trim_gives_memory_back_and_decodes_go_on(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    images(codec, SIZES * 3)
    used, host = cuda.used_bytes, len(cuda.host)
    codec.trim()
    assert codec.recordings() == Recordings(0, ())
    assert cuda.used_bytes < used / 2
    assert len(cuda.host) < host
    assert cuda.calls["cudaMemPoolTrimTo"] == 1
    assert_alike(planned, codec, SIZES * 3)


@pytest.mark.parametrize(
    "call", ["create_execution_context", "set_input_shape", "infer_shapes", "set_tensor_address", "execute_async_v3"]
)
def test_call_of_the_library_that_fails_names_graph_call_and_reason(tensorrt: Any, planned: Path, call: str) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    tensorrt.failing.add(call)
    message = rf"tensorrt-rtx 1\.7\.0, graph 'synthesis': {call}: (context|{call}) refused"
    with pytest.raises(BackendError, match=message):
        codec.decode(latents(SIZES[0]))
    tensorrt.failing.clear()
    assert_alike(planned, codec, SIZES[:1])


def test_plan_that_cannot_be_recorded_runs_all_the_same(tensorrt: Any, cuda: FakeCuda, planned: Path) -> None:
    tensorrt.failing.add("is_stream_capturable")
    codec = rdeic_rt.load(planned, backend="tensorrt")
    assert_alike(planned, codec, SIZES[:1] * 4)
    assert cuda.calls["cudaGraphLaunch"] == cuda.calls["cudaStreamBeginCapture"] == 0
    found = codec.recordings()
    assert (
        found is not None and "graph 'synthesis' cannot be recorded: is_stream_capturable refused" in found.given_up[0]
    )


# --- plans


def damage(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-10] + b"0123456789")


def replace_content(plan: Path, content: bytes) -> None:
    """Change a plan and its hash, as a broken build would."""
    plan.write_bytes(content)
    key = json.loads(plan.with_suffix(".json").read_text())
    key["plan"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    plan.with_suffix(".json").write_text(json.dumps(key))


def plan_of(folder: Path, graph: str = "unet_step") -> Path:
    (path,) = folder.glob(f"plans/*/{graph}.plan")
    return path


def test_damaged_plan_is_corrupt_with_the_command_that_rebuilds_it(tensorrt: Any, planned: Path) -> None:
    damage(plan_of(planned))
    with pytest.raises(BundleCorruptError, match=r"unet_step\.plan: .*build_engines\.py"):
        rdeic_rt.load(planned, backend="tensorrt").decode(latents(SIZES[0]))


def test_plan_that_the_library_refuses_says_why_and_what_to_do(tensorrt: Any, planned: Path) -> None:
    replace_content(plan_of(planned), b"no plan at all")
    with pytest.raises(
        BackendError,
        match=r"unet_step\.plan: tensorrt-rtx 1\.7\.0 does not take this plan \(MALFORMED_ENGINE\): Serialization "
        r"assertion failed\. Build it again with `python export/build_engines\.py --bundle .* --precision fp16`",
    ):
        rdeic_rt.load(planned, backend="tensorrt").decode(latents(SIZES[0]))


def test_plan_of_another_graph_is_corrupt(tensorrt: Any, planned: Path) -> None:
    replace_content(plan_of(planned, "control"), plan_of(planned, "synthesis").read_bytes())
    with pytest.raises(BundleCorruptError, match=r"control\.plan: not a plan of graph 'control'.*hint.*differ"):
        rdeic_rt.load(planned, backend="tensorrt").decode(latents(SIZES[0]))


@pytest.mark.parametrize(
    ("built", "differs"),
    [
        ({"version": "1.6.9"}, r"version 1\.6\.9 instead of 1\.7\.0"),
        ({"capabilities": (120,)}, r"target sm_120 instead of sm_89"),
        ({"precision": "int8"}, r"precision int8 instead of fp16"),
        ({"library": "tensorrt"}, r"library tensorrt instead of tensorrt-rtx"),
    ],
)
def test_plan_built_for_something_else_is_not_used(
    tensorrt: Any, micro_folder: Path, built: dict[str, Any], differs: str
) -> None:
    fake_tensorrt.write_plans(micro_folder, **built)
    with pytest.raises(BackendUnavailableError, match=rf"^tensorrt: no plan .*{differs}.*build_engines\.py"):
        rdeic_rt.load(micro_folder, backend="tensorrt", precision="fp16")
    if "precision" not in built:
        chosen = rdeic_rt.load(micro_folder)
        assert chosen.backend != "tensorrt"
        assert re.search(differs, chosen.skipped_backends["tensorrt"])


def test_plan_of_a_graph_that_has_changed_is_not_used(tensorrt: Any, planned: Path) -> None:
    key = json.loads(plan_of(planned).with_suffix(".json").read_text())
    key["key"]["onnx_sha256"] = "0" * 64
    plan_of(planned).with_suffix(".json").write_text(json.dumps(key))
    with pytest.raises(
        BackendUnavailableError, match=r"'unet_step'.*onnx_sha256 000000000000 instead of [0-9a-f]{12}\."
    ):
        rdeic_rt.load(planned, backend="tensorrt")


def test_auto_prefers_half_precision_plans(tensorrt: Any, planned: Path) -> None:
    for precision in ("fp32", "int8"):
        fake_tensorrt.write_plans(planned, precision=precision)
    for asked, taken in (("auto", "fp16"), ("fp32", "fp32"), ("int8", "int8")):
        codec = rdeic_rt.load(planned, precision=asked)
        assert (codec.backend, codec.description()["plans"]) == ("tensorrt", taken)


def test_plans_of_some_rates_are_used_when_asked_for(tensorrt: Any, golden_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden_bundle, tmp_path / "micro")
    fake_tensorrt.write_plans(folder, rates=slice(1))
    chosen = rdeic_rt.load(folder)
    assert chosen.backend != "tensorrt"
    assert "no plan of graph 'synthesis_r1'" in chosen.skipped_backends["tensorrt"]

    codec = rdeic_rt.load(folder, backend="tensorrt")
    gray = np.full((64, 64, 3), 128, np.uint8)
    assert codec.decode(codec.encode(gray, 0)).shape == gray.shape
    with pytest.raises(BackendUnavailableError, match=r"no plan of graph '\w+_r1'.*build_engines\.py"):
        codec.decode(codec.encode(gray, 1))


@pytest.mark.parametrize("capability", [(9, 0), (10, 0), (10, 3)])
@pytest.mark.parametrize("is_installed", [True, False])
def test_gpu_that_only_tensorrt_runs_on_is_told_so(
    cuda: FakeCuda, tensorrt: Any, planned: Path, monkeypatch: pytest.MonkeyPatch, capability: Any, is_installed: bool
) -> None:
    """H100, B200 and B300: plans that TensorRT for RTX builds would never fit."""
    cuda.capability = capability
    if not is_installed:
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'rdeic-rt\[tensorrt-classic\]'") as caught:
        rdeic_rt.load(planned, backend="tensorrt")
    said = f"TensorRT for RTX does not run on sm_{capability[0]}{capability[1]}, TensorRT does: "
    assert (said in str(caught.value)) == is_installed
    assert "no plan" not in str(caught.value)


def test_gpu_that_a_build_leaves_out_unless_asked_is_named_in_the_command(
    cuda: FakeCuda, tensorrt: Any, planned: Path
) -> None:
    cuda.capability = (12, 1)
    with pytest.raises(BackendUnavailableError, match=r"target sm_80\+86\+89 instead of sm_121.* --target 121`"):
        rdeic_rt.load(planned, backend="tensorrt")


def test_neither_library_installed_says_how_to_get_one(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, planned: Path
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        BackendUnavailableError, match=r"^tensorrt: tensorrt cannot.*pip install 'rdeic-rt\[tensorrt\]'"
    ):
        rdeic_rt.load(planned, backend="tensorrt")


# --- sizes and memory


def test_image_smaller_than_the_profile_names_shapes_and_command(tensorrt: Any, micro_folder: Path) -> None:
    fake_tensorrt.write_plans(micro_folder, profile=replace(fake_tensorrt.PROFILE, smallest=Size(128, 128)))
    codec = rdeic_rt.load(micro_folder, backend="tensorrt")
    with pytest.raises(
        BackendError,
        match=r"'synthesis': y_hat is \[1, 4, 4, 4\], its plan was built for \[1, 4, 8, 8\] to \[1, 4, 16, 20\].*build",
    ):
        codec.decode(latents(Size(64, 64)))


def test_guidance_on_plans_of_one_image_names_the_batch(tensorrt: Any, micro_folder: Path) -> None:
    fake_tensorrt.write_plans(micro_folder, profile=replace(fake_tensorrt.PROFILE, max_batch=1))
    codec = rdeic_rt.load(micro_folder, backend="tensorrt")
    with pytest.raises(BackendError, match=r"'unet_step': \w+ is \[2, 4, 8, 8\].*\[1, 4, 32, 40\].*batch"):
        codec.decode(latents(Size(64, 64)), DecodeOptions(sharpness=0.5))


def test_image_larger_than_the_profile_is_decoded_in_tiles(tensorrt: Any, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt")
    assert largest_size(codec) == Size(256, 320)
    image = codec.decode(latents(Size(400, 500)))
    assert image.shape == (400, 500, 3)


def test_max_vram_makes_tiles_smaller_and_is_kept_to(tensorrt: Any, cuda: FakeCuda, micro_folder: Path) -> None:
    profile = Profile(Size(64, 64), Size(512, 512), Size(1024, 1024), max_batch=2)
    fake_tensorrt.write_plans(micro_folder, profile=profile, scratch=40)
    free = rdeic_rt.load(micro_folder, backend="tensorrt")
    bound = 6_000_000
    bounded = rdeic_rt.load(micro_folder, backend="tensorrt", max_vram=bound)
    largest = [largest_size(codec) for codec in (free, bounded)]
    assert largest[0] == Size(1024, 1024)
    assert largest[1] is not None
    assert 64 < max(largest[1].height, largest[1].width) < 1024
    del free
    gc.collect()
    size = Size(600, 700)
    for _ in range(4):
        assert bounded.decode(latents(size)).shape == (600, 700, 3)
        assert cuda.used_bytes <= bound
    assert bounded.decode(latents(Size(*(side - 3 for side in (largest[1].height, largest[1].width))))).any()


def test_max_vram_below_the_smallest_size_says_how_much_is_wanted(tensorrt: Any, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt", max_vram=40_000)
    with pytest.raises(DeviceMemoryError, match=r"^\d+ bytes .* wanted for 64x64, .*\d+ of them for weights.* 40000\."):
        codec.decode(latents(SIZES[0]))


def test_max_vram_below_the_weights_is_refused_before_they_are_loaded(tensorrt: Any, planned: Path) -> None:
    codec = rdeic_rt.load(planned, backend="tensorrt", max_vram=2000)
    with pytest.raises(DeviceMemoryError, match=r"^\d+ bytes of GPU memory wanted .*max_vram allows 2000"):
        codec.decode(latents(SIZES[0]))


# --- what TensorRT for RTX compiles


def caches(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("plans/*/*.kernels")}


def test_compiled_kernels_are_kept_beside_the_plan_and_used_again(tensorrt: Any, planned: Path) -> None:
    def decode_thrice() -> None:
        images(rdeic_rt.load(planned, backend="tensorrt"), SIZES[:1] * 3)

    decode_thrice()
    kept = caches(planned)
    assert sorted(kept) == [
        f"{name}-Fake_GPU_13_0.kernels" for name in ("control", "synthesis", "unet_step", "vae_decoder", "weighted_sum")
    ]
    decode_thrice()
    assert all(now.startswith(kept[name]) for name, now in caches(planned).items())


def test_compiled_kernels_of_another_version_are_written_anew(tensorrt: Any, planned: Path) -> None:
    cache = plan_of(planned).with_name("unet_step-Fake_GPU_13_0.kernels")
    cache.write_bytes(b"of another version")
    images(rdeic_rt.load(planned, backend="tensorrt"), SIZES[:1] * 2)
    assert cache.read_bytes().startswith(b"1.7.0")


def test_availability_says_that_tensorrt_can_run(tensorrt: Any) -> None:
    assert select.availability()["tensorrt"] is None


def test_facts_name_library_plans_and_device(tensorrt: Any, planned: Path) -> None:
    assert rdeic_rt.load(planned, backend="tensorrt").description() == {
        "tensorrt-rtx": "1.7.0",
        "plans": "fp16",
        "gpu": "Fake GPU, sm_89, 1.0 GiB",
        "cuda": "12.8, driver for 13.0",
    }


# --- the real library, as far as it goes without a GPU


def test_real_library_refuses_what_is_no_plan_with_its_reasons(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    library = trt_library.open_library("tensorrt-rtx")
    path = tmp_path / "plans" / "folder" / "unet_step.plan"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(1000))
    key = PlanKey(
        "unet_step", "0" * 64, "0" * 64, library.name, library.version, "sm_89", "fp16", fake_tensorrt.PROFILE, {}
    )
    write_key(path, key, {})
    device = cuda_calls.Device(0, "none", 89, 0, "13.0", "13.0")
    with pytest.raises(
        BackendError, match=r"unet_step\.plan: tensorrt-rtx \S+ does not take this plan \(.*MALFORMED_ENG"
    ):
        trt_library.deserialise(read_key(path.with_suffix(".json")), library, device)
