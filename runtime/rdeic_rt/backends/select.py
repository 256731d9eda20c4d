"""What `auto` takes and why the others could not run; `doctor` prints it.

A backend is one entry in `_OPENERS`: a function that returns it, or raises BackendUnavailableError with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..bundle import Bundle, GraphSpec
from ..errors import BackendUnavailableError
from .base import Backend

AUTO = "auto"
# The order in which `auto` tries: fastest first. Names without an opener are known, but not part of this version.
NAMES = ("tensorrt", "cuda", "openvino", "cpu")
PRECISIONS = ("fp32", "fp16", "int8")

_log = logging.getLogger("rdeic_rt.backends.select")


@dataclass(frozen=True)
class Selection:
    """The outcome of a choice.

    Attributes:
        backend: what runs.
        skipped: name -> reason, for each backend that comes before it in the order and could not run.
    """

    backend: Backend
    skipped: dict[str, str]


def open_backend(name: str = AUTO, *, threads: int | None = None) -> Selection:
    """Return the backend of this name, or for ``auto`` the first that can run here.

    Args:
        name: ``auto`` or one of `NAMES`.
        threads: CPU threads of one graph run; None leaves it to the backend.

    Raises:
        BackendUnavailableError: it cannot run here; says why, and what to do.
        ValueError: no such backend, or threads < 1.
    """
    if name != AUTO and name not in NAMES:
        raise ValueError(f"backend {name!r} is not one of: {', '.join((AUTO, *NAMES))}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1, or None")
    skipped: dict[str, str] = {}
    for candidate in NAMES if name == AUTO else (name,):
        try:
            return Selection(_open(candidate, threads), skipped)
        except BackendUnavailableError as error:
            skipped[candidate] = str(error)
            if candidate in _OPENERS and name == AUTO:
                _log.warning("backend %s not used: %s", candidate, error)
    if name != AUTO:
        raise BackendUnavailableError(skipped[name])
    raise BackendUnavailableError("no backend can run here: " + "; ".join(skipped.values()))


def availability() -> dict[str, str | None]:
    """Return for every backend, in the order of `auto`, why it cannot run here, or None if it can."""
    reasons: dict[str, str | None] = {}
    for name in NAMES:
        try:
            _open(name, threads=None)
            reasons[name] = None
        except BackendUnavailableError as error:
            reasons[name] = str(error)
    return reasons


def choose_form(backend: Backend, bundle: Bundle, graph_id: str, precision: str) -> GraphSpec:
    """Return the form of a graph that the backend runs in this precision; ``auto`` takes what the backend prefers.

    Raises:
        BackendUnavailableError: the bundle has the graph in none of them.
        ValueError: no such precision.
    """
    if precision not in (AUTO, *PRECISIONS):
        raise ValueError(f"precision {precision!r} is not one of: {', '.join((AUTO, *PRECISIONS))}")
    have = bundle.forms(graph_id)
    for form in backend.forms[precision]:
        if form in have:
            return have[form]
    wanted = precision if precision != AUTO else " or ".join(backend.forms[AUTO])
    raise BackendUnavailableError(
        f"{backend.name}: bundle {bundle.name!r} has its graph {graph_id!r} in {' and '.join(have)}, not in {wanted}. "
        f"Build that with `python export/build_engines.py --bundle {bundle.folder} --precision {wanted}`."
    )


def _open(name: str, threads: int | None) -> Backend:
    if name not in _OPENERS:
        have = ", ".join(_OPENERS)
        raise BackendUnavailableError(
            f"{name}: not part of this version of rdeic-rt (it has: {have}). Upgrade with `pip install -U rdeic-rt`,"
            f" or use backend {next(iter(_OPENERS))!r}."
        )
    return _OPENERS[name](threads)


def _open_cpu(threads: int | None) -> Backend:
    try:
        from .ort import OrtBackend
    except ImportError as error:
        raise BackendUnavailableError(
            f"cpu: onnxruntime cannot be imported ({error}). Install it with `pip install onnxruntime`."
        ) from None
    return OrtBackend(threads)


_OPENERS: dict[str, Callable[[int | None], Backend]] = {"cpu": _open_cpu}
