"""The fastest form of a bundle's graphs for each backend: measured if the backend runs here, otherwise by rule."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from rdeic_rt.backends import select
from rdeic_rt.codec import Codec
from rdeic_rt.errors import BackendError
from rdeic_rt.limits import DEFAULT_LIMITS
from rdeic_rt.manifest import AUTO, FORMS, Bundle

from ..forms import selection
from ..verify.fidelity import EncodedPhoto

# Preferences in ``bundle.json`` for backends that were not measured.
DEFAULT: Mapping[str, tuple[str, ...]] = {
    "cpu": ("int8-cpu", "fp32"),
    "cuda": ("fp16-cuda", "fp16", "fp32"),
    "openvino": ("fp32", "int8-cpu"),
    "tensorrt": ("fp16", "int8", "fp32"),
    "tensorrt-rtx": ("fp16", "fp32"),  # librdeic's: ONNX Runtime's provider, not plans
}
# Backends that run on the machine that builds, and forms that are not for them.
MEASURED = ("cpu", "openvino")
ELSEWHERE = ("fp16-cuda",)
RUNS = 3  # of each form, after a warm-up; the fastest counts

logger = logging.getLogger("build_engines")


def measure(bundle: Bundle, file: EncodedPhoto) -> dict[str, tuple[str, ...]]:
    """Return, for each backend that runs here, its forms, the fastest first, measured by decoding one file.

    For ``cuda``, which is not measured, it is the rule.

    Args:
        bundle: has the graphs in all forms.
        file: is decoded.
    """
    rate = bundle.rates[file.rate]
    graph_ids = [rate.graphs[role] for role in bundle.decoding_roles]
    order = {"cuda": DEFAULT["cuda"]}
    for name in MEASURED:
        try:
            opened = select.open_backend(name)
        except BackendError as error:
            logger.info("%s: not measured: %s", name, error)
            continue
        seconds = {}
        for form in FORMS:
            if form in ELSEWHERE or form not in opened.backend.forms:
                continue
            if not any(form in bundle.graphs[x] for x in graph_ids):
                continue
            try:
                seconds[form] = _seconds(selection.in_one_form(bundle, graph_ids, form), opened, file.data)
            except BackendError as error:
                logger.info("%s in %s: not measured: %s", name, form, error)
        if seconds:
            order[name] = tuple(sorted(seconds, key=lambda form: seconds[form]))
            logger.info("%s: %s", name, ", ".join(f"{form} {seconds[form] * 1000:.0f} ms" for form in order[name]))
    return order


def _seconds(bundle: Bundle, opened: select.Selection, data: bytes) -> float:
    """Return the time of a warm decode."""
    codec = Codec(bundle, opened, precision=AUTO, threads=None, limits=DEFAULT_LIMITS)
    codec.decode(data)
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        codec.decode(data)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
