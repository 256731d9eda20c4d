"""The CUDA driver and NVRTC, as far as kernels of our own need them, on `fake_cuda`.

NVRTC only wraps the source it is given; a launch runs what the C++ compiler of this machine made of the same source
(entropy_kernels_on_cpu.cc), in the order of the stream. An overflow of a signed integer ends the process.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from enum import IntEnum
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt.backends.gpu import entropy_layers
from tests.conftest import missing

from .fake_cuda import FakeCuda

_HERE = Path(__file__).parent
_KERNELS = Path(entropy_layers.__file__).parent
_MARK = b"fake machine code of "


class Result(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_LAUNCH_FAILED = 719


class NvrtcResult(IntEnum):
    NVRTC_SUCCESS = 0
    NVRTC_ERROR_COMPILATION = 6


def build(folder: Path) -> ctypes.CDLL:
    """Return the kernels as a library of this machine's."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        missing("a C++ compiler, which makes the kernels for the CPU,")
    library = folder / "entropy_kernels.so"
    checks = ["-Wall", "-Wextra", "-Werror", "-fsanitize=signed-integer-overflow", "-fsanitize-undefined-trap-on-error"]
    source = str(_HERE / "entropy_kernels_on_cpu.cc")
    command = [
        compiler,
        "-std=c++17",
        "-O2",
        *checks,
        "-shared",
        "-fPIC",
        f"-I{_KERNELS}",
        str(source),
        "-o",
        str(library),
    ]
    subprocess.run(command, check=True)
    made = ctypes.CDLL(str(library))
    made.arguments_bytes.restype = ctypes.c_size_t
    made.arguments_bytes.argtypes = [ctypes.c_char_p]
    made.launch.restype = None
    made.launch.argtypes = [ctypes.c_char_p, ctypes.c_void_p, *[ctypes.c_uint] * 4]
    return made


class FakeKernels:
    """What a test can ask of both, and change.

    Attributes:
        launches: how often each kernel was launched.
        compiled: the targets that something was compiled for, in order.
        failing: function of the driver -> the number of its call that fails.
        calls: how often each function of the driver was called.
        wrong: whether each launch leaves one byte wrong.
    """

    def __init__(self, cuda: FakeCuda, library: ctypes.CDLL) -> None:
        self.cuda = cuda
        self.library = library
        self.launches: Counter[str] = Counter()
        self.compiled: list[str] = []
        self.failing: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.wrong = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", FakeDriver(self))
        monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", FakeNvrtc(self))


