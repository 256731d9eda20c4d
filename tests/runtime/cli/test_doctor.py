"""`doctor` tells what is here and whether it works."""

from __future__ import annotations

import importlib
import json
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt.backends import select
from rdeic_rt.cli import cpu
from rdeic_rt.codec import Codec
from rdeic_rt.entropy import coder

from ..backends import fake_tensorrt
from .conftest import Command

# Of /proc/cpuinfo; the second CPU must not count, nor names that only begin like one of the flags.
HASWELL = """processor\t: 0
model name\t: Intel(R) Core(TM) i7-4770
flags\t\t: fpu sse4_1 fma avx avx2 bmi2

processor\t: 1
flags\t\t: fpu avx2 avx512f
"""
ALDER_LAKE = "processor\t: 0\nmodel name\t: 12th Gen Intel(R)\nflags\t\t: avx2 avx_vnni avx512_bf16_no\n\n"
SAPPHIRE_RAPIDS = "model name\t: Intel(R) Xeon(R)\nflags\t\t: avx2 avx512f avx512_vnni avx512_bf16 amx_bf16\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd i8mm bf16\n\n"


def test_doctor_json_reports_and_passes(command: Command, codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--json") == 0

    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["system", "versions", "range_coder", "gpu", "backends", "bundles", "self_test"]
    assert list(facts["backends"]) == list(select.NAMES)
    assert facts["system"]["cpu"] == cpu.model_name()
    assert list(facts["system"]["cpu_features"]) == ["avx2", "avx512", "vnni", "bf16"]
    assert facts["backends"]["cpu"] == "can run"
    assert list(facts["gpu"])[-2:] == ["tensorrt", "tensorrt-rtx"]
    assert facts["self_test"]["result"] == "passed"
    assert facts["self_test"]["backend"] == select.open_backend().backend.name
    assert facts["self_test"]["runs_on"] == select.open_backend().backend.description()
    assert str(codec.bundle.folder) in facts["bundles"]["found"]


def test_doctor_says_why_auto_passed_a_backend_over(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--json", "--precision", "fp32") == 0

    facts = json.loads(capsys.readouterr().out)
    chosen = facts["self_test"]["backend"]
    assert list(facts["self_test"]["passed_over"]) == list(select.NAMES[: select.NAMES.index(chosen)])
    if chosen == "cpu":
        assert facts["backends"]["openvino"] == "can run"
        assert "slower than cpu in float32" in facts["self_test"]["passed_over"]["openvino"]


@pytest.mark.parametrize("name", ["constriction_coder", "range_coder"])
def test_doctor_names_the_range_coder(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    module = importlib.import_module(f"rdeic_rt.entropy.{name}")
    monkeypatch.setattr(coder, "implementation", lambda: module)

    assert command("doctor", "--json") == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["range_coder"] == module.NAME
    assert facts["range_coder"].startswith("constriction" if name == "constriction_coder" else "rdeic_rt's own")


def test_doctor_says_all_that_matters_in_some_lines_and_the_verdict_in_the_last(
    command: Command, codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("doctor", "--backend", "cpu") == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 20
    assert f", onnxruntime {version('onnxruntime')}" in next(line for line in lines if line.startswith("packages: "))
    for name, why in select.availability().items():
        assert f"  {name}: {'can run' if why is None else 'cannot run: '}" in "\n".join(lines)
    assert any(str(codec.bundle.folder) in line for line in lines)
    assert re.fullmatch(r"ready: cpu \(onnxruntime .*\), self-test passed in \d+\.\d s", lines[-1])

    assert command("doctor", "--backend", "cpu", "-v") == 0
    verbose = capsys.readouterr().out.splitlines()
    assert "  result: passed" in verbose
    assert verbose[-1].startswith("ready: cpu (")


@pytest.mark.parametrize("words", [(), ("-v",)])
def test_doctor_verdict_says_what_is_wrong(
    command: Command, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("doctor", "--bundle", "no-such", *words) == 5
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("not ready: the self-test failed: no bundle 'no-such'")


@pytest.mark.parametrize(
    ("cpuinfo", "model", "expected"),
    [
        (HASWELL, "Intel(R) Core(TM) i7-4770", {"avx2": True, "avx512": False, "vnni": False, "bf16": False}),
        (ALDER_LAKE, "12th Gen Intel(R)", {"avx2": True, "avx512": False, "vnni": True, "bf16": False}),
        (SAPPHIRE_RAPIDS, "Intel(R) Xeon(R)", {"avx2": True, "avx512": True, "vnni": True, "bf16": True}),
        (ARM, "machine", {"avx2": None, "avx512": None, "vnni": None, "bf16": None}),
        (None, "machine", {"avx2": None, "avx512": None, "vnni": None, "bf16": None}),
    ],
)
def test_cpu_says_what_linux_says_and_unknown_elsewhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpuinfo: str | None,
    model: str,
    expected: dict[str, bool | None],
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "machine")
    assert cpu.model_name() == model
    assert cpu.features() == expected


def test_doctor_on_another_system_says_unknown(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "no-such")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "")
    assert command("doctor", "-v") == 0
    out = capsys.readouterr().out
    assert "  cpu: unknown\n" in out and "    vnni: unknown\n" in out
    assert command("doctor") == 0
    assert "\ncpu: unknown, " in capsys.readouterr().out
    assert command("doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out)["system"]["cpu_features"]["vnni"] is None


@pytest.mark.parametrize(("words", "code"), [(["--bundle", "no-such"], 5), (["--backend", "cuda"], 6)])
def test_doctor_failed_self_test_is_reported_and_ends_in_its_code(
    command: Command, capsys: pytest.CaptureFixture[str], words: list[str], code: int
) -> None:
    assert command("doctor", "--json", *words) == code

    assert json.loads(capsys.readouterr().out)["self_test"]["result"].startswith("failed: ")


def test_doctor_with_a_gpu_shows_it_and_which_plans_are_used(
    command: Command,
    tensorrt: Any,  # noqa: F811
    micro_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RDEIC_RT_BUNDLES", str(micro_folder.parent))

    def look() -> Any:
        assert command("doctor", "--json", "--backend", "cpu") == 0
        return json.loads(capsys.readouterr().out)

    fake_tensorrt.write_plans(micro_folder, version="1.6.0")
    found = look()["bundles"]["found"][str(micro_folder)]
    assert "plans tensorrt-rtx-1.6.0-sm_80+86+89-fp16: not used: " in found
    assert "version 1.6.0 instead of 1.7.0" in found

    fake_tensorrt.write_plans(micro_folder)
    facts = look()
    assert facts["gpu"]["gpu"] == "Fake GPU, sm_89, 1.0 GiB"
    assert facts["gpu"]["free"] == "1.0 GiB"
    assert facts["gpu"]["tensorrt-rtx"] == "can be used, 1.7.0"
    assert facts["backends"]["tensorrt"] == "can run"
    assert "tensorrt uses those of tensorrt-rtx 1.7.0 in fp16" in facts["bundles"]["found"][str(micro_folder)]
