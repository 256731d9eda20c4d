"""Nothing is sent, and nothing left in the user's folders: the telemetry of the libraries that run networks is off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, rdeic_rt
codec = rdeic_rt.load(sys.argv[1], backend=sys.argv[3])
codec.decode(open(sys.argv[2], "rb").read())
print(os.environ["ORT_DISABLE_TELEMETRY"], "openvino_telemetry" in sys.modules)
"""


def decode(golden_bundle: Path, backend: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = {**environment, "XDG_CACHE_HOME": "", **variables}
    file = golden_bundle.parent / "coffee_r0.rdc"
    words = [sys.executable, "-c", PROGRAM, str(golden_bundle), str(file), backend]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_decode_leaves_nothing_behind_and_says_nothing(golden_bundle: Path, tmp_path: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    done = decode(golden_bundle, backend, HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 False\n", "")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that nobody can write to")
@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_decode_with_a_home_that_cannot_be_written_to_says_nothing(golden_bundle: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    done = decode(golden_bundle, backend, HOME="/proc")
    assert (done.returncode, done.stderr) == (0, "")


def test_users_choice_is_left(golden_bundle: Path, tmp_path: Path) -> None:
    assert decode(golden_bundle, "cpu", HOME=str(tmp_path), ORT_DISABLE_TELEMETRY="0").stdout == "0 False\n"
