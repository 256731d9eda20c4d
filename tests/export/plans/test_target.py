"""What plans are built for, with the real TensorRT for RTX and a GPU that is not there."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from rdeic_export.plans import target as targets
from rdeic_rt.backends.gpu import cuda
from rdeic_rt.backends.tensorrt import plans as stored
from rdeic_rt.errors import BackendError, ExportError

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")


def no_gpu() -> Any:
    raise BackendError("none")


def gpu(capability: int) -> cuda.Device:
    return cuda.Device(0, "Some GPU", capability, 2**30, "13.0", "13.0")


def test_capabilities_that_the_library_has_are_those_that_the_runtime_knows() -> None:
    names = tensorrt_rtx.ComputeCapability.__members__
    assert {int(name[2:]) for name in names if name.startswith("SM")} == set(stored.RTX_CAPABILITIES)
    assert set(targets.PORTABLE) <= set(stored.RTX_CAPABILITIES)


def test_capabilities_without_a_gpu_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device_facts", no_gpu)
    assert targets.capabilities("tensorrt-rtx", []) == targets.PORTABLE
    assert targets.capabilities("tensorrt-rtx", [89, 86]) == (86, 89)


@pytest.mark.parametrize("capability", [90, 100, 103])
def test_capability_that_only_tensorrt_has_is_refused_in_one_sentence(capability: int) -> None:
    with pytest.raises(ExportError, match=rf"does not run on sm_{capability}, TensorRT does.*tensorrt-classic"):
        targets.capabilities("tensorrt-rtx", [89, capability])


@pytest.mark.parametrize(
    ("here", "said"), [(90, "does not run on sm_90"), (121, "`--target 121` builds for it"), (89, "")]
)
def test_build_that_leaves_out_the_gpu_here_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, here: int, said: str
) -> None:
    monkeypatch.setattr(cuda, "device_facts", lambda: gpu(here))
    with caplog.at_level(logging.WARNING, "build_engines"):
        assert targets.capabilities("tensorrt-rtx", []) == targets.PORTABLE
    assert said in caplog.text
    assert bool(caplog.records) == bool(said)
