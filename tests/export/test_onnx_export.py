"""Exported graphs: right at sizes the exporter never saw, the same bytes twice, verified by something that can fail."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from rdeic_export import graphs, onnx_export, verify
from rdeic_export.graphs import FoldedGraph
from rdeic_export.modules import signature
from rdeic_rt.errors import ExportError
from tests.micro import make_micro


@pytest.fixture(scope="module")
def folded() -> dict[str, FoldedGraph]:
    model = make_micro.model()
    model = copy.deepcopy(model)
    return graphs.rate_graphs(model) | graphs.shared_graphs(model)


@pytest.fixture(scope="module")
def exported(folded: dict[str, FoldedGraph], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    paths = {name: folder / f"{name}.onnx" for name in folded}
    for name, graph in folded.items():
        onnx_export.run(graph.module, graph.signature, paths[name], half_weights=False)
    return paths


@pytest.mark.parametrize("name", ["analysis", "synthesis", "control", "unet_step", "vae_decoder"])
@pytest.mark.parametrize(("batch", "hz", "wz"), [(1, 1, 1), (3, 1, 4), (1, 5, 2)])
def test_run_other_sizes_match_pytorch(
    folded: dict[str, FoldedGraph],
    exported: dict[str, Path],
    name: str,
    batch: int,
    hz: int,
    wz: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify, "SIZES", {"batch": batch, "hz": hz, "wz": wz})
    monkeypatch.setattr(verify, "INDEX_LIMIT", 0.26)  # of as few as one index, one may be a tie
    verify.graph(folded[name].module, folded[name].signature, exported[name])


def test_run_twice_gives_the_same_bytes(
    folded: dict[str, FoldedGraph], exported: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("control", "vae_decoder"):
        onnx_export.run(folded[name].module, folded[name].signature, tmp_path / name, half_weights=False)
        assert (tmp_path / name).read_bytes() == exported[name].read_bytes()


def test_run_leaves_no_trace_of_where_it_was_made(exported: dict[str, Path]) -> None:
    for path in exported.values():
        content = path.read_bytes()
        for needle in (b"site-packages", b".py", str(Path.home()).encode()):
            assert needle not in content, f"{path.name} contains {needle!r}"


def test_run_half_weights_halves_the_file_and_stays_close(
    folded: dict[str, FoldedGraph], exported: dict[str, Path], tmp_path: Path
) -> None:
    graph = folded["unet_step"]
    onnx_export.run(graph.module, graph.signature, tmp_path / "half.onnx", half_weights=True)
    weights = [i for i in onnx.load(tmp_path / "half.onnx").graph.initializer]
    assert sum(i.data_type == onnx.TensorProto.FLOAT16 for i in weights) > 10
    assert (tmp_path / "half.onnx").stat().st_size < 0.75 * exported["unet_step"].stat().st_size
    generator = torch.Generator().manual_seed(0)
    feed = {t.name: signature.sample(t, generator).numpy() for t in graph.signature.inputs}
    full, half = (
        onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for p in (exported["unet_step"], tmp_path / "half.onnx")
    )
    assert 0 < np.abs(full - half).max() < 0.02 * np.abs(full).max()


class Off(nn.Module):
    """The synthesis graph with one channel of z_c shifted."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        z_c, hint = self.inner(y_hat)
        z_c = z_c.clone()
        z_c[:, -1, -1, -1] += 0.1
        return z_c, hint


def test_verify_last_element_off_fails(folded: dict[str, FoldedGraph], exported: dict[str, Path]) -> None:
    graph = folded["synthesis"]
    with pytest.raises(ExportError, match="graph synthesis, output z_c: error .* is over the limit 0.001"):
        verify.graph(Off(graph.module), graph.signature, exported["synthesis"])


def test_residual_shapes_are_what_control_returns(folded: dict[str, FoldedGraph]) -> None:
    graph = folded["control"]
    generator = torch.Generator().manual_seed(0)
    outputs = graph.module(*(signature.sample(t, generator) for t in graph.signature.inputs))
    promised = [list(t.resolve(signature.SAMPLE_SIZES)) for t in graph.signature.outputs]
    assert [list(o.shape) for o in outputs] == promised
    assert [t.name for t in folded["unet_step"].signature.inputs][4:] == [t.name for t in graph.signature.outputs]
