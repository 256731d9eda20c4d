"""Stage *one_step* of DiffO: base, codebook and UNet learn together what decoded images look like.

    python -m training.train_diffo --rate low --crops runs/crops.npy --validation val.tar \
        --init runs/low/base/weights.safetensors --out runs/low/one_step

Gradients go through the whole decode: D, the one step, VQ-D, and straight through the quantiser to VQ-E (DiffO, section
3). Training draws z_T as decoding does, z_y_start plus noise; the released code mixes 36 % of the truth into it. The
UNet adds to the base, and starts by adding nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_export.modules.diffo import resshift

from . import diffo, loop
from .codebook import Codebook
from .losses import PixelLoss


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with the keys of ``DiffoModel``."""
    args = diffo.parser(__doc__ or "").parse_args()
    setup = diffo.prepare(args, "one_step")
    loop.load_weights(setup.model, args.init)
    run(setup)


def run(setup: diffo.DiffoSetup) -> None:
    """Train the model of a set-up, whose base has its weights."""
    model, options = setup.model, setup.options
    model.vqgan.requires_grad_(False)
    last = model.unet.out[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    weights = diffo.latent_weights(model)
    codebook = Codebook(model.codec.quantize)
    pixel_loss = PixelLoss(options, setup.device)
    one_step = step_of(setup)

    def loss(image: Tensor) -> tuple[Tensor, loop.Parts]:
        z_start = model.vqgan.latents(image).detach()
        made = codebook.quantise(model.codec.encode(z_start))
        base = model.codec.decode(made.z_y)
        pixels, parts = pixel_loss(model.vqgan.decode(one_step(base, made.z_y)), image)
        # The preview is of the base.
        error = (weights * (base.float() - z_start).square()).mean()
        total = pixels + options["commitment_weight"] * made.commitment + options["base_weight"] * error
        parts |= {"base": error.detach(), "commitment": made.commitment.detach(), "codes": codebook.used()}
        return total, parts

    trained = {"vqgan": model.vqgan, "codec": model.codec, "unet": model.unet}
    diffo.run(setup, trained, loss, lambda: measure(setup, pixel_loss), codebook.after_step)


def step_of(setup: diffo.DiffoSetup) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what makes z_0 of (z_y_start, z_y), with fresh noise."""
    model = setup.model
    table = resshift.ddpm(model.config.diffusion)
    signal, noise = math.sqrt(table.abar_start), math.sqrt(1 - table.abar_start)
    timestep = torch.tensor(table.timesteps, device=setup.device)

    def one_step(base: Tensor, z_y: Tensor) -> Tensor:
        x = signal * base + noise * torch.randn_like(base)
        return model.predict(x, z_y, timestep.expand(len(x)), base)

    return one_step


def measure(setup: diffo.DiffoSetup, pixel_loss: PixelLoss) -> tuple[NDArray[np.uint8], loop.Metrics]:
    """Return a sheet, and measures on validation photos: those of `diffo.validate`, the loss and its parts."""
    model, one_step = setup.model, step_of(setup)
    totals: dict[str, float] = {}

    def decode(image: Tensor) -> tuple[Tensor, Tensor]:
        indices = model.analyse(image)
        z_y, base = model.codec.synthesise(indices)
        decoded = model.vqgan.decode(one_step(base, z_y))
        loss, parts = pixel_loss(decoded, image)
        for name, value in {"loss": loss, **parts}.items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(image) / len(setup.validation)
        return decoded, indices

    sheet, metrics = diffo.validate(setup, decode)
    return sheet, {**metrics, **totals}


if __name__ == "__main__":
    main()
