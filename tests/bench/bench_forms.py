"""Two forms of a bundle's graphs beside each other, graph by graph, on one backend in one run.

    python export/build_engines.py --random-weights sd21 --steps 2 --library onnx --precision fp16
    python tests/bench/bench_forms.py --bundle engines/sd21-random --size 768x512          # a GPU

Inputs are random numbers. Runs of the two take turns. Printed are the medians in ms (fastest to slowest), their ratio,
and the largest difference between what the two compute, over the rms. Graphs that the bundle has in one of the forms
only run in that, on both sides. The last row is a decode without entropy decoding and noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdeic_rt import bundle as bundles
from rdeic_rt.backends import select
from rdeic_rt.backends.base import Backend, Graph
from rdeic_rt.manifest import Bundle, GraphSpec

WARM_UP = 3  # runs of each that do not count
EVERY_STEP = ("control", "unet_step")


def main() -> None:
    """Print the table."""
    args = parse()
    width, height = map(int, args.size.split("x"))
    bundle = bundles.read(args.bundle, verify=False)
    rate = bundle.rates[bundle.default_rate]
    unit = bundle.size_multiple_px
    sizes = {"batch": 1, "hz": -(-height // unit), "wz": -(-width // unit)}
    backend = select.open_backend(args.backend, precision="fp16").backend
    print(", ".join(f"{name} {value}" for name, value in backend.description().items()))
    print(f"{bundle.name}, {width}x{height}, {args.runs} runs, L = {bundle.n_steps(rate)}\n")
    print(f"| graph | {args.forms[0]} | {args.forms[1]} | ratio | largest difference |\n|---|---|---|---|---|")
    decode = [0.0, 0.0]
    for role in bundle.decoding_roles:
        pair = [form_of(bundle, rate.graphs[role], form, args.forms) for form in args.forms]
        times, difference = compare(backend, pair, sizes, args.runs)
        ms = [statistics.median(series) for series in times]
        times_run = bundle.n_steps(rate) if role in EVERY_STEP else 1
        decode = [total + times_run * one for total, one in zip(decode, ms, strict=True)]
        cells = [f"{one:.2f} ({min(series):.2f}-{max(series):.2f})" for one, series in zip(ms, times, strict=True)]
        print(f"| {role} | {' | '.join(cells)} | {ms[0] / ms[1]:.2f} | {difference:.2g} |", flush=True)
    print(f"| together | {decode[0]:.2f} | {decode[1]:.2f} | {decode[0] / decode[1]:.2f} | |")


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a bundle with both forms")
    parser.add_argument("--forms", type=lambda text: text.split(","), default=["fp16", "fp16-cuda"])
    parser.add_argument("--backend", default="cuda", help="Default: cuda")
    parser.add_argument("--size", default="768x512", help="WxH in pixels. Default: 768x512")
    parser.add_argument("--runs", type=int, default=20)
    args = parser.parse_args()
    if len(args.forms) != 2:
        parser.error("--forms takes two")
    return args


def form_of(bundle: Bundle, graph_id: str, form: str, forms: list[str]) -> GraphSpec:
    """Return a graph in a form, or in the other one, or in the one nearest to what was trained."""
    have = bundle.graphs[graph_id]
    return next((have[one] for one in (form, *forms) if one in have), bundle.reference(graph_id))


def compare(
    backend: Backend, pair: list[GraphSpec], sizes: Mapping[str, int], runs: int
) -> tuple[list[list[float]], float]:
    """Return the times of each in ms, and the largest difference between their outputs over the rms."""
    rng = np.random.default_rng(0)
    inputs = {x.name: backend.put(values(rng, x.resolve(sizes), x.dtype)) for x in pair[0].inputs}
    graphs = [backend.load(spec) for spec in pair]
    results = [{name: backend.get(x) for name, x in graph.run(inputs).items()} for graph in graphs]
    difference = max(apart(results[0][name], results[1][name]) for name in results[0])
    times: list[list[float]] = [[], []]
    for _ in range(WARM_UP + runs):
        for series, graph in zip(times, graphs, strict=True):
            series.append(timed(backend, graph, inputs))
    return [series[WARM_UP:] for series in times], difference


def timed(backend: Backend, graph: Graph, inputs: Mapping[str, Any]) -> float:
    """Return how long a run takes, in ms."""
    backend.synchronize()
    began = time.perf_counter()
    outputs = graph.run(inputs)
    backend.synchronize()
    took = time.perf_counter() - began
    del outputs
    return 1000 * took


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return random numbers: normal, or small whole ones."""
    if dtype.startswith("float"):
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the largest difference between two arrays over the rms of the first."""
    wide = one.astype(np.float64)
    return float(np.abs(wide - other.astype(np.float64)).max() / np.sqrt(np.square(wide).mean()))


if __name__ == "__main__":
    main()