class FakeDriver:
    """Stands for the module ``cuda.bindings.driver``."""

    CUresult = Result

    def __init__(self, kernels: FakeKernels) -> None:
        self._kernels = kernels
        self._handles = count(5000)
        self._functions: dict[int, tuple[int, str]] = {}

    def cuModuleLoadData(self, image: bytes) -> Any:
        if (failure := self._failure("cuModuleLoadData")) is not None:
            return failure, None
        if not image.startswith(_MARK):
            return Result.CUDA_ERROR_INVALID_IMAGE, None
        handle = next(self._handles)
        self._kernels.cuda.modules.add(handle)
        return Result.CUDA_SUCCESS, handle

    def cuModuleUnload(self, module: int) -> Any:
        queues = self._kernels.cuda.streams.values()
        assert not any(queue.waiting for queue in queues), "kernels may be queued"
        self._kernels.cuda.modules.remove(module)
        return (Result.CUDA_SUCCESS,)

    def cuModuleGetFunction(self, module: int, name: bytes) -> Any:
        assert module in self._kernels.cuda.modules
        if self._kernels.library.arguments_bytes(name) == 0:
            return Result.CUDA_ERROR_NOT_FOUND, None
        handle = next(self._handles)
        self._functions[handle] = (module, name.decode())
        return Result.CUDA_SUCCESS, handle

    def cuLaunchKernel(self, function: int, *given: int) -> Any:
        *sizes, shared_bytes, stream, parameters, extra = given
        grid_x, grid_y, grid_z, block_x, block_y, block_z = sizes
        assert (shared_bytes, extra, grid_z, block_z) == (0, 0, 1, 1)
        assert 0 < grid_x < 2**31 and 0 < grid_y < 2**16 and 0 < block_x * block_y <= 1024
        if (failure := self._failure("cuLaunchKernel")) is not None:
            return (failure,)
        kernels, cuda = self._kernels, self._kernels.cuda
        module, name = self._functions[function]
        address = ctypes.c_void_p.from_address(parameters).value
        assert address is not None
        arguments = ctypes.string_at(address, kernels.library.arguments_bytes(name.encode()))

        def work() -> None:
            assert module in cuda.modules
            for pointer in _pointers(entropy_layers.ARGUMENTS[name].from_buffer_copy(arguments)):
                cuda.view(pointer, 1)
            kernels.library.launch(name.encode(), arguments, grid_x, grid_y, block_x, block_y)
            if kernels.wrong and name == "run_layer":
                layer = entropy_layers.LayerArguments.from_buffer_copy(arguments)
                cuda.view(layer.out.low or layer.wide, 1)[0] ^= 1

        kernels.launches[name] += 1
        cuda.submit(stream, work)
        return (Result.CUDA_SUCCESS,)

    def _failure(self, name: str) -> Result | None:
        kernels = self._kernels
        assert kernels.cuda.has_context, "no context is current"
        kernels.calls[name] += 1
        return Result.CUDA_ERROR_LAUNCH_FAILED if kernels.failing.get(name) == kernels.calls[name] else None


class FakeNvrtc:
    """Stands for the module ``cuda.bindings.nvrtc``; it knows GPUs from 7.5 to 9.0."""

    nvrtcResult = NvrtcResult

    def __init__(self, kernels: FakeKernels) -> None:
        self._kernels = kernels

    def nvrtcVersion(self) -> Any:
        return NvrtcResult.NVRTC_SUCCESS, 13, 0

    def nvrtcGetSupportedArchs(self) -> Any:
        return NvrtcResult.NVRTC_SUCCESS, [75, 80, 86, 89, 90]

    def nvrtcCreateProgram(self, source: bytes, name: bytes, n_headers: int, *headers: Any) -> Any:
        assert (n_headers, headers) == (0, ([], []))
        return NvrtcResult.NVRTC_SUCCESS, {"source": source, "log": b"line 1: no\0"}

    def nvrtcCompileProgram(self, program: dict[str, bytes], n_options: int, options: list[bytes]) -> Any:
        assert n_options == len(options)
        if b"__global__" not in program["source"]:
            return (NvrtcResult.NVRTC_ERROR_COMPILATION,)
        target = options[0].removeprefix(b"--gpu-architecture=")
        self._kernels.compiled.append(target.decode())
        program["code"] = _MARK + target
        return (NvrtcResult.NVRTC_SUCCESS,)

    def nvrtcDestroyProgram(self, program: dict[str, bytes]) -> Any:
        return (NvrtcResult.NVRTC_SUCCESS,)

    def __getattr__(self, name: str) -> Any:
        """``nvrtcGetCUBIN``, ``nvrtcGetCUBINSize`` and the like."""
        what = "log" if "ProgramLog" in name else "code"
        if name.endswith("Size"):
            return lambda program: (NvrtcResult.NVRTC_SUCCESS, len(program[what]))

        def copy(program: dict[str, bytes], target: bytes) -> Any:
            ctypes.memmove(ctypes.c_char_p(target), program[what], len(target))
            return (NvrtcResult.NVRTC_SUCCESS,)

        return copy


def _pointers(structure: Any) -> Iterator[int]:
    """Yield what a structure's pointers hold that are not null, of inner structures too."""
    for name, kind in structure._fields_:
        value = getattr(structure, name)
        if isinstance(value, ctypes.Structure):
            yield from _pointers(value)
        elif isinstance(value, ctypes.Array):
            for item in value:
                yield from _pointers(item)
        elif kind is ctypes.c_void_p and value is not None:
            yield value
