"""Builds what is released, as `python -m build` does, and configures librdeic."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build(kind: str, source: Path, folder: Path) -> Path:
    """Return the ``sdist`` or ``wheel`` of a source tree, the one file that is made in a folder."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob({"sdist": "*.tar.gz", "wheel": "*.whl"}[kind])
    return made


def configured(source: Path, folder: Path, *options: str) -> Path:
    """Return a folder in which CMake has configured librdeic of a source tree; skip where it lacks what that needs."""
    onnxruntime = ROOT / "runtime" / "cpp" / ".dependencies" / "onnxruntime"
    given = [*options, *([f"-DONNXRUNTIME_ROOT={onnxruntime}"] if onnxruntime.is_dir() else [])]
    command = ["cmake", "-S", str(source), "-B", str(folder), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    if done.returncode and re.search(r"Could (NOT find|not find a package configuration file)", said):
        pytest.skip("what librdeic needs is not installed")
    assert done.returncode == 0, said
    return folder
