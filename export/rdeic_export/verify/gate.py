"""Whole decodes of the same files, float32 against what was built of it; beyond a limit the build fails.

photos ─ Reference ─▶ files, images ─┬─ derived   another form of the graphs, in ONNX Runtime
                                     └─ plans     plans, where there is a GPU
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

import rdeic_rt
from rdeic_rt.backends import select
from rdeic_rt.backends.tensorrt.plans import Plan
from rdeic_rt.codec import Codec
from rdeic_rt.errors import BackendUnavailableError, ExportError
from rdeic_rt.limits import DEFAULT_LIMITS
from rdeic_rt.manifest import AUTO, Bundle, GraphSpec, precision_of

from ..forms import derive, selection
from ..forms.derive import Derived
from ..modules.signature import sample
from ..photos import photos_in
from . import fidelity
from .exported import SIZES, rms
from .fidelity import EncodedPhoto, FidelityReport

HALF_LIMIT = 0.01  # mean difference over the rms, of a graph's outputs in float16 on random input
CROP_PX = 256  # side of the photos' middle that is decoded
MANY_BYTES = 500_000_000  # of a bundle; beyond it one photo is enough

logger = logging.getLogger("build_engines")


class Reference:
    """Encoded photos, and their float32 decodes; both are computed once, on first use.

    Attributes:
        bundle: the bundle, with float32 graphs.
        graph_ids: of the graphs that decode.
    """

    def __init__(self, bundle: Bundle, steps: Sequence[int], photos: Sequence[Path]) -> None:
        """Take what to decode.

        Args:
            bundle: has float32 graphs.
            steps: rates that can be decoded in one of these numbers of steps are.
            photos: files or folders; the middle of each is used.

        Raises:
            ExportError: there is no such rate.
        """
        self.bundle = bundle
        self.graph_ids = selection.decoding_graphs(bundle, steps)
        self._rates = [rate.index for rate in selection.rates_of(bundle, steps)]
        self._photos = photos

    @cached_property
    def files(self) -> list[EncodedPhoto]:
        """Every photo at every rate; errors as for `fidelity.encode`."""
        size = sum(entry.size_bytes for entry in self.bundle.files.values())
        paths = [path for source in self._photos for path in photos_in(source)]
        return fidelity.encode(_codec(self.bundle), paths[:1] if size > MANY_BYTES else paths, self._rates, CROP_PX)

    @cached_property
    def images(self) -> list[NDArray[np.uint8]]:
        """What they are decoded to."""
        bundle = selection.in_one_form(self.bundle, self.graph_ids, selection.REFERENCE)
        return fidelity.decode(_codec(bundle), self.files)

    def compare(self, what: str, precision: str, candidate: Codec) -> FidelityReport:
        """Return how close the images are that another codec makes; ExportError if one is too far away."""
        expected = self.images  # before the other model is loaded: two may be more than there is memory for
        images = fidelity.decode(candidate, self.files)
        return fidelity.compare(what, self.files, expected, images, fidelity.LIMIT_DB[precision])


def derived(reference: Reference, candidate: Derived) -> FidelityReport:
    """Decode the photos with derived graphs, in ONNX Runtime on the CPU, and compare with float32.

    Raises:
        ExportError: an image is further from float32 than the precision's limit, or a float16 graph from its own.
    """
    if precision_of(candidate.form) == "fp16":
        for graph in candidate.graphs.values():
            _check_half(reference.bundle.graphs[graph.spec.id][selection.REFERENCE], graph.spec)
    bundle = selection.in_one_form(
        derive.with_forms(reference.bundle, [candidate]), [*candidate.graphs], candidate.form
    )
    report = reference.compare(candidate.form, precision_of(candidate.form), _codec(bundle))
    logger.info("%s: images at %.1f dB PSNR from float32, or closer", candidate.form, report.least_db)
    return report


def plans(reference: Reference, precision: str, built: Sequence[Plan]) -> None:
    """Decode the photos with plans where there is a GPU for them, and compare with float32.

    Raises:
        ExportError: an image is further from float32 than the precision's limit; the plans are not usable any more.
    """
    folder = reference.bundle.folder
    try:
        codec = rdeic_rt.load(folder, backend="tensorrt", precision=precision, verify=False)
    except BackendUnavailableError as error:
        logger.info("plans in %s: built, and not run here: %s", precision, error)
        return
    try:
        report = reference.compare(f"plans in {precision}", precision, codec)
    except ExportError:
        for plan in built:
            plan.path.with_suffix(".json").unlink()  # a plan without its key is not found
        raise
    logger.info("plans in %s: images at %.1f dB PSNR from float32, or closer", precision, report.least_db)


def _codec(bundle: Bundle) -> Codec:
    """Return a codec on the CPU for a bundle that may be in memory alone."""
    return Codec(bundle, select.open_backend("cpu"), precision=AUTO, threads=None, limits=DEFAULT_LIMITS)


def _check_half(single: GraphSpec, half: GraphSpec) -> None:
    """Compare a graph in float16 with its own float32 form on random input; raise ExportError beyond the limit."""
    generator = torch.Generator().manual_seed(1)
    feed = {tensor.name: sample(tensor, generator, SIZES).numpy() for tensor in single.inputs}
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(all="ignore"):  # it divides by whatever is there
        runners = [OnnxrtRunner(SessionFromOnnx(str(graph.path))) for graph in (single, half)]
        (wanted,), (found,) = (iterations for _, iterations in Comparator.run(runners, data_loader=[feed]))
        limits = {name: HALF_LIMIT * rms(values) for name, values in wanted.items()}
        compare = SimpleCompareFunc(atol=limits, rtol=0.0, check_error_stat="mean", fail_fast=False)
        failed = [name for name, passed in compare(wanted, found).items() if not passed]
    if failed:
        raise ExportError(
            f"graph {single.id!r} in fp16: output {failed[0]} is off by more than {HALF_LIMIT:.0%} of its "
            "rms on average. Build it in fp32."
        )
