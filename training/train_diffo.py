"""Stage *one_step* of DiffO: bases, codebooks, UNets and D learn together what decoded images look like.

    python -m training.train_diffo --crops runs/crops.npy --validation val.tar \
        --init runs/diffo/base/weights.safetensors --out runs/diffo/one_step

Gradients go through the whole decode: D, the one step, VQ-D, and straight through the quantiser to VQ-E (DiffO, section
3). Training draws z_T as decoding does, z_y_start plus noise; the released code mixes 36 % of the truth into it. The
UNet adds to the base, and starts by adding nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_export.modules.diffo import resshift
from rdeic_export.modules.diffo.model import DiffoModel

from . import diffo, loop
from .losses import PixelLoss


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with the keys of `diffo.DiffoRates`."""
    args = diffo.parser(__doc__ or "").parse_args()
    setup = diffo.prepare(args, "one_step")
    loop.load_weights(setup.model, args.init)
    run(setup)


def run(setup: diffo.DiffoSetup) -> None:
    """Train the models of a set-up, whose bases have their weights."""
    options, vae, models = setup.options, setup.model.vqgan, setup.model.models
    steps = {name: step_of(setup, model) for name, model in models.items()}
    for model in models.values():
        last = model.unet.out[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    weights = diffo.latent_weights(vae)
    books = diffo.codebooks(setup)
    pixel_loss = PixelLoss(options, setup.device)

    def loss(image: Tensor) -> tuple[Tensor, loop.Parts]:
        z_start, pixel_loss_of = vae.latents(image).detach(), pixel_loss.against(image)
        total, parts = z_start.new_zeros(()), {}
        for name, model in models.items():
            made = books[name].quantise(model.codec.encode(z_start))
            base = model.codec.decode(made.z_y)
            pixels, own = pixel_loss_of(vae.decode(steps[name](base, made.z_y)))
            # The preview is D's of the base.
            part = slice(0, (len(image) + 3) // 4)
            preview = F.mse_loss(vae.decode(base[part]).float(), image[part])
            error = (weights * (base.float() - z_start).square()).mean()
            total = total + pixels + options["commitment_weight"] * made.commitment
            total = total + options["base_weight"] * error + options["preview_weight"] * preview
            own |= {
                "preview": preview.detach(),
                "base": error.detach(),
                "commitment": made.commitment.detach(),
                "codes": books[name].used(),
            }
            parts |= {f"{name}.{key}": value for key, value in own.items()}
        return total, parts

    diffo.run(setup, books, loss, lambda: measure(setup, pixel_loss))


def step_of(setup: diffo.DiffoSetup, model: DiffoModel) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what makes z_0 of (z_y_start, z_y) at one rate, with fresh noise."""
    table = resshift.ddpm(model.config.diffusion)
    signal, noise = math.sqrt(table.abar_start), math.sqrt(1 - table.abar_start)
    timestep = torch.tensor(table.timesteps, device=setup.device)

    def one_step(base: Tensor, z_y: Tensor) -> Tensor:
        x = signal * base + noise * torch.randn_like(base)
        return model.predict(x, z_y, timestep.expand(len(x)), base)

    return one_step


def measure(setup: diffo.DiffoSetup, pixel_loss: PixelLoss) -> tuple[NDArray[np.uint8], loop.Metrics]:
    """Return a sheet, and measures on validation photos: those of `diffo.validate`, the loss and its parts."""
    totals: dict[str, float] = {}

    def decode(rate: str, image: Tensor) -> tuple[Tensor, Tensor]:
        model = setup.model.models[rate]
        indices = model.analyse(image)
        z_y, base = model.codec.synthesise(indices)
        decoded = model.vqgan.decode(step_of(setup, model)(base, z_y))
        loss, parts = pixel_loss(decoded, image)
        for name, value in {"loss": loss, **parts}.items():
            key = f"{rate}.{name}"
            totals[key] = totals.get(key, 0.0) + float(value) * len(image) / len(setup.validation)
        return decoded, indices

    sheet, metrics = diffo.validate(setup, decode)
    return sheet, {**metrics, **totals}


if __name__ == "__main__":
    main()
