"""A random-weight DiffO of about half a megabyte with every kind of layer, so that its tests need no download."""

from __future__ import annotations

from rdeic_export.modules.diffo.config import AutoencoderConfig, DiffoConfig, SwinUNetConfig
from rdeic_export.modules.diffo.model import DiffoModel
from tests.micro.make_micro import randomise

# Codes at half the latent's resolution, narrow stems, attention in some levels, windows of two sizes.
MICRO_DIFFO = DiffoConfig(
    name="micro-diffo",
    vqgan=AutoencoderConfig(
        in_channels=3,
        stem_channels=8,
        channels=(8, 16),
        attention_levels=(False, True),
        z_channels=12,
        embed_dim=8,
        layers_per_block=1,
        norm_groups=4,
        pixel_unshuffle=4,
    ),
    latent=AutoencoderConfig(
        in_channels=8,
        stem_channels=8,
        channels=(16, 16),
        attention_levels=(True, False),
        z_channels=12,
        embed_dim=8,
        layers_per_block=1,
        norm_groups=4,
    ),
    unet=SwinUNetConfig(
        channels=(8, 16),
        layers_per_block=(2, 1),
        windows=(4, 2),
        hint_channels=4,
        swin_dim=8,
        head_dim=4,
        norm_groups=4,
    ),
    codebook_size=32,
)


def model(config: DiffoConfig = MICRO_DIFFO) -> DiffoModel:
    """Return a micro model with stable random weights, in evaluation mode."""
    network = DiffoModel(config)
    randomise(network, seed=0)
    quantize = network.codec.quantize
    quantize.embedding.weight.data.mul_(config.latent.embed_dim**0.5)
    quantize.cluster_size.abs_()
    return network.eval().requires_grad_(False)
