"""Signature: what one exported graph takes and returns, in names, dtypes and symbolic shapes.

Every size is a multiple of ``hz`` and ``wz``, the padded image's sides in units of 64 px, so that all graphs share the
same three free dimensions: ``batch``, ``hz`` and ``wz``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdeic_rt.tensor_spec import TensorSpec

from .config import ModelConfig
from .unet import UNet

Dim = int | str  # 8, "batch", "hz" or "8*hz"

SAMPLE_SIZES = {"batch": 2, "hz": 2, "wz": 3}  # no ones: the exporter would take them for constants
DTYPES = {"uint8": torch.uint8, "float32": torch.float32, "int64": torch.int64}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one graph, in order; integers that it reads are under ``index_bound``."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    index_bound: int = 2  # there are always two code vectors

    def arguments(self, values: Sequence[object]) -> tuple[object, ...]:
        """Return values, one per input in order, as the module takes them: ``residual_*`` as one list at the end."""
        pairs = list(zip(self.inputs, values, strict=True))
        plain = [value for tensor, value in pairs if not tensor.name.startswith("residual_")]
        grouped = [value for tensor, value in pairs if tensor.name.startswith("residual_")]
        return (*plain, grouped) if grouped else tuple(plain)


def sample(
    tensor: TensorSpec, generator: torch.Generator, sizes: Mapping[str, int] = SAMPLE_SIZES, *, index_bound: int = 2
) -> Tensor:
    """Return random values of a tensor's dtype and shape at the given free dimensions; indices under the bound."""
    shape = tensor.resolve(sizes)
    if tensor.dtype == "float32":
        return torch.randn(shape, generator=generator)
    bound = index_bound if tensor.dtype == "int64" else 256
    return torch.randint(bound, shape, dtype=DTYPES[tensor.dtype], generator=generator)


def grid(*leading: Dim, per_64_px: int) -> tuple[Dim, ...]:
    """Return a shape that ends in (rows, columns) of a grid with so many positions per 64 px."""
    scale = f"{per_64_px}*" if per_64_px > 1 else ""
    return (*leading, f"{scale}hz", f"{scale}wz")


def analysis(config: ModelConfig, level_width: int | None = None) -> Signature:
    """Image -> y and VQ indices; if rates share the graph, at the level given by a row of numbers."""
    m = config.compression.latent_channels
    return Signature(
        "analysis",
        (TensorSpec("image", "uint8", ("batch", "64*hz", "64*wz", 3)), *_level(level_width)),
        (
            TensorSpec("y", "float32", grid("batch", m, per_64_px=4)),
            TensorSpec("vq_indices", "int64", grid("batch", per_64_px=1)),
        ),
    )


def synthesis(config: ModelConfig, level_width: int | None = None) -> Signature:
    """y_hat -> z_c and hint; if rates share the graph, at the level given by a row of numbers."""
    m, c = config.compression.latent_channels, config.vae.latent_channels
    return Signature(
        "synthesis",
        (TensorSpec("y_hat", "float32", grid("batch", m, per_64_px=4)), *_level(level_width)),
        (_latent("z_c", c), _latent("hint", m)),
    )


def control(config: ModelConfig, unet: UNet, step_width: int) -> Signature:
    """z_n, hint and a row of the step table -> residuals."""
    m, c = config.compression.latent_channels, config.vae.latent_channels
    inputs = (_latent("z_n", c), _latent("hint", m), TensorSpec("step", "float32", (1, step_width)))
    return Signature("control", inputs, residuals(unet))


def unet_step(config: ModelConfig, unet: UNet, step_width: int) -> Signature:
    """z_n, a row of the step table, (a, b, c), noise and residuals -> z_prev."""
    c = config.vae.latent_channels
    inputs = (
        _latent("z_n", c),
        TensorSpec("step", "float32", (1, step_width)),
        TensorSpec("coefficients", "float32", (3,)),
        _latent("noise", c),
        *residuals(unet),
    )
    return Signature("unet_step", inputs, (_latent("z_prev", c),))


def vae_decoder(config: ModelConfig) -> Signature:
    """z_0 -> image."""
    return Signature(
        "vae_decoder",
        (_latent("z_0", config.vae.latent_channels),),
        (TensorSpec("image", "uint8", ("batch", "64*hz", "64*wz", 3)),),
    )


def residuals(unet: UNet) -> tuple[TensorSpec, ...]:
    """Return the control net's outputs: one tensor per UNet stage, at the resolution the stage has there."""
    levels = _stage_levels(unet)
    channels = unet.residual_channels
    return tuple(
        TensorSpec(f"residual_{i}", "float32", grid("batch", c, per_64_px=8 >> level))
        for i, (c, level) in enumerate(zip(channels, levels, strict=True))
    )


def _level(width: int | None) -> tuple[TensorSpec, ...]:
    return () if width is None else (TensorSpec("level", "float32", (1, width)),)


def _latent(name: str, channels: int) -> TensorSpec:
    return TensorSpec(name, "float32", grid("batch", channels, per_64_px=8))


def _stage_levels(unet: UNet) -> list[int]:
    """Level of the tensor each residual is added to, 0 the finest: after input stages, middle, before output stages."""
    blocks, last = unet.config.layers_per_block, len(unet.config.channels) - 1
    down = [0]
    for level in range(last + 1):
        down += [level] * blocks
        if level < last:
            down.append(level + 1)
    up = [last - i // (blocks + 1) for i in range(len(unet.output_blocks))]
    return [*down, last, *up]
