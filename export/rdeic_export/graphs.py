"""The graphs of one model after folding: modules and specs side by side, and the step tables that feed them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_rt.schedule import Schedule

from .fold import attention, steps, text, upsample
from .fold.pixels import AnalysisFromPixels, PixelsFromVae
from .fold.update import UnetStep
from .modules import signature
from .modules.control import ControlNet
from .modules.gained import GainedCompressionModel
from .modules.model import RdeicModel
from .modules.signature import Signature
from .modules.unet import UNetEncoder


@dataclass(frozen=True)
class FoldedGraph:
    """One graph to export."""

    module: nn.Module
    signature: Signature


class Synthesis(nn.Module):
    """g_s and the output convolution: y_hat -> (z_c, hint)."""

    def __init__(self, model: RdeicModel) -> None:
        super().__init__()
        self.codec = model.codec

    def forward(self, y_hat: Tensor, level: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (z_c, hint), float [B, C, h, w] and [B, M, h, w], of y_hat, float [B, M, h/2, w/2].

        ``level`` is a row of numbers, float [1, D], where rates share the compression module.
        """
        return self.codec.synthesise(y_hat, level)


class FoldedControl(nn.Module):
    """The control net with its text context and time embedding folded."""

    def __init__(self, control: ControlNet) -> None:
        super().__init__()
        self.control = control

    def forward(self, z_n: Tensor, hint: Tensor, step: Tensor) -> list[Tensor]:
        """Return the residuals; ``step`` is a row of the step table, float [1, D]."""
        residuals: list[Tensor] = self.control(z_n, hint, step, None)
        return residuals


def rate_graphs(model: RdeicModel) -> dict[str, FoldedGraph]:
    """Return the graphs that differ from rate to rate unless these share them: analysis, synthesis, control.

    The control net is folded in place: its step tables are computed before.
    """
    width = _fold(model.control, model.context)
    config = model.config
    of_analysis, of_synthesis = level_widths(model)
    return {
        "analysis": FoldedGraph(AnalysisFromPixels(model), signature.analysis(config, of_analysis)),
        "synthesis": FoldedGraph(Synthesis(model), signature.synthesis(config, of_synthesis)),
        "control": FoldedGraph(FoldedControl(model.control), signature.control(config, model.unet, width)),
    }


def shared_graphs(model: RdeicModel) -> dict[str, FoldedGraph]:
    """Return the graphs that all rates use: unet_step, vae_decoder.

    UNet and decoder are folded in place, not copied (they are gigabytes): nothing else can be done with them after.
    """
    width = _fold(model.unet, model.context)
    upsample.fold(model.unet)
    upsample.fold(model.vae)
    return {
        "unet_step": FoldedGraph(UnetStep(model.unet), signature.unet_step(model.config, model.unet, width)),
        "vae_decoder": FoldedGraph(PixelsFromVae(model.vae), signature.vae_decoder(model.config)),
    }


def step_tables(model: RdeicModel, table: Schedule) -> dict[str, NDArray[np.float32]]:
    """Return the rows of ``control`` and ``unet_step``, float32 [L, D] each, for a schedule's timesteps."""
    return {
        "control": steps.table(model.control, table.timesteps).numpy(),
        "unet_step": steps.table(model.unet, table.timesteps).numpy(),
    }


def level_widths(model: RdeicModel) -> tuple[int, int] | tuple[None, None]:
    """Return how many numbers a level gives to analysis and to synthesis; None where each rate has its own graphs."""
    return model.codec.level_widths if isinstance(model.codec, GainedCompressionModel) else (None, None)


def level_tables(model: RdeicModel, n_levels: int) -> dict[str, NDArray[np.float32]]:
    """Return the rows of ``analysis`` and ``synthesis``, float32 [n_levels, D] each, from the largest rate down."""
    assert isinstance(model.codec, GainedCompressionModel)
    with torch.no_grad():
        rows = model.codec.rows(torch.linspace(0, model.codec.rates - 1, n_levels))
    return {name: row.numpy() for name, row in zip(("analysis", "synthesis"), rows, strict=True)}


def _fold(network: UNetEncoder, context: Tensor) -> int:
    """Fold text and steps into the network, in place; return the width of its step table."""
    width = steps.table(network, [0]).shape[1]
    text.fold(network, context)
    attention.fold(network)
    steps.fold(network)
    return int(width)


def latents_of(
    model: RdeicModel, image: NDArray[np.uint8], level: NDArray[np.float32] | None = None
) -> tuple[Tensor, Tensor]:
    """Return (y, vq_indices) of a padded uint8 image [H, W, 3], as the analysis graph computes them.

    ``level`` is a row of `level_tables`, float32 [D].
    """
    row = None if level is None else torch.from_numpy(level)[None]
    with torch.no_grad():
        y, indices = AnalysisFromPixels(model)(torch.from_numpy(image)[None], row)
    return y, indices
