"""Weights in the ONNX file or beside it: one threshold, read back the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rdeic_export import onnx_file
from rdeic_rt import onnx_walk
from rdeic_rt.errors import ExportError

WEIGHTS: dict[str, NDArray[np.generic]] = {
    "large": np.arange(5000, dtype=np.float16).reshape(50, 100),
    "small": np.arange(7, dtype=np.float32),
    "last": np.full((4096,), -3, np.int8),
}


def model() -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    return helper.make_model(helper.make_graph([], "g", [], [output]))


def write(path: Path, size_bytes: int) -> onnx.ModelProto:
    onnx_file.write(model(), WEIGHTS.items(), size_bytes, path)
    return onnx.load(path, load_external_data=False)


def assert_same(written: onnx.ModelProto, folder: Path) -> None:
    for tensor in written.graph.initializer:
        values = onnx_file.array(tensor, folder)
        assert values.dtype == WEIGHTS[tensor.name].dtype
        np.testing.assert_array_equal(values, WEIGHTS[tensor.name])
        assert onnx_file.size_bytes(tensor) == values.nbytes
    assert [tensor.name for tensor in written.graph.initializer] == list(WEIGHTS)


def test_write_under_the_threshold_keeps_everything_in_one_file(tmp_path: Path) -> None:
    written = write(tmp_path / "a.onnx", onnx_file.EXTERNAL_FROM_BYTES - 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert onnx_file.locations(written) == []
    assert_same(written, tmp_path)


def test_write_from_the_threshold_on_puts_large_weights_on_pages_of_a_file_that_the_runtime_can_map(
    tmp_path: Path,
) -> None:
    written = write(tmp_path / "a.onnx", onnx_file.EXTERNAL_FROM_BYTES)
    assert onnx_file.locations_in(tmp_path / "a.onnx") == ["a.onnx.data"]
    found = onnx_walk.external_weights((tmp_path / "a.onnx").read_bytes(), tmp_path / "a.onnx")
    assert {weight.name: weight.offset for weight in found} == {"large": 0, "last": 3 * onnx_file.PAGE_BYTES}
    assert (tmp_path / "a.onnx.data").stat().st_size == 3 * onnx_file.PAGE_BYTES + 4096
    assert_same(written, tmp_path)


def test_array_of_a_file_that_has_two_names_is_read(tmp_path: Path) -> None:
    written = write(tmp_path / "a.onnx", onnx_file.EXTERNAL_FROM_BYTES)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.onnx.data").hardlink_to(tmp_path / "a.onnx.data")
    assert_same(written, tmp_path / "other")


def test_array_of_a_file_that_is_absent_elsewhere_or_cut_is_refused(tmp_path: Path) -> None:
    written = write(tmp_path / "a.onnx", onnx_file.EXTERNAL_FROM_BYTES)
    last = written.graph.initializer[2]
    (tmp_path / "a.onnx.data").write_bytes((tmp_path / "a.onnx.data").read_bytes()[:-1])
    with pytest.raises(ExportError, match=r"a\.onnx\.data: it ends within weight 'last'"):
        onnx_file.array(last, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match=r"'last' lies in 'a\.onnx\.data', which is no file in .*empty"):
        onnx_file.array(last, tmp_path / "empty")
    last.external_data[0].value = "../a.onnx.data"
    with pytest.raises(ExportError, match="which is no file in"):
        onnx_file.array(last, tmp_path / "empty")
