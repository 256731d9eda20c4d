"""CUDA C++ compiled for one GPU by NVRTC. What was compiled is kept in the user's cache folder.

Importing this module needs neither cuda-python nor NVRTC; the first compilation does.
"""

from __future__ import annotations

import hashlib
import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from ... import files, user_cache
from ...errors import BackendError
from ..base import BackendAbsentError
from .cuda import results

_OPTIONS = ("--std=c++17",)
_DIGEST_BYTES = 32

_log = logging.getLogger("rdeic_rt.backends.gpu.nvrtc")


def compiled(name: str, source: bytes, capability: int) -> bytes:
    """Return the machine code of a source for a compute capability, 89 for 8.9: compiled now, or kept from before.

    For a GPU that NVRTC does not know it is PTX for the latest one before it, which the driver compiles.

    Args:
        name: of the source, for messages and the kept file.
        source: CUDA C++; reads no other file.
        capability: of the GPU.

    Raises:
        BackendAbsentError: NVRTC is not installed.
        BackendError: it does not compile the source; the message has what it says.
    """
    target = _target(capability)
    path = _kept_at(name, source, target)
    if path is None:
        return compile_for(name, source, target)
    image = _kept(path)
    if image is None:
        image = compile_for(name, source, target)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.atomic_write(path, _digest(image) + image)
        except OSError as error:
            _log.info("%s: not kept (%s)", path, error)
    return image


def compile_for(name: str, source: bytes, target: str) -> bytes:
    """Return a source compiled for a target, ``sm_89`` (machine code) or ``compute_89`` (PTX); errors as `compiled`."""
    program = _call("nvrtcCreateProgram", source, name.encode(), 0, [], [])
    try:
        options = [option.encode() for option in (f"--gpu-architecture={target}", *_OPTIONS)]
        try:
            _call("nvrtcCompileProgram", program, len(options), options)
        except BackendError as error:
            said = _bytes_of(program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")
            raise BackendError(f"{error}: {said}") from None
        return _bytes_of(program, "nvrtcGetCUBIN" if target.startswith("sm_") else "nvrtcGetPTX")
    finally:
        _api().nvrtcDestroyProgram(program)


def known_capabilities() -> list[int]:
    """Return the compute capabilities that NVRTC compiles for, 89 for 8.9; errors as `compiled`."""
    return sorted(map(int, _call("nvrtcGetSupportedArchs")))


def _target(capability: int) -> str:
    known = known_capabilities()
    if capability in known:
        return f"sm_{capability}"
    before = [each for each in known if each < capability]
    if not before:
        raise BackendError(f"NVRTC compiles for sm_{known[0]} and later, not for sm_{capability}")
    return f"compute_{before[-1]}"


def _kept_at(name: str, source: bytes, target: str) -> Path | None:
    """Return the file for this source, target, version and options; None for a user without a cache folder."""
    folder = user_cache.folder("kernels")
    if folder is None:
        return None
    version = ".".join(map(str, _call("nvrtcVersion")))
    made_of = _digest("\0".join((version, *_OPTIONS, "")).encode() + source).hex()
    return folder / f"{name}-{made_of[:16]}-{target}.kernels"


def _kept(path: Path) -> bytes | None:
    """Return what was compiled before, which is kept behind its digest; None if it is not there, or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, image = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return image if digest == _digest(image) else None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _bytes_of(program: Any, function: str) -> bytes:
    """Return what one of NVRTC's functions writes to memory of the caller's, as long as its ``...Size`` says."""
    made = bytes(_call(f"{function}Size", program))
    _call(function, program, made)  # which writes into it, as cuda-python wants it
    return made


def _call(name: str, *arguments: Any) -> Any:
    """Return what a function of NVRTC returns beside its code: nothing, a value, or a tuple."""
    try:
        code, *values = getattr(_api(), name)(*arguments)
    except RuntimeError as error:  # the library is loaded in the first call
        raise BackendAbsentError(_absent(error)) from None
    if code != _api().nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"{name}: {code.name} ({int(code)})")
    return results(values)


def _api() -> Any:
    try:
        return import_module("cuda.bindings.nvrtc")
    except ImportError as error:
        raise BackendAbsentError(_absent(error)) from None


def _absent(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return f"NVRTC cannot be loaded ({first_line}). Install it with `pip install nvidia-cuda-nvrtc`"
