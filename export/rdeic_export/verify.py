"""What was built against what it was built from; beyond a limit the build fails.

graph        PyTorch against ONNX Runtime, every graph, at a size that the exporter never saw
end_to_end   whole decodes of the same files: float32 against every other precision, in ONNX Runtime
             and, where there is a GPU, in the plans
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator, SimpleCompareFunc
from polygraphy.logger import G_LOGGER
from torch import nn

import rdeic_rt
from rdeic_rt import bundle as bundles
from rdeic_rt.errors import BackendUnavailableError, ExportError
from rdeic_rt.plans import Plan

from . import fidelity, forms
from .fidelity import Encoded, FidelityReport
from .modules.spec import GraphSpec, sample
from .onnx_export import tensors_of
from .photos import photos_in

SIZES = {"batch": 1, "hz": 3, "wz": 4}
FLOAT_LIMIT = 1e-3  # largest difference over the output's rms: fp32 arithmetic in another order
PIXEL_LIMIT = 1  # levels of 255: a value on a rounding boundary may fall either way
INDEX_LIMIT = 0.01  # fraction of code vectors that may differ: ties, on random input
HALF_LIMIT = 0.01  # mean difference over the rms, of a graph's outputs in float16 on random input
CROP_PX = 256  # side of the photos' middle that is decoded
MANY_BYTES = 500_000_000  # of a bundle; beyond it one photo is enough

logger = logging.getLogger("build_engines")


@torch.no_grad()
def graph(module: nn.Module, spec: GraphSpec, path: Path) -> dict[str, float]:
    """Return the error of each output of an exported graph against its module.

    Args:
        module: what was exported, its weights rounded as they are stored.
        spec: the graph's inputs and outputs.
        path: the ONNX file.

    Raises:
        ExportError: an output is further off than its limit.
    """
    generator = torch.Generator().manual_seed(1)
    inputs = [sample(tensor, generator, SIZES) for tensor in spec.inputs]
    names = [tensor.name for tensor in spec.inputs]
    expected = tensors_of(module(*spec.arguments(inputs)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    actual = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    errors = {}
    for tensor, want, got in zip(spec.outputs, expected, actual, strict=True):
        error, limit = _compare(tensor.dtype, want.numpy(), got)
        errors[tensor.name] = error
        if not error <= limit:
            raise ExportError(f"graph {spec.name}, output {tensor.name}: error {error:.3g} is over the limit {limit:g}")
    return errors


def _compare(dtype: str, want: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    if want.shape != got.shape:
        return float("inf"), 0.0
    if dtype == "int64":
        return float(np.mean(want != got)), INDEX_LIMIT
    difference = float(np.abs(want.astype(np.float64) - got.astype(np.float64)).max())
    if dtype == "uint8":
        return difference, PIXEL_LIMIT
    return difference / max(_rms(want), 1e-12), FLOAT_LIMIT


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values.astype(np.float64)).mean()))


def derived_forms(
    folder: Path, wanted: Sequence[str], steps: Sequence[int], derive: forms.Derive, photos: Sequence[Path]
) -> dict[str, FidelityReport]:
    """Decode photos in derived forms, in ONNX Runtime on the CPU, and compare with float32; return a report for each.

    Args:
        folder: the bundle, in float32.
        wanted: ``fp16``, ``int8``, ``int8-cpu``.
        steps: rates that can be decoded in one of these numbers of steps are.
        derive: makes the forms.
        photos: files or folders; the middle of each is used.

    Raises:
        ExportError: an image is further from float32 than the precision's limit, or a float16 graph from its own.
    """
    if not wanted:
        return {}
    files = _encoded(folder, steps, photos)
    expected = _decoded(folder, "fp32", files)
    reports = {}
    for form in wanted:
        precision = form.removesuffix("-cpu")
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-verify-", dir=folder.parent) as temporary:
            variant = Path(temporary) / form
            forms.write_variants(folder, variant, (form,), steps, derive, quiet=True)
            if form == "fp16":
                _check_half(bundles.read(variant, verify=False))
            actual = _decoded(variant, precision, files)
        reports[form] = fidelity.compare(form, files, expected, actual, fidelity.LIMIT_DB[precision])
        logger.info("%s: images at %.1f dB PSNR from float32, or closer", form, reports[form].least_db)
    return reports


def built_plans(
    folder: Path, precision: str, built: Sequence[Plan], steps: Sequence[int], photos: Sequence[Path]
) -> None:
    """Decode photos with plans where there is a GPU for them, and compare with float32.

    Raises:
        ExportError: an image is further from float32 than the precision's limit; the plans are not usable any more.
    """
    try:
        codec = rdeic_rt.load(folder, backend="tensorrt", precision=precision, verify=False)
    except BackendUnavailableError as error:
        logger.info("plans in %s: built, and not run here: %s", precision, error)
        return
    files = _encoded(folder, steps, photos)
    expected, actual = _decoded(folder, "fp32", files), fidelity.decode(codec, files)
    try:
        report = fidelity.compare(f"plans in {precision}", files, expected, actual, fidelity.LIMIT_DB[precision])
    except ExportError:
        for plan in built:
            plan.path.with_suffix(".json").unlink()  # a plan without its key is not found
        raise
    logger.info("plans in %s: images at %.1f dB PSNR from float32, or closer", precision, report.least_db)


def _encoded(folder: Path, steps: Sequence[int], photos: Sequence[Path]) -> list[Encoded]:
    codec = rdeic_rt.load(folder, backend="cpu", verify=False)
    size = sum(entry.size_bytes for entry in codec.bundle.files.values())
    paths = [path for source in photos for path in photos_in(source)]
    rates = [rate.index for rate in forms.rates_of(codec.bundle, steps)]
    return fidelity.encode(codec, paths[:1] if size > MANY_BYTES else paths, rates, CROP_PX)


def _decoded(folder: Path, precision: str, files: Sequence[Encoded]) -> list[NDArray[np.uint8]]:
    return fidelity.decode(rdeic_rt.load(folder, backend="cpu", precision=precision, verify=False), files)


def _check_half(bundle: bundles.Bundle) -> None:
    """Compare every graph that has a float16 variant with it on random input; raise ExportError beyond the limit."""
    for graph in bundle.graphs.values():
        if "fp16" not in graph.variants:
            continue
        generator = torch.Generator().manual_seed(1)
        feed = {tensor.name: sample(tensor, generator, SIZES).numpy() for tensor in graph.inputs}
        paths = [str(path) for path in (graph.path, bundle.graphs[graph.variants["fp16"]].path)]
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(all="ignore"):  # it divides by whatever is there
            runs = Comparator.run([OnnxrtRunner(SessionFromOnnx(path)) for path in paths], data_loader=[feed])
            (single,), (half,) = (iterations for _, iterations in runs)
            limits = {name: HALF_LIMIT * _rms(values) for name, values in single.items()}
            compare = SimpleCompareFunc(atol=limits, rtol=0.0, check_error_stat="mean", fail_fast=False)
            failed = [name for name, passed in compare(single, half).items() if not passed]
        if failed:
            raise ExportError(
                f"graph {graph.id!r} in fp16: output {failed[0]} is off by more than {HALF_LIMIT:.0%} of its "
                "rms on average. Build it in fp32."
            )
