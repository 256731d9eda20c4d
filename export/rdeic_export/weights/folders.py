"""Which file of a folder has the weights, where it holds several forms of them, as diffusers and transformers save."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rdeic_rt.errors import ExportError

from . import formats

SUFFIXES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".tar"}

# Of variants, full precision first; others (non_ema) only where there is nothing else.
_VARIANTS = ("", "fp32", "ema", "bf16", "fp16")
_KINDS = ("safetensors", "bin")
_INDEX = ".index.json"


def weights_in(folder: Path, stems: Sequence[str]) -> Path | None:
    """Return the file of weights in a folder, or the index of its shards; None where there is neither.

    Full precision is taken before a variant (``model.fp16.safetensors``), safetensors before torch's own format, one
    file before shards.

    Args:
        folder: need not be there.
        stems: what names begin with, such as ``diffusion_pytorch_model``.
    """
    pattern = re.compile(
        rf"(?:{'|'.join(map(re.escape, stems))})(?:\.(\w+))??\.({'|'.join(_KINDS)})"
        r"(?:(?:\.(\w+))?(\.index)(?:\.(\w+))?\.json)?$"
    )
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = pattern.match(path.name)
        if match and path.is_file():
            variant = next((name for name in match.group(1, 3, 5) if name), "")
            rank = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
            found.append((rank, variant, _KINDS.index(match[2]), bool(match[4]), path))
    return min(found)[-1] if found else None


def only_weights(path: Path) -> Path:
    """Return the path of a file as it is; of a folder the one file of weights in it, or the one index of shards.

    Raises:
        ExportError: the folder holds none, or several.
    """
    if not path.is_dir():
        return path
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    indices = [entry for entry in files if entry.name.endswith(_INDEX)]
    found = indices or [entry for entry in files if entry.suffix in SUFFIXES]
    if len(found) == 1:
        return found[0]
    there = f"several files of weights: {_names(found)}. Give one of them" if found else "a folder without weights"
    raise ExportError(f"{path}: {there}.")


def files_behind(path: Path) -> list[Path]:
    """Return every file that a path of weights stands for: a file, an index and its shards, or what is in a folder."""
    if path.is_dir():
        return sorted(entry for entry in path.rglob("*") if entry.suffix in SUFFIXES)
    return [path, *formats.shards(path)] if path.name.endswith(".json") else [path]


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)
