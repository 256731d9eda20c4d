"""Every name that is used of TensorRT, and every call with its arguments, against the real bindings of both libraries.

TensorRT itself takes gigabytes, and does nothing without a GPU. Its binding is 1.3 MB, and is imported here over
libraries that return nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt.backends.tensorrt import library as trt_library
from rdeic_rt.backends.tensorrt import plans
from tests.conftest import REPOSITORY, missing

from . import trt_bindings

BINDING = "tensorrt_bindings"
MAJOR = 11
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")
# What the binding takes from them; nothing else is in them.
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libraries of TensorRT's names."""
    if importlib.util.find_spec(BINDING) is None:
        missing("the package tensorrt-cu13-bindings")
    compiler = shutil.which("cc") or shutil.which("gcc") or missing("a C compiler")
    folder = tmp_path_factory.mktemp("stubs")
    source = folder / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        name = f"{library}.so.{MAJOR}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True)
    return folder


def run(stubs: Path, *words: str) -> str:
    """Return what Python writes that finds the stubs."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(stubs)}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "runtime")])
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def classic(stubs: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(stubs, "-m", trt_bindings.__name__, BINDING))
    return found


def test_tensorrt_has_every_name_and_takes_every_call(classic: dict[str, Any]) -> None:
    calls = {**trt_bindings.CALLS, **trt_bindings.CLASSIC_CALLS}
    assert trt_bindings.problems(classic, trt_bindings.NAMES, calls) == []


def test_tensorrt_lacks_what_is_asked_for_before_it_is_used(classic: dict[str, Any]) -> None:
    """If one of these appears, what was written for TensorRT for RTX alone wants another look."""
    assert not set(trt_bindings.GUARDED) & set(classic["names"])


def test_tensorrt_for_rtx_has_every_name_and_takes_every_call() -> None:
    trt = pytest.importorskip(plans.MODULES["tensorrt-rtx"])
    calls = {**trt_bindings.CALLS, **trt_bindings.RTX_CALLS}
    names = (*trt_bindings.NAMES, *trt_bindings.RTX_NAMES, *trt_bindings.GUARDED)
    assert trt_bindings.problems(trt_bindings.described(trt), names, calls) == []


def test_runtime_that_does_not_start_is_a_type_error_of_the_binding(classic: dict[str, Any]) -> None:
    assert classic["start"] == "pybind11::init(): factory function returned nullptr"


def test_open_library_that_does_not_start_says_so(stubs: Path) -> None:
    code = f"""if True:
        import sys
        import {BINDING}
        from rdeic_rt.errors import BackendUnavailableError
        from {trt_library.__name__} import open_library
        sys.modules["tensorrt"] = {BINDING}
        try:
            open_library("tensorrt")
        except BackendUnavailableError as error:
            print(error)
    """
    assert run(stubs, "-c", code).startswith(f"tensorrt {MAJOR}.")
