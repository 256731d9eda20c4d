"""What importing and decoding bring into a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import Codec

# No module of the runtime may need these to be imported, but those that are there for one.
BLOCKED = (
    *("torch", "onnx", "tensorrt", "tensorrt_rtx", "cuda", "openvino", "matplotlib", "pytorch_msssim", "nvtx"),
    *("fsspec", "huggingface_hub", "pyarrow", "ray"),
)
MADE_FOR_ONE = {
    "rdeic_rt.backends.cpu.openvino",
    "rdeic_rt.fleet.job",
    "rdeic_rt.fleet.ledger",
    "rdeic_rt.fleet.on_ray",
}
HEAVY = (*BLOCKED, "onnxruntime", "constriction", "diffusers", "rdeic_eval")


def run(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_brings_in_no_backend() -> None:
    loaded = run("import sys, rdeic_rt; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_every_module_can_be_imported_without_heavy_libraries() -> None:
    """In a process where to import one raises an error that no module catches."""
    code = """
import importlib, pkgutil, sys

class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise RuntimeError(f"{name} is imported")

blocked, made_for_one = set(sys.argv[1].split()), set(sys.argv[2].split())
sys.meta_path.insert(0, Blocked)
import rdeic_rt
names = {module.name for module in pkgutil.walk_packages(rdeic_rt.__path__, "rdeic_rt.")} - {"rdeic_rt.__main__"}
assert made_for_one < names, made_for_one
for name in sorted(names - made_for_one):
    try:
        importlib.import_module(name)
    except RuntimeError as error:
        sys.exit(f"{name}: {error}")
assert not made_for_one & set(sys.modules), "imported by another module, and not inside a function"
for name in made_for_one:
    try:
        importlib.import_module(name)
    except RuntimeError:
        continue
    sys.exit(f"{name} needs none of these libraries: take it off the list")
print(len(names))
"""
    assert int(run(code, " ".join(BLOCKED), " ".join(MADE_FOR_ONE))) > 50


def test_import_is_quick() -> None:
    def best(code: str) -> float:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            run(code)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    # What users are promised; a quiet machine takes a tenth of it.
    assert best("import rdeic_rt") - best("pass") < 0.15


def test_every_public_name_can_be_imported_and_listed() -> None:
    for name in rdeic_rt.__all__:
        assert getattr(rdeic_rt, name) is not None
        assert name in dir(rdeic_rt)
    with pytest.raises(AttributeError, match="no_such_name"):
        rdeic_rt.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_decode_in_a_fresh_process_needs_no_torch_and_no_analysis_graph(
    codec: Codec, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "photo.rdc").write_bytes(codec.encode(photo[:200, :150]))
    code = (
        "import sys, pathlib, rdeic_rt\n"
        "codec = rdeic_rt.load(sys.argv[1], backend='cpu')\n"
        "image = codec.decode(pathlib.Path(sys.argv[2]).read_bytes())\n"
        "assert image.shape == (200, 150, 3), image.shape\n"
        "print(*sys.modules)"
    )
    loaded = run(code, os.fspath(codec.bundle.folder), os.fspath(tmp_path / "photo.rdc")).split()
    assert not (set(HEAVY) - {"onnxruntime", "constriction"}) & set(loaded)
