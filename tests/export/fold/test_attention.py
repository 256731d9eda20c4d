"""The attention fold computes what diffusers' attention computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rdeic_export.fold import attention, text
from rdeic_export.modules.model import RdeicModel
from tests.micro import make_micro


@pytest.fixture(scope="module")
def model() -> RdeicModel:
    return make_micro.model()


@pytest.fixture(scope="module")
def z_n() -> Tensor:
    return torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(3))


def run(network: nn.Module, z_n: Tensor, emb: Tensor, hint: Tensor | None) -> list[Tensor]:
    return [network(z_n, emb, None)] if hint is None else network(z_n, hint, emb, None)


@pytest.mark.parametrize("part", ["unet", "control"])
def test_attention_fold_keeps_output(model: RdeicModel, z_n: Tensor, part: str) -> None:
    network = copy.deepcopy(getattr(model, part))
    hint = None if part == "unet" else torch.randn(2, 16, 16, 24, generator=torch.Generator().manual_seed(4))
    emb = network.time_embed(torch.tensor([150, 150]))
    text.fold(network, model.context)
    expected = run(network, z_n, emb, hint)
    attention.fold(network)
    for got, want in zip(run(network, z_n, emb, hint), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert any(isinstance(m, attention.SelfAttention) for m in network.modules())
    assert any(isinstance(m, attention.ConstantAttention) for m in network.modules())
