"""`rdeic-rt info BUNDLE --shapes`: the shapes of graphs' inputs at given image sizes, as NVIDIA's tools take them."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..limits import Size

if TYPE_CHECKING:
    from ..manifest import Bundle, GraphSpec

FORMATS = ("trtexec", "polygraphy", "ort")
MAX_SIDE_PX = 65_536
MAX_BATCH = 1024

_ENDS = ("min", "opt", "max")
_SIZE = re.compile(r"(?:([0-9]{1,6})x)?([0-9]{1,6})x([0-9]{1,6})", re.ASCII)


@dataclass(frozen=True)
class Wanted:
    """A size of image that graphs are to take.

    Attributes:
        batch: images at a time.
        size: in pixels, before it is padded.
    """

    batch: int
    size: Size


Profile = tuple[Wanted, Wanted, Wanted]
"""The smallest, the typical and the largest."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this module."""
    group = parser.add_argument_group("shapes, of bundles")
    group.add_argument(
        "--shapes",
        metavar="SIZE|MIN,OPT,MAX",
        type=profile,
        help="show instead what shapes the graphs' inputs have for images of a size, or from a smallest to a largest "
        "one. SIZE is WIDTHxHEIGHT in pixels, or BATCHxWIDTHxHEIGHT",
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        help="as arguments of trtexec or of 'polygraphy run', or as provider options of ONNX Runtime's TensorRT "
        "provider, in JSON: one line for each graph. Default: a list of all inputs",
    )


def profile(text: str) -> Profile:
    """Return the value of `--shapes`."""
    sizes = [_wanted(part) for part in text.split(",")]
    if len(sizes) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is not one size, or three: MIN,OPT,MAX")
    smallest, typical, largest = sizes * 3 if len(sizes) == 1 else sizes
    sides = [(one.batch, one.size.width, one.size.height) for one in (smallest, typical, largest)]
    if any(list(along) != sorted(along) for along in zip(*sides, strict=True)):
        raise argparse.ArgumentTypeError(f"{text!r}: MIN, OPT and MAX do not grow, in batch, width and height each")
    return smallest, typical, largest


def lines(bundle: Bundle, wanted: Profile, format_name: str) -> list[str]:
    """Return a line of one of `FORMATS` for each graph, in the form that plans are built from."""
    return [_LINE[format_name](graph, _free_shapes(bundle, graph, wanted)) for graph in _graphs(bundle)]


def facts(bundle: Bundle, wanted: Profile) -> dict[str, Any]:
    """Return the shapes of all inputs for people and for JSON: of each graph, input -> its shapes."""
    return {
        "bundle": bundle.name,
        "graphs": {
            graph.id: {
                "file": str(graph.path),
                "inputs": [
                    {"name": tensor.name, "dtype": tensor.dtype}
                    | {end: _by_x(tensor.resolve(at)) for end, at in zip(_ENDS, _sizes(bundle, wanted), strict=True)}
                    for tensor in graph.inputs
                ],
            }
            for graph in _graphs(bundle)
        },
    }


def _wanted(text: str) -> Wanted:
    found = _SIZE.fullmatch(text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, like 768x512, or BATCHxWIDTHxHEIGHT")
    batch, width, height = (int(part) for part in (found[1] or "1", found[2], found[3]))
    if not (1 <= batch <= MAX_BATCH and 1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        raise argparse.ArgumentTypeError(f"{text!r}: a side is 1 to {MAX_SIDE_PX} pixels, a batch 1 to {MAX_BATCH}")
    return Wanted(batch, Size(height=height, width=width))


def _graphs(bundle: Bundle) -> list[GraphSpec]:
    return [bundle.reference(graph_id) for graph_id in bundle.graphs]


def _sizes(bundle: Bundle, wanted: Profile) -> list[dict[str, int]]:
    """Return the sizes of free dimensions, smallest, typical and largest."""
    return [bundle.free_sizes(one.size, one.batch) for one in wanted]


def _free_shapes(bundle: Bundle, graph: GraphSpec, wanted: Profile) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return ``min``, ``opt`` and ``max`` -> input -> shape, of the inputs whose shape is not fixed."""
    at = zip(_ENDS, _sizes(bundle, wanted), strict=True)
    return {end: graph.free_shapes(sizes) for end, sizes in at}


def _by_x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _specification(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return shapes as trtexec and ONNX Runtime take them: ``z_n:1x24x64x96,noise:1x24x64x96``."""
    return ",".join(f"{name}:{_by_x(shape)}" for name, shape in shapes.items())


def _trtexec(graph: GraphSpec, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> str:
    words = [f"--onnx={graph.path}", *(f"--{end}Shapes={_specification(shapes[end])}" for end in _ENDS)]
    return shlex.join(words)


def _polygraphy(graph: GraphSpec, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> str:
    words = [str(graph.path)]
    for option, end in [("--input-shapes", "opt"), *((f"--trt-{end}-shapes", end) for end in _ENDS)]:
        words += [option, *(f"{name}:[{','.join(map(str, shape))}]" for name, shape in shapes[end].items())]
    return shlex.join(words)


def _ort(graph: GraphSpec, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> str:
    provider_options = {f"trt_profile_{end}_shapes": _specification(shapes[end]) for end in _ENDS}
    return json.dumps({"graph": graph.id, "file": str(graph.path), "options": provider_options})


_LINE: dict[str, Callable[[GraphSpec, Mapping[str, Mapping[str, tuple[int, ...]]]], str]] = {
    "trtexec": _trtexec,
    "polygraphy": _polygraphy,
    "ort": _ort,
}
