"""`doctor` tells what is here and whether it works."""

from __future__ import annotations

import json

import pytest

from rdeic_rt.backends import select
from rdeic_rt.codec import Codec

from .conftest import Command


def test_doctor_json_reports_and_passes(command: Command, codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--json") == 0

    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["system", "versions", "backends", "bundles", "self_test"]
    assert list(facts["backends"]) == list(select.NAMES)
    assert facts["backends"]["cpu"] == "can run"
    assert facts["backends"]["tensorrt"].startswith("cannot run: ")
    assert facts["self_test"]["result"] == "passed"
    assert facts["self_test"]["backend"] == "cpu"
    assert str(codec.bundle.folder) in facts["bundles"]["found"]


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
