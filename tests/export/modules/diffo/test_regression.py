"""Every stage of the micro model against recorded values: what ``test_golden.py`` checks, without data from outside.

The values were recorded from an implementation that passes ``test_golden.py``. To record them again, after it passed::

    python -m tests.export.modules.diffo.test_regression
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rdeic_export.modules.diffo import resshift
from tests.export.modules.test_regression import LIMIT, kept
from tests.export.reference import relative_error
from tests.micro import make_diffo
from tests.micro.make_micro import seeded

RECORDED = Path(__file__).parents[3] / "data" / "released" / "diffo_micro_stages.npz"


@torch.no_grad()
def stages() -> dict[str, torch.Tensor]:
    network = make_diffo.model()
    image = torch.tanh(seeded((1, 3, 64, 96), "image"))
    out = {"z_start": network.vqgan.latents(image)}
    out["z_e"] = network.codec.encode(out["z_start"])
    out["vq_indices"] = network.analyse(image)
    out["z_y"], out["z_y_start"] = network.codec.synthesise(out["vq_indices"])
    out["hint"] = network.unet.hint(out["z_y"], 8, 12)
    noises = [seeded(tuple(out["z_y_start"].shape), f"noise{k}") for k in range(2)]
    for n_steps in (1, 2):
        table = resshift.ddpm(network.config.diffusion, n_steps)
        out[f"z_0_L{n_steps}"] = network.denoise(out["z_y_start"], out["z_y"], table, noises)
    out["image"] = network.vqgan.decode(out["z_0_L1"])
    return out


@pytest.fixture(scope="module")
def computed() -> dict[str, torch.Tensor]:
    return stages()


@pytest.mark.parametrize("stage", list(np.load(RECORDED)) if RECORDED.exists() else ["not recorded"])
def test_stage_matches_the_recorded_values(computed: dict[str, torch.Tensor], stage: str) -> None:
    value, recorded = torch.from_numpy(kept(computed[stage])), np.load(RECORDED)[stage]
    error = relative_error(value, recorded)
    limit = 0.0 if stage == "vq_indices" else LIMIT
    assert error <= limit, f"{stage}: relative error {error:.1e}; if test_golden.py passes: see the module docstring"


def test_every_stage_is_recorded(computed: dict[str, torch.Tensor]) -> None:
    assert set(np.load(RECORDED)) == set(computed)


if __name__ == "__main__":
    recorded: dict[str, Any] = {name: kept(tensor) for name, tensor in stages().items()}
    np.savez(RECORDED, **recorded)
