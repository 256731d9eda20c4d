from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import rdeic_rt
from rdeic_rt import bundle, stopping
from rdeic_rt.backends import cpu, select
from rdeic_rt.backends.base import Backend, BackendAbsentError, Options
from rdeic_rt.backends.gpu import cuda
from rdeic_rt.errors import BackendUnavailableError, CancelledError, DeviceMemoryError

from . import fake_tensorrt
from .fake_cuda import Error, FakeCuda


def unavailable(options: Options) -> Backend:
    raise BackendUnavailableError("openvino: no such CPU. Use cpu.")


def absent(options: Options) -> Backend:
    raise BackendAbsentError("openvino: not installed")


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with neither a GPU nor OpenVINO."""
    for module in ("tensorrt", "tensorrt_rtx", "cuda.bindings.runtime", "openvino"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "rdeic_rt.backends.cpu.openvino", raising=False)
    monkeypatch.delattr(cpu, "openvino", raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    cuda.api.cache_clear()


@pytest.mark.usefixtures("only_cpu")
def test_open_auto_takes_the_first_that_runs_and_says_why_not_the_others(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rdeic_rt"):
        chosen = select.open_backend()
    assert chosen.backend.name == chosen.encoder.name == "cpu"
    assert list(chosen.skipped) == ["tensorrt", "cuda", "openvino"]
    assert all("pip install" in reason for reason in chosen.skipped.values())
    assert not caplog.records  # what is not there is nothing to warn of


def test_open_auto_that_is_stopped_takes_no_other_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_OPENERS", dict.fromkeys(select.NAMES, unavailable))
    with stopping.asked_by(lambda: CancelledError("interrupted")), pytest.raises(CancelledError):
        select.open_backend()


@pytest.mark.usefixtures("only_cpu")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tensorrt", r"cuda-python cannot be imported .*pip install 'cuda-python>=12.9'"),
        ("cuda", r"has no CUDAExecutionProvider.*pip install .*onnxruntime-gpu`"),
        ("openvino", r"OpenVINO cannot be imported .*pip install 'rdeic-rt\[openvino\]'"),
    ],
)
def test_open_backend_that_is_not_installed_says_what_to_do(name: str, reason: str) -> None:
    with pytest.raises(BackendUnavailableError, match=rf"^{name}: .*{reason}"):
        select.open_backend(name)


@pytest.mark.parametrize(("option", "value"), [("max_vram", 0), ("precision", "fp8")])
def test_open_with_an_option_out_of_range_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} .*{value}"):
        select.open_backend("cpu", **{option: value})


def test_open_tensorrt_encodes_on_the_cpu(tensorrt: Any, micro_folder: Path) -> None:
    fake_tensorrt.write_plans(micro_folder)
    chosen = select.open_backend("tensorrt", bundle=bundle.read(micro_folder))
    assert (chosen.backend.name, chosen.encoder.name) == ("tensorrt", "cpu")


def test_open_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="auto, tensorrt, cuda, openvino, cpu"):
        select.open_backend("vulkan")


@pytest.mark.parametrize("threads", [0, -1])
def test_open_without_threads_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        select.open_backend("cpu", threads=threads)


def no_memory(options: Options) -> Backend:
    raise DeviceMemoryError("cudaMemPoolCreate: cudaErrorMemoryAllocation (2): no such CPU")


def test_open_auto_past_a_gpu_that_another_process_has_filled_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(select, "_OPENERS", {"cuda": no_memory, "cpu": select._open_cpu})
    with caplog.at_level(logging.WARNING, "rdeic_rt"):
        chosen = select.open_backend()
    assert chosen.backend.name == "cpu"
    assert chosen.skipped["cuda"].startswith("cuda: cudaMemPoolCreate: ")
    assert "cudaMemPoolCreate" in caplog.text
    assert select.availability()["cuda"] == chosen.skipped["cuda"]
    with pytest.raises(DeviceMemoryError):
        select.open_backend("cuda")


@pytest.mark.parametrize(
    "function", ["cudaMemPoolCreate", "cudaStreamCreateWithFlags", "cudaGetDeviceProperties", "cudaDriverGetVersion"]
)
def test_load_auto_where_opening_the_gpu_fails_falls_back(
    tensorrt: Any, cuda: FakeCuda, micro_folder: Path, function: str
) -> None:
    fake_tensorrt.write_plans(micro_folder)
    cuda.failures[function, 1] = Error.cudaErrorMemoryAllocation
    codec = rdeic_rt.load(micro_folder)
    assert codec.backend in ("openvino", "cpu")
    assert function in codec.skipped_backends["tensorrt"]


def test_load_auto_where_tensorrt_cannot_start_falls_back(
    tensorrt: Any, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its binding raises TypeError where the library returns nothing: CUDA cannot start, or the driver is too old."""
    fake_tensorrt.write_plans(micro_folder)
    tensorrt.failing.add("runtime")
    codec = rdeic_rt.load(micro_folder)
    assert codec.backend in ("openvino", "cpu")
    assert re.search("tensorrt-rtx 1.7.0 cannot start: CUDA initialization failure", codec.skipped_backends["tensorrt"])


