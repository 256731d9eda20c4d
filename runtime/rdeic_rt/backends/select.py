"""The choice of a backend, and why others cannot run; `doctor` prints both.

A backend is one entry in `_OPENERS`: a function that returns it, or raises BackendUnavailableError with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from .. import address_space, stopping
from ..errors import BackendError, BackendUnavailableError, DeviceMemoryError
from ..manifest import AUTO, FORMS, PRECISIONS, Bundle, GraphSpec
from .base import Backend, BackendAbsentError, Options

# The order in which `auto` tries: fastest first. Names without an opener are known, but not part of this version.
NAMES = ("tensorrt", "cuda", "openvino", "cpu")

_log = logging.getLogger("rdeic_rt.backends.select")


@dataclass(frozen=True)
class Selection:
    """The outcome of a choice.

    Attributes:
        backend: decodes.
        encoder: runs the ``analysis`` graph when encoding; ``cpu`` if decoding runs on TensorRT (there is no plan for
            this graph) or OpenVINO (the file must not depend on it).
        skipped: name -> reason, for each backend that precedes it in the order and could not run.
    """

    backend: Backend
    encoder: Backend
    skipped: dict[str, str]


def open_backend(
    name: str = AUTO,
    *,
    threads: int | None = None,
    bundle: Bundle | None = None,
    precision: str = AUTO,
    max_vram: int | None = None,
    capture: bool = True,
    stream: object | None = None,
) -> Selection:
    """Return the backend of this name, or for ``auto`` the first that can run here.

    Args:
        name: ``auto`` or one of `NAMES`.
        threads, bundle, precision, max_vram, capture, stream: see `base.Options`.

    Raises:
        BackendUnavailableError: it cannot run here; the message states the reason and what to do.
        ValueError: no such backend or precision, threads < 1 or max_vram < 1.
    """
    if name != AUTO and name not in NAMES:
        raise ValueError(f"backend {name!r} is not one of: {', '.join((AUTO, *NAMES))}")
    if precision not in (AUTO, *PRECISIONS):
        raise ValueError(f"precision {precision!r} is not one of: {', '.join((AUTO, *PRECISIONS))}")
    for option, value in (("threads", threads), ("max_vram", max_vram)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; it must be at least 1, or None")
    options = Options(threads, bundle, precision, max_vram, capture, stream, every_rate=name == AUTO)
    skipped: dict[str, str] = {}
    for candidate in NAMES if name == AUTO else (name,):
        try:
            backend = _open(candidate, options)
            stopping.go_on()
            if name == AUTO:
                _check_fastest(backend, options)
            return Selection(backend, _encoder(backend, options), skipped)
        except BackendError as error:  # also what only shows while it is opened: another process has all the memory
            stopping.go_on()  # an import that is stopped may fail, which is no reason for another backend
            if name != AUTO:
                raise
            skipped[candidate] = _reason(candidate, error)
            if candidate in _OPENERS:
                level = logging.INFO if isinstance(error, BackendAbsentError) else logging.WARNING
                # As text: a record that is kept would keep the frames, and what they hold.
                _log.log(level, "backend %s not used: %s", candidate, skipped[candidate])
    raise BackendUnavailableError("no backend can run here: " + "; ".join(skipped.values()))


def availability() -> dict[str, str | None]:
    """Return for every backend, in the order of `auto`, why it cannot run here, or None if it can."""
    reasons: dict[str, str | None] = {}
    for name in NAMES:
        try:
            _open(name, Options())
            reasons[name] = None
        except BackendError as error:
            reasons[name] = _reason(name, error)
    return reasons


def choose_form(backend: Backend, bundle: Bundle, graph_id: str, precision: str) -> GraphSpec:
    """Return the form of a graph that the backend runs in this precision; ``auto`` selects the backend's preference.

    Raises:
        BackendUnavailableError: the bundle has the graph in none of them.
        ValueError: no such precision.
    """
    if precision not in (AUTO, *PRECISIONS):
        raise ValueError(f"precision {precision!r} is not one of: {', '.join((AUTO, *PRECISIONS))}")
    if backend.runs_plans:
        return bundle.reference(graph_id)
    have = bundle.graphs[graph_id]
    for form in bundle.preference(backend.name, precision):
        if form in have and form in backend.forms:
            return have[form]
    wanted = precision if precision != AUTO else " or ".join(form for form in FORMS if form in backend.forms)
    raise BackendUnavailableError(
        f"{backend.name}: bundle {bundle.name!r} has its graph {graph_id!r} in {' and '.join(have)}, not in {wanted}. "
        f"Build that with `python export/build_engines.py --bundle {bundle.folder} --precision {wanted}`."
    )


def _reason(name: str, error: BackendError) -> str:
    return str(error) if isinstance(error, BackendUnavailableError) else f"{name}: {error}"


def _open(name: str, options: Options) -> Backend:
    if name not in _OPENERS:
        have = ", ".join(_OPENERS)
        raise BackendUnavailableError(
            f"{name}: not part of this version of rdeic-rt (it has: {have}). Upgrade with `pip install -U rdeic-rt`,"
            f" or use backend {next(iter(_OPENERS))!r}."
        )
    return _OPENERS[name](options)


def _encoder(backend: Backend, options: Options) -> Backend:
    # Encoding runs one graph once, which is not worth a plan. On the CPU, the file does not depend on the backend.
    if backend.name in ("tensorrt", "openvino"):
        return _open_cpu(options)
    return backend.exact() if hasattr(backend, "exact") else backend


def _check_fastest(backend: Backend, options: Options) -> None:
    """Raise BackendAbsentError if a later one is faster (docs/openvino.md)."""
    if backend.name == "openvino" and options.precision != "int8" and backend.description()["arithmetic"] == "f32":
        why = "this CPU has no bfloat16" if options.precision == AUTO else f"precision {options.precision} is selected"
        raise BackendAbsentError(f"openvino: slower than cpu in float32, and {why}. Backend 'openvino' selects it.")


def _open_cpu(options: Options) -> Backend:
    try:
        from .cpu.ort import OrtBackend
    except ImportError as error:
        if address_space.is_shortage(error):
            raise DeviceMemoryError(f"cpu: too little memory to load onnxruntime ({error})") from None
        raise BackendUnavailableError(
            f"cpu: onnxruntime cannot be imported ({error}). Install it with `pip install onnxruntime`."
        ) from None
    return OrtBackend(options.threads)


def _open_cuda(options: Options) -> Backend:
    try:
        from .gpu.ort_cuda import OrtCudaBackend
    except ImportError as error:
        raise BackendUnavailableError(
            f"cuda: onnxruntime cannot be imported ({error}). Install it with `pip install --force-reinstall --no-deps "
            "onnxruntime-gpu`."
        ) from None
    return OrtCudaBackend.open(options)


def _open_tensorrt(options: Options) -> Backend:
    from .tensorrt import backend

    return backend.open_backend(options)


def _open_openvino(options: Options) -> Backend:
    left = address_space.left_bytes()
    if left is not None and left < address_space.OPENVINO_BYTES:
        raise BackendAbsentError(
            f"openvino: {left // 2**20} MB of address space are left to this process (ulimit -v), and it may take "
            f"{address_space.OPENVINO_BYTES // 2**20}. Use backend 'cpu'."
        )
    try:
        from .cpu import openvino
    except ImportError as error:
        raise BackendAbsentError(
            f"openvino: OpenVINO cannot be imported ({error}). Install it with `pip install 'rdeic-rt[openvino]'`."
        ) from None
    return openvino.open_backend(options)


_OPENERS: dict[str, Callable[[Options], Backend]] = {
    "tensorrt": _open_tensorrt,
    "cuda": _open_cuda,
    "openvino": _open_openvino,
    "cpu": _open_cpu,
}
