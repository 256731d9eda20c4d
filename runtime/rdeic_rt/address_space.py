"""Too little memory: how much address space is left under ``ulimit -v``, and which errors a shortage causes.

Libraries reserve far more address space than they use, and some of them end the process, or wait for ever, if they
get none. Too small a limit is therefore rejected before they are loaded.
"""

from __future__ import annotations

import os

from .errors import DeviceMemoryError

NUMPY_BYTES = 220 * 2**20
"""What it takes to load numpy and Pillow: OpenBLAS ends the process where it gets less."""
OPENVINO_BYTES = 2 * 2**30
"""What OpenVINO takes to compile graphs of a few megabytes, and more; with less it may wait for ever."""


_SHORTAGES = (
    "bad_alloc",
    "Cannot allocate memory",
    "cannot allocate memory",
    "can't start new thread",
    "Failed to allocate memory",
    "failed to map segment",
    "pthread_create failed",
    "Resource temporarily unavailable",
)


def left_bytes() -> int | None:
    """Return how many bytes are left; None where there is no bound, or it is not known."""
    try:
        import resource

        bounds = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        if all(bound == resource.RLIM_INFINITY for bound in bounds):
            return None
        with open("/proc/self/statm", encoding="ascii") as stream:
            pages = [int(field) for field in stream.read().split()]
        page_bytes = resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
    used = (pages[0] * page_bytes, pages[5] * page_bytes)
    return min(bound - taken for bound, taken in zip(bounds, used, strict=True) if bound != resource.RLIM_INFINITY)


def is_shortage(error: BaseException) -> bool:
    """Return whether an error of any library is caused by too little memory or too few threads."""
    if isinstance(error, MemoryError):
        return True
    kinds = (ImportError, OSError, RuntimeError, SystemError)
    return (isinstance(error, kinds) or type(error).__module__.startswith("onnxruntime")) and any(
        words in str(error) for words in _SHORTAGES
    )


def check() -> None:
    """Check that numpy can be loaded; for use in a process of our own, before numpy is imported.

    Raises:
        DeviceMemoryError: there is too little address space for it.
    """
    # For threads that are hardly used here, OpenBLAS takes memory for each core. Where it gets none, it prints lines of
    # its own and sends the process SIGINT, which is no Ctrl-C.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    left = left_bytes()
    if left is not None and left < NUMPY_BYTES:
        raise DeviceMemoryError(
            f"{max(left, 0) // 2**20} MB of address space are left to this process, and to load its libraries takes "
            f"{NUMPY_BYTES // 2**20} MB. Raise the limit (ulimit -v, ulimit -d)."
        )
