"""`doctor --gpu` without a GPU, and on the fakes of one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt.cli import gpu_check
from rdeic_rt.codec import Codec

from ..backends import fake_ort_cuda, fake_tensorrt
from ..backends.fake_cuda import Error, FakeCuda
from .conftest import Command

STEPS = ["another thread", "image to torch", "stream 0", "no capture", "fp16", "fp32", "encode"]


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "SIZES", ((130, 64), (70, 45)))
    monkeypatch.setattr(gpu_check, "RUNS", 4)


@pytest.fixture
def planned(golden_bundle: Path, tmp_path: Path) -> Path:
    """A whole bundle with plans that fit the fake GPU."""
    folder = Path(shutil.copytree(golden_bundle, tmp_path / "planned"))
    fake_tensorrt.write_plans(folder)
    return folder


def results(out: str) -> dict[str, dict[str, Any]]:
    return {step["step"]: step for step in json.loads(out)["steps"]}


def test_without_a_gpu_every_step_says_why_it_was_not_run(
    command: Command, cuda: FakeCuda, capsys: pytest.CaptureFixture[str], codec: Codec
) -> None:
    cuda.failures = {("cudaGetDeviceCount", n): Error.cudaErrorNoDevice for n in range(1, 20)}
    assert command("doctor", "--gpu") == 6

    table = capsys.readouterr().out
    found = {line.split("  ")[0]: line for line in table.splitlines()[3:]}
    assert list(found) == ["device", "cpu"] + [
        name for backend in gpu_check.BACKENDS for name in (backend, *(f"{backend}, {step}" for step in STEPS))
    ]
    assert "  passed " in found.pop("cpu")
    assert all("  not run " in line for line in found.values())
    assert "no NVIDIA GPU can be used (cudaGetDeviceCount: cudaErrorNoDevice" in found["device"]
    assert "onnxruntime" in found["cuda"] and "no CUDAExecutionProvider" in found["cuda"]
    assert found["cuda, stream 0"].endswith("see cuda")


def test_on_tensorrt_every_step_passes_and_tells_what_was_recorded(
    command: Command, tensorrt: Any, planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("doctor", "--gpu", "--json", "--bundle", planned, "--backend", "tensorrt") == 0

    found = results(capsys.readouterr().out)
    assert found["device"]["gpu"] == "Fake GPU, sm_89, 1.0 GiB"
    first = found["tensorrt"]
    assert first["result"] == "passed"
    assert (first["recorded"], first["given_up"]) == (2, [])
    assert {size: len(times) for size, times in first["ms"].items()} == {"130x64": 4, "70x45": 4}
    assert first["psnr_db"] > 45
    assert "entropy" in first["stages_ms"]
    passed = [name for name, step in found.items() if step["result"] == "passed"]
    assert passed == ["device", "cpu", "tensorrt"] + [
        f"tensorrt, {step}" for step in STEPS if step not in ("image to torch", "fp32")
    ]
    assert "recorded" not in found["tensorrt, no capture"]
    assert found["tensorrt, encode"]["same_file_as_cpu"] is True
    assert "torch" in found["tensorrt, image to torch"]["why"]


@pytest.mark.filterwarnings("ignore:Duplicate provider")
def test_on_cuda_every_step_but_captures_passes(
    command: Command, cuda: FakeCuda, planned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_ort_cuda.install(cuda, monkeypatch)
    assert command("doctor", "--gpu", "--bundle", planned, "--backend", "cuda") == 0

    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("cuda, no capture") and "cuda records nothing" in line for line in lines)
    assert any(line.startswith("cuda, another thread") and "psnr_db 99" in line for line in lines)


def test_a_step_that_fails_is_told_and_does_not_stop_the_others(
    command: Command, tensorrt: Any, planned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise ZeroDivisionError("of another\nkind")

    monkeypatch.setattr(gpu_check.Check, "_decode_in_another_thread", broken)
    monkeypatch.setattr(gpu_check, "LEAST_PSNR_DB", {"fp16": 200.0, "fp32": 50.0})
    assert command("doctor", "--gpu", "--json", "--bundle", planned, "--backend", "tensorrt") == 6

    captured = capsys.readouterr()
    found = results(captured.out)
    assert found["tensorrt, another thread"]["why"] == "ZeroDivisionError: of another kind"
    assert "tensorrt: tensorrt is at " in captured.err.replace("BackendError: ", "")
    assert found["tensorrt"]["result"] == "failed"
    assert "200 are the least" in found["tensorrt"]["why"]
    assert found["tensorrt, encode"]["result"] == "passed"


def test_without_a_bundle_there_is_nothing_to_compare_with(
    command: Command, tensorrt: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("doctor", "--gpu", "--json", "--bundle", "no-such", "--backend", "tensorrt") == 6

    found = results(capsys.readouterr().out)
    assert found["cpu"]["result"] == "failed"
    assert found["tensorrt"]["why"] == "nothing to compare with, see cpu"
