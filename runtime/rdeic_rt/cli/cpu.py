"""The CPU and its vector instructions, as far as the system tells: what 8-bit and bfloat16 graphs are fast with."""

from __future__ import annotations

import os
import platform
from pathlib import Path

UNKNOWN = "unknown"
_CPUINFO = Path("/proc/cpuinfo")  # of Linux; emulators show the host's
# Name here -> Linux's names, of which any one will do. VNNI adds products of bytes in 32 bits; what has AVX2 or AVX-512
# without it adds them in pairs, in 16 bits.
_FLAGS = {
    "avx2": {"avx2"},
    "avx512": {"avx512f"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16"},
}


def model_name() -> str:
    """Return the model's name, else the architecture's, else ``unknown``."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine() or UNKNOWN


def features() -> dict[str, bool | None]:
    """Return whether the CPU has AVX2, AVX-512, VNNI and bfloat16; None where that is not known.

    It is known on Linux on x86, which lists ``flags``.
    """
    flags = _cpuinfo().get("flags")
    found = None if flags is None else set(flags.split())
    return {name: None if found is None else not names.isdisjoint(found) for name, names in _FLAGS.items()}


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def summary() -> str:
    """Return the model's name and, in brackets, what of `features` it has."""
    return f"{model_name()} ({', '.join(name for name, has in features().items() if has)})"


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first CPU; nothing elsewhere."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.strip().partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
