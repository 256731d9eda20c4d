"""A graph's file -> the bytes that a backend may load: read once, hashed, scanned, its weights memory-mapped.

    bundle.json ─▶ GraphSpec ─▶ bytes ─▶ length, SHA-256 ─▶ onnx_walk ─▶ listed files of weights ─▶ GraphFile ─▶ backend

Backends create their sessions from the result and open no file themselves, so a graph cannot make a library
open one (docs/bundle.md, "Checks").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import onnx_walk
from .errors import BundleCorruptError
from .manifest import GraphSpec


@dataclass(frozen=True)
class GraphFile:
    """A checked graph.

    Attributes:
        onnx: the file's bytes. Initialisers of the main graph named in `weights` hold no values there; nothing else
            refers to a file.
        weights: their values, by name; each a view of a file's map, which lives as long as any of them.
    """

    onnx: bytes
    weights: Mapping[str, NDArray[Any]]


def read(spec: GraphSpec) -> GraphFile:
    """Return the graph, checked.

    Raises:
        BundleCorruptError: a file is missing or has changed, the graph is no ONNX file that a bundle may have, or it
            has weights elsewhere than in a listed file of the bundle.
        OSError: a file cannot be read.
    """
    onnx = spec.file.read()
    maps: dict[str, memoryview] = {}
    weights: dict[str, NDArray[Any]] = {}
    for weight in onnx_walk.external_weights(onnx, spec.path):
        what = f"{spec.path}: weight {weight.name!r} lies in {weight.location!r}"
        file = spec.weights_at(weight.location)
        if file is None:
            raise BundleCorruptError(f"{what}, which is not among the bundle's files")
        end = weight.offset + weight.size_bytes
        if end > file.size_bytes:
            raise BundleCorruptError(f"{what} up to byte {end}, which has {file.size_bytes}")
        if weight.location not in maps:
            maps[weight.location] = file.map()
        values = np.frombuffer(maps[weight.location][weight.offset : end], weight.dtype)
        weights[weight.name] = values.reshape(weight.shape)
    return GraphFile(onnx, weights)
