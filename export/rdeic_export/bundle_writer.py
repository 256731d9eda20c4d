"""Bundle folder: files first, ``bundle.json`` last, and an atomic rename at the end (docs/bundle.md)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rdeic_rt.bundle

from .modules.spec import GraphSpec, TensorSpec
from .schedule import StepTable


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its place on success and vanishes on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            os.replace(target, old / "bundle")
            os.replace(folder, target)
            shutil.rmtree(old)
        else:
            os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Add the table of files to the manifest, write ``bundle.json`` and read the bundle back.

    Args:
        folder: holds every file of the bundle already.
        manifest: everything but ``schema`` and ``files``.

    Raises:
        rdeic_rt.errors.BundleError: the runtime would not load what was written.
    """
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    whole = {"schema": rdeic_rt.bundle.SCHEMA, **manifest, "files": files}
    (folder / rdeic_rt.bundle.MANIFEST).write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    rdeic_rt.bundle.read(folder, verify=True)


def graph_entry(file: str, spec: GraphSpec, precision: str) -> dict[str, Any]:
    """Return a graph's entry in ``bundle.json``."""
    return {
        "file": file,
        "precision": precision,
        "inputs": [_tensor(t) for t in spec.inputs],
        "outputs": [_tensor(t) for t in spec.outputs],
    }


def schedule_entry(table: StepTable) -> dict[str, Any]:
    """Return a schedule's entry in ``bundle.json``; floats survive the round trip exactly."""
    return {
        "sampler": table.sampler,
        "timesteps": list(table.timesteps),
        "abar_start": table.abar_start,
        "a": list(table.a),
        "b": list(table.b),
        "c": list(table.c),
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
