"""What the Swin UNet is told beside its input: condition and timestep."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tests.micro import make_diffo
from tests.micro.make_micro import seeded


@torch.no_grad()
def test_hint_codes_at_half_resolution_are_repeated() -> None:
    unet, z_y = make_diffo.model().unet, seeded((1, 8, 4, 6), "z_y")
    repeated = z_y.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(unet.hint(z_y, 8, 12), unet.condition(repeated))
    assert torch.equal(unet.hint(z_y, 4, 6), unet.condition(z_y))


@torch.no_grad()
def test_time_embedding_has_cosines_first() -> None:
    embed = make_diffo.model().unet.time_embed
    timesteps = np.array([0.0, 1.0])
    angles = timesteps[:, None] * np.exp(-np.log(10000) * np.arange(4) / 4)
    sinusoid = torch.from_numpy(np.concatenate([np.cos(angles), np.sin(angles)], axis=1)).float()
    expected = embed.mlp.linear_2(F.silu(embed.mlp.linear_1(sinusoid)))
    torch.testing.assert_close(embed(torch.tensor([0, 1])), expected)


@torch.no_grad()
def test_prediction_reads_input_condition_and_timestep() -> None:
    network = make_diffo.model()
    x, z_y, t = seeded((1, 8, 8, 12), "x"), seeded((1, 8, 4, 6), "z_y"), torch.tensor([1])
    z_0 = network.predict(x, z_y, t)
    for other in (
        network.predict(-x, z_y, t),
        network.predict(x, -z_y, t),
        network.predict(x, z_y, torch.tensor([0])),
    ):
        assert (other - z_0).abs().max() > 1e-2 * z_0.std()
