"""ONNX files of any size: many weights go to ``FILE.data``, and are written and read one at a time.

An ONNX file is one protobuf message, of less than 2 GiB. Weights in a file of their own start on pages, so that they
can be mapped into memory. No other module defines where weights are stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from rdeic_rt.errors import ExportError

# A graph with weights of so many bytes keeps them in a file of their own.
EXTERNAL_FROM_BYTES = 1 << 30
# There, each starts on a page; smaller ones stay in the ONNX file.
PAGE_BYTES = 4096


class WeightFile:
    """``FILE.data`` of an ONNX file, being written."""

    def __init__(self, onnx_path: Path) -> None:
        self.path = onnx_path.with_name(f"{onnx_path.name}.data")

    def __enter__(self) -> WeightFile:
        self._file = self.path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, array: NDArray[np.generic]) -> int:
        """Write an array on the next page; return where that is."""
        self._file.write(bytes(-self._file.tell() % PAGE_BYTES))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(array).data)
        return offset


def write(
    model: onnx.ModelProto, weights: Iterable[tuple[str, NDArray[np.generic]]], size_bytes: int, path: Path
) -> None:
    """Write a model with these initialisers beside those it has; the same model and weights give the same bytes.

    Args:
        model: initialisers are added to it.
        weights: names and values; taken one at a time.
        size_bytes: what all of them take.
        path: the file to write.
    """
    if size_bytes < EXTERNAL_FROM_BYTES:
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights)
    else:
        with WeightFile(path) as file:
            model.graph.initializer.extend(_stored(file, name, array) for name, array in weights)
    path.write_bytes(model.SerializeToString(deterministic=True))


def array(tensor: TensorProto, folder: Path) -> NDArray[np.generic]:
    """Return an initialiser's values, from a file in a folder if they lie there.

    Raises:
        ExportError: the file is not in the folder, or too short.
    """
    if not external_data_helper.uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    # Not `external_data_helper`, which refuses files with more than one name; derived graphs share theirs by links.
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = folder / entries["location"]
    dtype, count = helper.tensor_dtype_to_np_dtype(tensor.data_type), int(np.prod(tensor.dims, dtype=np.int64))
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ExportError(f"weight {tensor.name!r} lies in {entries['location']!r}, which is no file in {folder}")
    values = np.fromfile(path, dtype, count, offset=int(entries.get("offset", "0")))
    if values.size != count:
        raise ExportError(f"{path}: it ends within weight {tensor.name!r}. Get the bundle again, or export it again.")
    return values.reshape(tensor.dims)


def size_bytes(tensor: TensorProto) -> int:
    """Return the size of an initialiser's values."""
    return int(np.prod(tensor.dims, dtype=np.int64)) * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def locations(model: onnx.ModelProto) -> list[str]:
    """Return the files that a model's initialisers lie in, from its own folder."""
    entries = [
        entry.value
        for tensor in model.graph.initializer
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    return sorted(set(entries))


def locations_in(path: Path) -> list[str]:
    """Return the same for an ONNX file."""
    return locations(onnx.load(path, load_external_data=False))


def _stored(file: WeightFile, name: str, values: NDArray[np.generic]) -> TensorProto:
    """Append an array to a file of weights and return the initialiser that refers to it; a small one holds itself."""
    if values.nbytes < PAGE_BYTES:
        return numpy_helper.from_array(values, name)
    tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file.path.name), ("offset", file.append(values)), ("length", values.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
