"""Operation counts equal what the layers' sizes say."""

from __future__ import annotations

import copy

import torch
from tests.bench import flops
from tests.micro import make_micro
from torch import Tensor, nn

from rdeic_export import graphs
from rdeic_export.modules.signature import Signature
from rdeic_rt.tensor_spec import TensorSpec

SIZES = {"batch": 2, "hz": 3, "wz": 5}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.linear = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.linear(self.conv(x).flatten(2).transpose(1, 2))
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_count_is_twice_the_multiplications() -> None:
    signature = Signature("layers", (TensorSpec("x", "float32", ("batch", 6, "8*hz", "8*wz")),), ())
    positions = 12 * 20
    products = 6 * 10 * 9 * positions + 10 * 7 * positions + 2 * 7 * positions**2
    assert flops.count(Layers(), signature, SIZES) == 2 * 2 * products


def test_count_every_graph_grows_with_the_area_and_leaves_the_module_alone() -> None:
    model = make_micro.model()
    folded = {**graphs.rate_graphs(model), **graphs.shared_graphs(model)}
    for graph in folded.values():
        before = copy.deepcopy(graph.module.state_dict())
        small = flops.count(graph.module, graph.signature, {"batch": 1, "hz": 2, "wz": 3})
        large = flops.count(graph.module, graph.signature, {"batch": 1, "hz": 4, "wz": 3})
        assert 2 * small <= large < 4 * small
        assert all(torch.equal(x, before[name]) for name, x in graph.module.state_dict().items())


def test_weight_bytes_counts_parameters_and_constants() -> None:
    module = nn.BatchNorm1d(5)  # two parameters and two buffers of 5, and a count
    assert flops.weight_bytes(module) == 2 * 21
    assert flops.weight_bytes(module, 4) == 4 * 21
