"""Stage *one_step* of DiffO: VQ-D, UNet and D learn together what decoded images look like; files stay as they are.

    python -m training.train_diffo --crops runs/crops.npy --validation val.tar \
        --init runs/diffo/base/weights.safetensors --out runs/diffo/one_step

What an optimal encoder for squared error writes is optimal for a perceptual decoder too (Yan et al., arXiv 2106.02782),
so VQ-E and codebook are left alone: with gradients straight through the quantiser to VQ-E, as in DiffO, section 3, z_e
left its codes behind, and the base lost 0.8 dB in 300 steps. Training draws z_T as decoding does, z_y_start plus noise;
the released code mixes 36 % of the truth into it. The UNet adds to the base. ``--init`` may also be what this stage
left before, or a recipe of `pack_diffo`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rdeic_export.modules.diffo import resshift
from rdeic_export.modules.diffo.model import DiffoModel

from . import diffo, loop
from .losses import PixelLoss

OneStep: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (base, z_y) -> z_0


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with the keys of `diffo.DiffoRates`."""
    args = diffo.parser(__doc__ or "").parse_args()
    setup = diffo.prepare(args, "one_step")
    diffo.load_weights(setup.model, args.init)
    run(setup)


def run(setup: diffo.DiffoSetup) -> None:
    """Train the models of a set-up that has its initial weights."""
    options, vae, models = setup.options, setup.model.vqgan, setup.model.models
    vae.requires_grad_(not options["frozen_vae"])
    steps = {name: step_of(setup, model) for name, model in models.items()}
    for model in models.values():
        model.codec.requires_grad_(False)
        for module in (model.codec.post_quant_conv, model.codec.decoder):
            module.requires_grad_(True)
    weights = diffo.latent_weights(vae)
    pixel_loss = PixelLoss(options, setup.device)

    def loss(image: Tensor) -> tuple[Tensor, loop.Parts]:
        z_start, pixel_loss_of = vae.latents(image).detach(), pixel_loss.against(image)
        total = z_start.new_zeros(())
        parts: loop.Parts = {}
        for name, model in models.items():
            z_y, base = model.codec.synthesise(model.codec.analyse(z_start))
            pixels, own = pixel_loss_of(vae.decode(steps[name](base, z_y)))
            # The preview is D's of the base.
            part = slice(0, (len(image) + 3) // 4)
            preview = F.mse_loss(vae.decode(base[part]).float(), image[part])
            error = (weights * (base.float() - z_start).square()).mean()
            total = total + pixels + options["base_weight"] * error + options["preview_weight"] * preview
            own |= {"preview": preview.detach(), "base": error.detach()}
            parts |= {f"{name}.{key}": value for key, value in own.items()}
        return total, parts

    diffo.run(setup, loss, lambda: measure(setup, steps, pixel_loss))


def step_of(setup: diffo.DiffoSetup, model: DiffoModel) -> OneStep:
    """Return what makes z_0 of (z_y_start, z_y) at one rate, with fresh noise."""
    table = resshift.ddpm(model.config.diffusion)
    signal, noise = math.sqrt(table.abar_start), math.sqrt(1 - table.abar_start)
    timestep = torch.tensor(table.timesteps, device=setup.device)

    def one_step(base: Tensor, z_y: Tensor) -> Tensor:
        x = signal * base + noise * torch.randn_like(base)
        return model.predict(x, z_y, timestep.expand(len(x)), base)

    return one_step


def measure(
    setup: diffo.DiffoSetup, steps: Mapping[str, OneStep], pixel_loss: PixelLoss
) -> tuple[NDArray[np.uint8], loop.Metrics]:
    """Return a sheet, and measures on validation photos: those of `diffo.validate`, the loss and its parts."""
    totals: dict[str, float] = {}

    def decode(rate: str, image: Tensor) -> tuple[Tensor, Tensor]:
        model = setup.model.models[rate]
        indices = model.analyse(image)
        z_y, base = model.codec.synthesise(indices)
        decoded = model.vqgan.decode(steps[rate](base, z_y))
        loss, parts = pixel_loss(decoded, image)
        for name, value in {"loss": loss, **parts}.items():
            key = f"{rate}.{name}"
            totals[key] = totals.get(key, 0.0) + float(value) * len(image) / len(setup.validation)
        return decoded, indices

    sheet, metrics = diffo.validate(setup, decode)
    return sheet, {**metrics, **totals}


if __name__ == "__main__":
    main()
