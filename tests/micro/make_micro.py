"""A random-weight model of about a megabyte with every kind of layer, so that export tests need no download.

python -m tests.micro.make_micro FOLDER        # weights and a bundle, for trying things by hand
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from rdeic_export.modules.config import (
    CompressionConfig,
    ControlConfig,
    LinearVaeConfig,
    ModelConfig,
    UNetConfig,
    VaeConfig,
)
from rdeic_export.modules.model import RdeicModel
from rdeic_export.weights.recipe import RateRecipe, Recipe

PHOTOS = Path(__file__).parents[1] / "data" / "photos"

MICRO = ModelConfig(
    name="micro",
    vae=VaeConfig(channels=(16, 16), layers_per_block=1, pixel_unshuffle=4, norm_groups=4),
    compression=CompressionConfig(
        hyper_channels=8, latent_channels=16, slices=(4, 4, 8), codebook_size=32, context_widths=(12, 8)
    ),
    unet=UNetConfig(
        channels=(16, 32),
        layers_per_block=1,
        attention_levels=(True, False),
        head_dim=8,
        context_dim=12,
        context_tokens=5,
        norm_groups=8,
    ),
    control=ControlConfig(width_ratio=0.5, head_dim=4),
)
# Rates that share one compression module, from linear transforms.
MICRO_LEVELS = replace(
    MICRO,
    name="micro-levels",
    vae=LinearVaeConfig(latent_channels=6, width=8, blocks=1, fine_width=8, fine_blocks=1, pixel_width=4),
    compression=replace(MICRO.compression, hyper_widths=(8, 12), rates=3, analysis_width=16, synthesis_width=16),
)


def seeded(shape: tuple[int, ...], key: str) -> torch.Tensor:
    """Return standard normal float32 values that depend on the key only, on every machine."""
    generator = np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode())))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def randomise(network: nn.Module, seed: int) -> None:
    """Fill a network with stable random weights that keep activations near unit variance."""
    for key, value in network.state_dict().items():
        noise = seeded(tuple(value.shape), f"{seed}:{key}")
        fan_in = max(1, value[0].numel()) if value.dim() > 1 else 16
        is_norm = "norm" in key and key.endswith("weight")
        value.copy_(1 + 0.1 * noise if is_norm else noise / fan_in**0.5)


def model(seed: int = 0, config: ModelConfig = MICRO) -> RdeicModel:
    """Return a micro model with stable random weights that keep activations near unit variance."""
    network = RdeicModel(config)
    randomise(network, seed)
    for key, value in network.state_dict().items():
        if "gain" in key:  # coarser from rate to rate
            noise = seeded(tuple(value.shape), f"{seed}:{key}")
            value.copy_(torch.tensor([1.0, 0.3, -0.4])[:, None] * (-1 if "inverse" in key else 1) + 0.1 * noise)
    network.codec.quantize.embedding.weight.data.mul_(network.codec.config.hyper_channels**0.5)
    return network.eval().requires_grad_(False)


def recipe(folder: Path) -> Recipe:
    """Write the weights of two rates into ``folder`` and return the recipe that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    base, rates = folder / "base.safetensors", []
    for index, n_steps in enumerate((2, 5)):
        state = {k: v.half() for k, v in model(seed=index).state_dict().items()}
        own = {k: v.contiguous() for k, v in state.items() if k.startswith(("codec.", "control."))}
        save_file(own, folder / f"rate_{index}.safetensors")
        rates.append(RateRecipe(f"{n_steps} steps", 1.0 / n_steps, n_steps, folder / f"rate_{index}.safetensors"))
        if index == 0:
            save_file({k: v.contiguous() for k, v in state.items() if k not in own}, base)
    return Recipe(
        name="micro",
        config=MICRO,
        licence="Apache-2.0",
        default_rate=0,
        base=(base,),
        half_weights=True,
        rates=tuple(rates),
        provenance={"weights": "random"},
    )


def levels_recipe(folder: Path, config: ModelConfig = MICRO_LEVELS) -> Recipe:
    """Write the weights that all rates of a model share into ``folder`` and return their recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model(config=config).state_dict()
    save_file({k: v.half().contiguous() for k, v in state.items()}, folder / "weights.safetensors")
    return Recipe(
        name=config.name,
        config=config,
        licence="Apache-2.0",
        default_rate=1,
        base=(folder / "weights.safetensors",),
        half_weights=True,
        rates=(RateRecipe("larger", 1.0, 1, None, level=0), RateRecipe("smaller", 0.1, 2, None, level=100)),
        provenance={"weights": "random"},
    )


if __name__ == "__main__":
    from rdeic_export.bundle.build import build

    build(recipe(Path(sys.argv[1]) / "weights"), [PHOTOS], [], Path(sys.argv[1]) / "bundle")
