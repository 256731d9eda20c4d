"""Steps shared by all bundle builds: export and check of graphs, tables, photos and hashes of weights."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rdeic_rt import bundle as bundles
from rdeic_rt import pixels
from rdeic_rt.errors import ExportError

from .. import onnx_export
from ..fold.graphs import FoldedGraph
from ..photos import photos_in
from ..verify import exported
from ..weights import checkpoint, folders
from .staging import Staging

logger = logging.getLogger("build_engines")


def export_graphs(
    folded: Mapping[str, FoldedGraph], stage: Staging, suffix: str, key: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Export and verify each missing graph; return their entries for ``bundle.json``."""
    entries = {}
    for name, graph in folded.items():
        file = f"{name}{suffix}.onnx"
        path = stage.folder / file
        worst = stage.finished(file, key)
        if worst is None:
            if key["half_weights"]:
                _round_large(graph.module)
            onnx_export.run(graph.module, graph.signature, path, half_weights=key["half_weights"])
            worst = max(exported.graph(graph.module, graph.signature, path).values())
            stage.record(file, key, worst)
        logger.info("%s: error %.1e against PyTorch", file, worst)
        entries[name + suffix] = bundles.graph_entry(graph.signature.inputs, graph.signature.outputs, {"fp32": file})
    return entries


@torch.no_grad()
def _round_large(module: nn.Module) -> None:
    """Round, in place, the weights that are stored in float16, because folds compute new values from rounded ones."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and tensor.numel() >= onnx_export.HALF_FROM_ELEMENTS:
            tensor.copy_(tensor.half())


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an uncompressed .npz, whose bytes depend on the arrays only."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def digest(path: Path) -> str:
    """Return a SHA-256 over a file of weights, or over the shards of an index or the files of a folder."""
    files = folders.files_behind(path)
    if files == [path]:
        return checkpoint.sha256(path)
    return hashlib.sha256("".join(map(checkpoint.sha256, files)).encode()).hexdigest()


def photo_paths(sources: Sequence[Path]) -> list[Path]:
    """Return the photos among files and folders; ExportError if there are none."""
    paths = [path for source in sources for path in photos_in(source)]
    if not paths:
        raise ExportError(f"no photos in {', '.join(map(str, sources))}; some are needed for calibration")
    return paths


def images_of(paths: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """Return the image in each file, uint8 [H, W, 3]."""
    return [pixels.read_image(path)[0] for path in paths]
