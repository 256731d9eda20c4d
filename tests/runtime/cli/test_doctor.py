"""`doctor` tells what is here and whether it works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt.backends import select
from rdeic_rt.codec import Codec

from ..backends import fake_tensorrt
from ..backends.conftest import cuda, tensorrt  # noqa: F401
from .conftest import Command


def test_doctor_json_reports_and_passes(command: Command, codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--json") == 0

    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["system", "versions", "gpu", "backends", "bundles", "self_test"]
    assert list(facts["backends"]) == list(select.NAMES)
    assert facts["backends"]["cpu"] == "can run"
    assert list(facts["gpu"])[-2:] == ["tensorrt", "tensorrt-rtx"]
    assert facts["self_test"]["result"] == "passed"
    assert facts["self_test"]["backend"] == select.open_backend().backend.name
    assert str(codec.bundle.folder) in facts["bundles"]["found"]


def test_doctor_says_why_auto_passed_a_backend_over(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--json", "--precision", "fp32") == 0

    facts = json.loads(capsys.readouterr().out)
    chosen = facts["self_test"]["backend"]
    assert list(facts["self_test"]["passed_over"]) == list(select.NAMES[: select.NAMES.index(chosen)])
    if chosen == "cpu":
        assert facts["backends"]["openvino"] == "can run"
        assert "slower than cpu in float32" in facts["self_test"]["passed_over"]["openvino"]


def test_doctor_text_names_versions(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor") == 0

    out = capsys.readouterr().out
    assert "  onnxruntime: " in out
    assert "  result: passed" in out


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
