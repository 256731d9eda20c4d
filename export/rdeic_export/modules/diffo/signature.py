"""Signatures of DiffO's graphs; sizes are multiples of the model's unit, `DiffoConfig.image_multiple_px`."""

from __future__ import annotations

from rdeic_rt.tensor_spec import TensorSpec

from ..signature import Dim, Signature
from .config import DiffoConfig


def analysis(config: DiffoConfig) -> Signature:
    """Image -> VQ indices."""
    return Signature("analysis", (_image(config),), (_indices(config),))


def synthesis(config: DiffoConfig) -> Signature:
    """VQ indices -> z_c and hint."""
    hint = _latent(config, "hint", _hint_channels(config))
    return Signature("synthesis", (_indices(config),), (_latent(config, "z_c"), hint), index_bound=config.codebook_size)


def unet_step(config: DiffoConfig) -> Signature:
    """z_n and hint -> z_0."""
    hint = _latent(config, "hint", _hint_channels(config))
    return Signature("unet_step", (_latent(config, "z_n"), hint), (_latent(config, "z_0"),))


def vae_decoder(config: DiffoConfig) -> Signature:
    """z_0 -> image."""
    return Signature("vae_decoder", (_latent(config, "z_0"),), (_image(config),))


def _hint_channels(config: DiffoConfig) -> int:
    """Return the channels of what is added behind the UNet's first convolution and, where it is, to its output."""
    return config.unet.channels[0] + (config.latent_channels if config.unet.adds_base else 0)


def _image(config: DiffoConfig) -> TensorSpec:
    return TensorSpec("image", "uint8", ("batch", *_grid(config, 1), 3))


def _indices(config: DiffoConfig) -> TensorSpec:
    return TensorSpec("vq_indices", "int64", ("batch", *_grid(config, config.index_px)))


def _latent(config: DiffoConfig, name: str, channels: int | None = None) -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", channels or config.latent_channels, *_grid(config, config.latent_px)))


def _grid(config: DiffoConfig, position_px: int) -> tuple[Dim, Dim]:
    """Return the rows and columns of a grid with a position for so many pixels along a side."""
    factor = config.image_multiple_px // position_px
    scale = f"{factor}*" if factor > 1 else ""
    return f"{scale}hz", f"{scale}wz"
