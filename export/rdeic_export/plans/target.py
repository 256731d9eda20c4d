"""What plans are built for: which library, which GPUs, which sizes."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rdeic_rt.backends.gpu import cuda
from rdeic_rt.backends.tensorrt import plans as stored
from rdeic_rt.backends.tensorrt.plans import LIBRARIES, MODULES, Profile
from rdeic_rt.errors import BackendError, ExportError

# What TensorRT for RTX builds for: Ampere, Ada and Blackwell. Turing fails on the UNet, Hopper is no target of it.
# NVIDIA's matrices of supported GPUs leave out 8.0 (A100), which the library has all the same.
PORTABLE = (80, 86, 89, 120)

logger = logging.getLogger("build_engines")


@dataclass(frozen=True)
class Target:
    """What to build for.

    Attributes:
        library, version: what is installed.
        capabilities: of the devices.
        profile: sizes.
        workspace_bytes: limit of the scratch memory, or None.
    """

    library: str
    version: str
    capabilities: tuple[int, ...]
    profile: Profile
    workspace_bytes: int | None = None


def installed_library(asked: str) -> tuple[str, str]:
    """Return name and version of the library to build with.

    Args:
        asked: ``tensorrt``, ``tensorrt-rtx``, or ``auto`` for the first that is installed.

    Raises:
        ExportError: it is not installed.
    """
    reasons = []
    for library in LIBRARIES if asked == "auto" else (asked,):
        try:
            return library, str(importlib.import_module(MODULES[library]).__version__)
        except ImportError as error:
            reasons.append(f"{library}: {error}")
    raise ExportError(
        f"no TensorRT to build plans with ({'; '.join(reasons)}). Install TensorRT for RTX with "
        "`pip install -e '.[export,tensorrt]'`, or build ONNX graphs only with --library onnx."
    )


def capabilities(library: str, asked: Sequence[int]) -> tuple[int, ...]:
    """Return the compute capabilities to build for: those asked for, `PORTABLE`, or that of the GPU here.

    Raises:
        ExportError: TensorRT builds for the GPU it runs on, and there is none, or it is another one than was asked for;
            or TensorRT for RTX does not run on what was asked for.
    """
    if library == "tensorrt-rtx":
        return _of_rtx(asked)
    try:
        here = cuda.device_facts().capability
    except BackendError as error:
        raise ExportError(
            f"tensorrt builds plans on the GPU they are for: {error} Without a GPU, use --library tensorrt-rtx."
        ) from None
    if asked and tuple(asked) != (here,):
        raise ExportError(f"tensorrt builds for the GPU here, sm_{here}, not for {stored.target_of(tuple(asked))}")
    return (here,)


def _of_rtx(asked: Sequence[int]) -> tuple[int, ...]:
    names = importlib.import_module(MODULES["tensorrt-rtx"]).ComputeCapability
    for capability in asked:
        if not hasattr(names, f"SM{capability}"):
            raise ExportError(stored.beyond_rtx(capability))
    chosen = tuple(sorted(asked)) or PORTABLE
    try:
        here = cuda.device_facts().capability
    except BackendError:
        return chosen
    if not hasattr(names, f"SM{here}"):
        logger.warning("these plans are not for the GPU here: %s", stored.beyond_rtx(here))
    elif here not in chosen:
        logger.warning("these plans are not for the GPU here, sm_%d: `--target %d` builds for it", here, here)
    return chosen
