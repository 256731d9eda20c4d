"""Stage I: independent training of the compression module and control net at one lambda_r (RDEIC section 3.3, Eq. 9).

The decoder D learns along: unlike Stable Diffusion's it has not seen enough photos to be left as it is, and the terms
on the pixels of D(z_c) tell the compression module what is worth its bits.

    python -m training.train_codec --photos photos.tar --lambda-r 1 \\
        --base runs/vae/weights.safetensors runs/denoiser/weights.safetensors --out runs/rate1
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_export import schedule
from rdeic_export.modules.model import RdeicModel
from rdeic_rt.schedule import Schedule

from . import common, data, loop, losses

RESTART_EVERY = 100  # steps between two restarts of unused code vectors
RESTART_UNTIL = 0.5  # fraction of the stage after which the codebook is left alone
INITIAL_DEVIATION = 2.0  # of y: a y that rounds to zero everywhere takes long to learn to say anything


@dataclass(frozen=True)
class Coded:
    """One batch through the compression module in training."""

    z_c: Tensor
    hint: Tensor
    bpp: Tensor
    codebook: Tensor
    indices: Tensor
    l_p: Tensor


def compress(model: RdeicModel, features: Tensor, pixels: int) -> Coded:
    """Return z_c, the hint and the rate of VAE features [B, c, h, w] that stand for ``pixels`` pixels in all."""
    codec = model.codec
    y = codec.g_a(features * model.config.vae.scale_factor)
    l_p = codec.hyper_enc(y)
    indices = codec.quantize.indices(l_p.float())
    code = codec.quantize.lookup(indices)
    hyper = codec.hyper_dec(l_p + (code - l_p).detach())
    slices = list(codec.predict(y, hyper, noise_free_gradient=True))
    index_bits = indices.numel() * np.log2(model.config.compression.codebook_size)
    z_c, hint = codec.synthesise(torch.cat([s.y_hat for s in slices], dim=1))
    return Coded(
        z_c=z_c.float(),
        hint=hint,
        bpp=(losses.gaussian_bits(slices) + index_bits) / pixels,
        codebook=losses.codebook_loss(l_p.float(), code.float()),
        indices=indices,
        l_p=l_p.detach(),
    )


@torch.no_grad()
def restart_unused(model: RdeicModel, coded: Coded, usage: Tensor) -> None:
    """Move code vectors that no recent batch chose onto hyper latents of this one; ``usage`` counts and is reset."""
    unused = torch.nonzero(usage == 0).flatten()
    candidates = coded.l_p.permute(0, 2, 3, 1).flatten(0, 2).float()
    chosen = unused[torch.randperm(len(unused))[: len(candidates)]]
    picks = candidates[torch.randperm(len(candidates))[: len(chosen)]]
    model.codec.quantize.embedding.weight[chosen] = picks.to(model.codec.quantize.embedding.weight.dtype)
    usage.zero_()


def with_frozen_encoder(model: RdeicModel) -> nn.ModuleDict:
    """Freeze E, so that latents stay; return D, which stages I and II train."""
    model.vae.requires_grad_(False)
    kl = model.vae.kl
    decoder = nn.ModuleDict({"decoder": kl.decoder, "post_quant_conv": kl.post_quant_conv})
    return nn.ModuleDict({"kl": decoder.requires_grad_(True)})


def zero_connections(model: RdeicModel) -> None:
    """Start from the plain denoiser: the control net adds nothing until it has learnt to."""
    for connection in model.control.connections:
        nn.init.zeros_(connection.weight)
        nn.init.zeros_(connection.bias)


@torch.no_grad()
def scale_latents(model: RdeicModel, image: Tensor) -> None:
    """Scale the last layer of g_a so that y has ``INITIAL_DEVIATION`` on these images [B, 3, H, W]."""
    last = model.codec.g_a[-1]
    y, _ = model.analyse(image)
    last.weight *= INITIAL_DEVIATION / y.std()
    last.bias *= INITIAL_DEVIATION / y.std()


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with keys ``codec.*``, ``control.*`` and those of D."""
    p = common.parser(__doc__ or "")
    p.add_argument("--base", type=Path, nargs="+", required=True, help="weights of the autoencoder and the denoiser")
    p.add_argument("--init", type=Path, help="weights of another rate, or a part of them, to start from")
    p.add_argument("--lambda-r", type=float, required=True, help="rate-distortion trade-off of Eq. 9")
    args = p.parse_args()
    setup = common.prepare(args, "codec")
    if loop.process_count() > 1:
        p.error("this stage runs in one process: it restarts code vectors that the whole batch leaves unused")
    model = setup.model
    loop.load_weights(model, *args.base)
    zero_connections(model)
    if args.init:
        loop.load_weights(model, args.init)
    else:
        scale_latents(model, setup.batch(0))
    model.unet.requires_grad_(False)
    trained = nn.ModuleDict({"vae": with_frozen_encoder(model), "codec": model.codec, "control": model.control})
    pixel_loss = common.PixelLoss(setup)
    diffusion = model.config.diffusion
    abar = torch.from_numpy(schedule.abar(diffusion)).float().to(setup.device)
    last = abar[diffusion.used_timesteps - 1]
    lambda_residual = (last / (1 - last)).sqrt()  # lambda of Eq. 4
    omega_floor = setup.options["omega_floor"]
    usage = torch.zeros(model.config.compression.codebook_size, device=setup.device)

    def step_loss(step: int) -> tuple[Tensor, loop.Metrics]:
        image = setup.batch(step)
        z_0, features = common.latents(model, image)
        coded = compress(model, features, pixels=image.numel() // 3)
        usage.index_add_(0, coded.indices.flatten(), torch.ones(coded.indices.numel(), device=setup.device))
        if step % RESTART_EVERY == 0 and step < RESTART_UNTIL * setup.schedule.steps:
            restart_unused(model, coded, usage)

        timesteps = torch.randint(diffusion.used_timesteps, (image.shape[0],), device=setup.device)
        level = abar[timesteps][:, None, None, None]
        target = lambda_residual * (coded.z_c - z_0) + torch.randn_like(z_0)  # Eq. 6
        z_n = level.sqrt() * z_0 + (1 - level).sqrt() * target
        context = model.context.expand(len(z_n), -1, -1)
        residuals = model.control(z_n, coded.hint, model.control.time_embed(timesteps), context)
        eps = model.unet(z_n, model.unet.time_embed(timesteps), context, residuals).float()
        omega = ((1 - level) / level).clamp(min=omega_floor)  # Eq. 8
        noise_estimation = (omega * (target - eps).square()).mean()
        distortion = F.mse_loss(coded.z_c, z_0)
        pixels, metrics = pixel_loss(model.vae.decode(coded.z_c), image)
        latents = setup.options["latent_weight"] * (distortion + noise_estimation)
        loss = args.lambda_r * (latents + pixels) + coded.bpp + coded.codebook  # Eq. 9 and the pixels
        return loss, metrics | {
            "bpp": float(coded.bpp.detach()),
            "z_c": float(distortion.detach()),
            "ne": float(noise_estimation.detach()),
            "codebook": float(coded.codebook.detach()),
            "codes": float(len(coded.indices.unique())),
        }

    table = schedule.ddpm(diffusion, 5)
    samples = sample_sheet(setup, model, table)
    loop.run(trained, step_loss, samples, setup.schedule, setup.out, seed=setup.seed, device=setup.device)


def sample_sheet(setup: common.Setup, model: RdeicModel, table: Schedule) -> common.Samples:
    """Return a function that makes the sheet: the photo, D(z_c) without denoising, and the whole decode."""

    def samples() -> NDArray[np.uint8]:
        _, features = common.latents(model, setup.validation)
        coded = compress(model, features, pixels=1)
        z_0 = model.denoise(start(coded.z_c, table), coded.hint, table)
        columns = (setup.validation, model.vae.decode(coded.z_c), model.vae.decode(z_0))
        return loop.sheet(*map(data.to_images, columns))

    return samples


def start(z_c: Tensor, table: Schedule) -> Tensor:
    """Return z_N with fresh noise, float [B, C, h, w]."""
    return table.abar_start**0.5 * z_c + (1 - table.abar_start) ** 0.5 * torch.randn_like(z_c)


if __name__ == "__main__":
    main()
