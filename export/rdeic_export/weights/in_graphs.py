"""Weights that the graphs of a bundle hold anyway: a file of weights refers to these, and holds the rest.

A bundle and the weights it was built from are kept together, and most tensors are the same in both. The metadata of a
safetensors file may have an entry `ENTRY`, a JSON object::

    {"bundle": "../../../engines/tiny-2",                     from the folder of the file
     "tensors": {"unet.out.2.weight": {"graph": "unet_step.onnx", "initialiser": "unet.out.2.weight.half",
                                       "shape": [24, 64, 3, 3], "axes": [0, 1, 2, 3], "sha256": "..."}}}

An initialiser holds the values of a tensor with its axes in the order ``axes``. The hash is that of the tensor's bytes,
so a bundle with other weights is never read by mistake.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rdeic_rt import bundle as bundles
from rdeic_rt.errors import ExportError

from .. import onnx_file

ENTRY = "rdeic_rt.in_graphs"
# A reference has about 250 bytes: a smaller tensor is not worth one.
SMALLEST_BYTES = 1024
_DTYPES = {torch.float16: TensorProto.FLOAT16, torch.float32: TensorProto.FLOAT}

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Reference:
    """Where the values of a tensor are.

    Attributes:
        graph: name of an ONNX file in the bundle.
        initialiser: its name in there.
        shape: of the tensor.
        axes: the order of the tensor's axes in the initialiser.
        sha256: of the tensor's bytes, 64 hexadecimal digits.
    """

    graph: str
    initialiser: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    sha256: str

    def restored(self, values: Array) -> Array | None:
        """Return the tensor that an initialiser holds, or None if it holds other values."""
        sides = [self.shape[axis] for axis in self.axes]
        if values.size != int(np.prod(sides)):
            return None
        tensor = values.reshape(sides).transpose(np.argsort(self.axes)).copy()
        return tensor if _sha256(tensor) == self.sha256 else None


@dataclass(frozen=True)
class References:
    """The tensors of a file that lie in a bundle.

    Attributes:
        bundle: folder of the bundle.
        tensors: by name.
    """

    bundle: Path
    tensors: Mapping[str, Reference]


def references(path: Path) -> References | None:
    """Return what a file of weights refers to; None if it holds all its tensors, or has another format.

    Raises:
        ExportError: the entry is not as described above.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(ENTRY)
    except (SafetensorError, OSError):
        return None
    if text is None:
        return None
    try:
        entry = json.loads(text)
        tensors = {
            name: Reference(
                graph=one["graph"],
                initialiser=one["initialiser"],
                shape=tuple(map(int, one["shape"])),
                axes=tuple(map(int, one["axes"])),
                sha256=one["sha256"],
            )
            for name, one in entry["tensors"].items()
        }
        plain = all(one.graph == Path(one.graph).name and min(one.shape, default=1) > 0 for one in tensors.values())
        complete = all(sorted(one.axes) == list(range(len(one.shape))) for one in tensors.values())
        found = References(Path(os.path.normpath(path.parent / entry["bundle"])), tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{path}: its entry {ENTRY} is damaged ({error}). Get the file again.") from None
    if not plain or not complete:
        raise ExportError(
            f"{path}: its entry {ENTRY} is damaged (a graph, shape or order of axes). Get the file again."
        )
    return found


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors that a safetensors file refers to, by name; none if it holds all its tensors.

    Raises:
        ExportError: the bundle is not there, or no longer holds the tensors.
    """
    wanted = references(path)
    if wanted is None:
        return {}
    found: dict[str, Tensor] = {}
    for graph in sorted({one.graph for one in wanted.tensors.values()}):
        initialisers = dict(_initialisers(wanted.bundle / graph, path))
        for name, one in wanted.tensors.items():
            if one.graph != graph or one.initialiser not in initialisers:
                continue
            values = one.restored(onnx_file.array(initialisers[one.initialiser], wanted.bundle))
            if values is not None:
                found[name] = torch.from_numpy(values)
    if changed := sorted(wanted.tensors.keys() - found.keys()):
        graphs = ", ".join(sorted({wanted.tensors[name].graph for name in changed}))
        raise ExportError(
            f"{path}: {len(changed)} of its tensors are no longer in {graphs} of {wanted.bundle}, first {changed[0]}. "
            "Restore the bundle that the weights were packed with."
        )
    return found


def check_apart(paths: Iterable[Path], output: Path) -> None:
    """Raise ExportError if files of weights refer to a bundle that is about to be replaced."""
    for path in paths:
        found = references(path)
        if found is not None and found.bundle.resolve() == output.resolve():
            raise ExportError(
                f"{path}: {len(found.tensors)} of its tensors lie in {output}, which would be replaced. Run "
                "`python -m training.share_weights RECIPE --whole` first, or name another folder with --output."
            )


def write(path: Path, state: Mapping[str, Tensor], bundle: Path | None = None) -> int:
    """Write tensors as safetensors, atomically.

    Args:
        path: the file to write.
        state: tensors by name.
        bundle: folder of a bundle; the file refers to its float32 graphs for all large tensors that they hold.

    Returns:
        How many bytes of tensors the bundle holds.

    Raises:
        RdeicError: the bundle cannot be read.
    """
    found = {} if bundle is None else _find(state, bundle)
    metadata = None
    if bundle is not None and found:
        entry = {
            "bundle": Path(os.path.relpath(bundle, path.parent)).as_posix(),
            "tensors": {name: asdict(one) for name, one in sorted(found.items())},
        }
        metadata = {ENTRY: json.dumps(entry)}
    temporary = path.with_suffix(".tmp")
    rest = {name: value.contiguous().cpu() for name, value in state.items() if name not in found}
    save_file(rest, temporary, metadata)
    os.replace(temporary, path)
    return sum(state[name].nbytes for name in found)


def _find(state: Mapping[str, Tensor], bundle: Path) -> dict[str, Reference]:
    """Return where a bundle holds tensors: equal values of the same type, in any order of axes."""
    by_values: dict[tuple[str, int, str], list[tuple[str, str, Array]]] = {}
    for forms in bundles.read(bundle, verify=False).graphs.values():
        path = forms["fp32"].path if "fp32" in forms else None
        if path is None or path.parent != bundle.resolve():
            continue
        for name, initialiser in _initialisers(path, bundle):
            if initialiser.data_type in _DTYPES.values() and onnx_file.size_bytes(initialiser) >= SMALLEST_BYTES:
                values = onnx_file.array(initialiser, path.parent)
                by_values.setdefault(_any_order(values), []).append((path.name, name, values))
    found = {}
    for name, tensor in state.items():
        if tensor.dtype in _DTYPES and tensor.nbytes >= SMALLEST_BYTES:
            values = tensor.cpu().contiguous().numpy()
            for graph, held_as, candidate in by_values.get(_any_order(values), []):
                axes = _axes(values, candidate)
                if axes is not None:
                    found[name] = Reference(graph, held_as, values.shape, axes, _sha256(values))
                    break
    return found


def _any_order(values: Array) -> tuple[str, int, str]:
    """Return a key that arrays of the same values share, whatever their order."""
    bits = np.sort(np.ascontiguousarray(values).reshape(-1).view(f"u{values.itemsize}"))
    return str(values.dtype), values.size, _sha256(bits)


def _axes(tensor: Array, values: Array) -> tuple[int, ...] | None:
    """Return the order of a tensor's axes in which it has these values, or None."""
    wanted = values.tobytes()
    return next((axes for axes in permutations(range(tensor.ndim)) if tensor.transpose(axes).tobytes() == wanted), None)


def _initialisers(graph: Path, what: Path) -> Iterator[tuple[str, TensorProto]]:
    try:
        model = onnx.load(graph, load_external_data=False)
    except (OSError, DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not an ONNX file"
        raise ExportError(f"{what}: {graph} holds weights of it, and cannot be read: {reason}.") from None
    return ((initialiser.name, initialiser) for initialiser in model.graph.initializer)


def _sha256(values: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
