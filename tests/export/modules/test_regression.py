"""Every stage of the micro model against recorded values: what ``test_golden.py`` checks, without data from outside.

The values were recorded from an implementation that passes ``test_golden.py``. Weights come from a stable generator, by
key, so they are the same everywhere. To record them again, after ``test_golden.py`` has passed::

    python -m tests.export.modules.test_regression
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rdeic_export.modules import samplers
from tests.export.reference import relative_error
from tests.micro import make_micro
from tests.micro.make_micro import MICRO, seeded

RECORDED = Path(__file__).parents[2] / "data" / "released" / "micro_stages.npz"
LIMIT = 1e-3
SAMPLES = 64  # values kept of each tensor


@torch.no_grad()
def stages() -> dict[str, torch.Tensor]:
    network = make_micro.model()
    image = torch.tanh(seeded((1, 3, 128, 192), "image"))
    out = {"features": network.vae.features(image)}
    out["y"], indices = network.analyse(image)
    hyper = network.codec.hyper_dec(network.codec.quantize.lookup(indices))
    out["hyper"] = hyper
    predictions = list(network.codec.predict(out["y"], hyper))
    out["scales"] = torch.cat([p.scales for p in predictions], dim=1)
    out["means"] = torch.cat([p.means for p in predictions], dim=1)
    out["y_hat"] = torch.cat([p.y_hat for p in predictions], dim=1)
    out["z_c"], out["hint"] = network.codec.synthesise(out["y_hat"])
    out["eps"] = network.eps(out["z_c"], out["hint"], 299)
    out["eps_plain"] = network.eps(out["z_c"], None, 299)
    for n_steps in (2, 5):
        table = samplers.ddpm(MICRO.diffusion, n_steps)
        noises = [seeded(tuple(out["z_c"].shape), f"noise{k}") for k in range(n_steps)]
        out[f"z_0_L{n_steps}"] = network.denoise(out["z_c"], out["hint"], table, noises, sharpness=1.5)
    out["image"] = network.vae.decode(out["z_0_L2"])
    return out


def kept(tensor: torch.Tensor) -> np.ndarray:
    """First and last values of the flat tensor, and evenly spaced ones between."""
    flat = tensor.flatten()
    return flat[torch.linspace(0, len(flat) - 1, SAMPLES).long()].numpy()


@pytest.fixture(scope="module")
def computed() -> dict[str, torch.Tensor]:
    return stages()


@pytest.mark.parametrize("stage", list(np.load(RECORDED)) if RECORDED.exists() else ["not recorded"])
def test_stage_matches_the_recorded_values(computed: dict[str, torch.Tensor], stage: str) -> None:
    error = relative_error(torch.from_numpy(kept(computed[stage])), np.load(RECORDED)[stage])
    assert error <= LIMIT, f"{stage}: relative error {error:.1e}; if test_golden.py passes: see the module docstring"


def test_every_stage_is_recorded(computed: dict[str, torch.Tensor]) -> None:
    assert set(np.load(RECORDED)) == set(computed)


if __name__ == "__main__":
    recorded: dict[str, Any] = {name: kept(tensor) for name, tensor in stages().items()}
    np.savez(RECORDED, **recorded)