@pytest.mark.parametrize(("opener", "warns"), [(unavailable, True), (absent, False)])
def test_open_auto_past_a_backend_that_is_there_and_fails_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, opener: Callable[[Options], Backend], warns: bool
) -> None:
    monkeypatch.setattr(select, "_OPENERS", {"openvino": opener, "cpu": select._open_cpu})
    with caplog.at_level(logging.WARNING, "rdeic_rt"):
        assert select.open_backend().skipped["openvino"].startswith("openvino: no")
    assert ("no such CPU" in caplog.text) == warns


def test_open_when_nothing_runs_gives_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_OPENERS", {"cpu": unavailable})
    with pytest.raises(BackendUnavailableError, match=r"no backend can run here: tensorrt: .*no such CPU"):
        select.open_backend()


def test_availability_covers_every_name() -> None:
    reasons = select.availability()
    assert tuple(reasons) == select.NAMES
    assert reasons["cpu"] is None


def test_choose_form_takes_what_the_backend_prefers_and_names_what_is_missing(micro_folder: Path) -> None:
    backend = select.open_backend("cpu").backend
    found = bundle.read(micro_folder)
    assert select.choose_form(backend, found, "control", "auto").form == "fp32"
    assert select.choose_form(backend, found, "control", "fp32").id == "control"
    with pytest.raises(BackendUnavailableError, match=r"in fp32, not in fp16.*build_engines\.py --bundle"):
        select.choose_form(backend, found, "control", "fp16")
    with pytest.raises(ValueError, match="auto, fp32, fp16, int8"):
        select.choose_form(backend, found, "control", "fp8")


def test_choose_form_on_a_cpu_is_the_8_bit_one_made_for_it_unless_told_otherwise(
    micro_folder: Path,
) -> None:
    backend = select.open_backend("cpu").backend
    found = bundle.read(micro_folder)
    forms = {form: replace(found.reference("control"), form=form) for form in ("fp32", "int8", "int8-cpu")}
    found = replace(found, graphs={"control": forms})
    assert select.choose_form(backend, found, "control", "auto").form == "int8-cpu"
    assert select.choose_form(backend, found, "control", "int8").form == "int8-cpu"
    assert select.choose_form(backend, found, "control", "fp32").form == "fp32"


def test_choose_form_takes_the_order_that_the_bundle_measured(micro_folder: Path) -> None:
    backend = select.open_backend("cpu").backend
    found = bundle.read(micro_folder)
    forms = {form: replace(found.reference("control"), form=form) for form in ("fp16", "int8-cpu")}
    for preferred in (("fp16", "int8-cpu"), ("int8-cpu",)):
        ordered = replace(found, graphs={"control": forms}, preferred={"cpu": preferred})
        assert select.choose_form(backend, ordered, "control", "auto").form == preferred[0]
    assert ordered.reference("control").form == "fp16"  # of encoders, whatever decodes
