"""Which of a bundle's graphs a build is about, and in which forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rdeic_rt.errors import ExportError
from rdeic_rt.manifest import Bundle, GraphSpec, Rate

REFERENCE = "fp32"
# What a bundle gets for each precision: the forms that a backend of ONNX graphs runs best.
IN_BUNDLES: Mapping[str, tuple[str, ...]] = {"fp32": (), "fp16": ("fp16", "fp16-cuda"), "int8": ("int8-cpu",)}
# What a new bundle gets beside plans, so that a GPU without TensorRT, or of another kind than they are for, runs that.
BESIDE_PLANS = IN_BUNDLES["fp16"]
# What a plan of each precision is built from.
IN_PLANS: Mapping[str, tuple[str, ...]] = {"fp32": (REFERENCE,), "fp16": ("fp16",), "int8": ("int8",)}


def float32_graphs(bundle: Bundle, graph_ids: Sequence[str]) -> dict[str, GraphSpec]:
    """Return graphs of a bundle in float32, by id.

    Raises:
        ExportError: the bundle has one in other forms only.
    """
    for graph_id in graph_ids:
        if REFERENCE not in bundle.graphs[graph_id]:
            raise ExportError(
                f"bundle {bundle.name!r} has its graph {graph_id!r} in {' and '.join(bundle.graphs[graph_id])} only, "
                "and plans and other forms are made of float32 graphs. Take the bundle that it was built from, or "
                "build it again without --drop-fp32."
            )
    return {graph_id: bundle.graphs[graph_id][REFERENCE] for graph_id in graph_ids}


def in_one_form(bundle: Bundle, graph_ids: Sequence[str], form: str) -> Bundle:
    """Return a bundle, in memory alone, that has some of its graphs in one form only, or in float32 without it."""
    only = {}
    for graph_id in graph_ids:
        forms = bundle.graphs[graph_id]
        own = form if form in forms else REFERENCE
        only[graph_id] = {own: forms[own]}
    return replace(bundle, graphs={**bundle.graphs, **only})


def rates_of(bundle: Bundle, steps: Sequence[int]) -> list[Rate]:
    """Return the rates that can be decoded in one of these numbers of steps.

    Raises:
        ExportError: there is no such rate.
    """
    possible = [steps_of(bundle, rate) for rate in bundle.rates]
    chosen = [rate for rate, counts in zip(bundle.rates, possible, strict=True) if counts & set(steps)]
    if not chosen:
        raise ExportError(
            f"bundle {bundle.name!r} has no rate for {' or '.join(map(str, steps))} steps; its rates take "
            f"{', '.join(map(str, sorted(set().union(*possible))))}. Choose among those with --steps."
        )
    return chosen


def steps_of(bundle: Bundle, rate: Rate) -> set[int]:
    """Return in how many steps a rate can be decoded."""
    return {bundle.n_steps(rate), *(bundle.schedules[name].n_steps for name in rate.step_tables)}


def decoding_graphs(bundle: Bundle, steps: Sequence[int]) -> list[str]:
    """Return the ids of the graphs that decode the rates of `rates_of`; errors as there."""
    return sorted({rate.graphs[role] for rate in rates_of(bundle, steps) for role in bundle.decoding_roles})
