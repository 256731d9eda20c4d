"""Stage II: fixed-step fine-tuning of all rates through the whole reconstruction (RDEIC section 3.3, Eq. 10).

    python -m training.finetune_steps --photos photos.tar --lambda-r 1 0.3 --n-steps 2 5 \\
        --base runs/vae/weights.safetensors runs/denoiser/weights.safetensors \\
        --init runs/codec/weights.safetensors --out runs/rates

Rates take turns, one a step: each has its own compression module and control net. D and the UNet, which they share,
learn along. The UNet's own task, to denoise without a control net, goes on beside it, so that Eq. 11 keeps its meaning.
Gradients go through the last two steps, and through the hint that all steps read.

The stage can be run in parts, each from what the one before left. ``--train codec`` runs no steps and learns the
compression modules from the pixels of D(z_c), at twice the speed; ``--train denoising`` leaves them, and so all files,
alone, so that what is gained must come from the control nets, the UNet and D.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from rdeic_export import schedule
from rdeic_export.modules.model import RdeicModel
from rdeic_rt.schedule import Schedule

from . import common, loop
from .train_codec import compress, sample_sheet, start, with_frozen_encoder
from .train_denoiser import denoising_loss

LEARNING_STEPS = 2  # last ones, through which gradients go


def main() -> None:
    """Run the stage; the results are ``base.safetensors`` and ``rate_<i>.safetensors``, in the order given."""
    p = common.parser(__doc__ or "")
    p.add_argument("--base", type=Path, nargs="+", required=True, help="weights of the autoencoder and the denoiser")
    p.add_argument("--init", type=Path, nargs="+", required=True, help="weights that stage I left: one, or one a rate")
    p.add_argument("--lambda-r", type=float, nargs="+", required=True, help="trade-off of Eq. 10, one a rate")
    p.add_argument("--n-steps", type=int, nargs="+", required=True, help="L, the fixed number of steps, one a rate")
    p.add_argument("--train", choices=("all", "codec", "denoising"), default="all", help="what learns, beside D")
    args = p.parse_args()
    count = len(args.lambda_r)
    if len(args.n_steps) != count or len(args.init) not in (1, count):
        p.error("--lambda-r and --n-steps take one value a rate, --init one file or one a rate")
    setup = common.prepare(args, "finetune")
    models = [setup.model, *(sibling(setup.model) for _ in range(count - 1))]
    for model, init in zip(models, args.init * (count // len(args.init)), strict=True):
        loop.load_weights(model, *args.base, init)
        model.codec.requires_grad_(args.train != "denoising")
        model.control.requires_grad_(args.train != "codec")
    setup.model.unet.requires_grad_(args.train != "codec")
    rates = nn.ModuleDict(
        {f"rate_{i}": nn.ModuleDict({"codec": m.codec, "control": m.control}) for i, m in enumerate(models)}
    )
    trained = nn.ModuleDict({"vae": with_frozen_encoder(setup.model), "unet": setup.model.unet, **rates})
    pixel_loss = common.PixelLoss(setup)
    tables = [schedule.ddpm(setup.model.config.diffusion, n) for n in args.n_steps]
    halves = [split_steps(table, LEARNING_STEPS) for table in tables]

    def step_loss(step: int) -> tuple[Tensor, loop.Metrics]:
        index = step % count
        model, table, (first, last) = models[index], tables[index], halves[index]
        image = setup.batch(step)
        z_0, features = common.latents(model, image)
        coded = compress(model, features, pixels=image.numel() // 3)
        if args.train == "codec":
            z_0_hat, prior = coded.z_c, coded.z_c.new_zeros(())
        else:
            z = start(coded.z_c, table)
            with torch.no_grad():
                z = model.denoise(z, coded.hint, first) if first else z
            z_0_hat = model.denoise(z, coded.hint, last).float()
            prior = setup.options["prior_weight"] * denoising_loss(model, z_0[: (len(z_0) + 1) // 2])
        pixels, metrics = pixel_loss(model.vae.decode(z_0_hat), image)
        latents = setup.options["latent_weight"] * (F.mse_loss(coded.z_c, z_0) + F.mse_loss(z_0_hat, z_0))
        # Eq. 10 divided by lambda_r, so that D, which all rates share, does not learn from the large files alone.
        loss = latents + pixels + prior + (coded.bpp + coded.codebook) / args.lambda_r[index]
        return loss, metrics | {
            "rate": float(index),
            "bpp": float(coded.bpp.detach()),
            "prior": float(prior.detach()),
            "z_0": float(F.mse_loss(z_0_hat.detach(), z_0)),
            "codes": float(len(coded.indices.unique())),
        }

    sheets = [sample_sheet(setup, model, table) for model, table in zip(models, tables, strict=True)]

    def samples() -> NDArray[np.uint8]:
        return np.concatenate([sheet() for sheet in sheets])

    loop.run(trained, step_loss, samples, setup.schedule, setup.out, seed=setup.seed, device=setup.device)
    if loop.process_rank() == 0:
        split(load_file(setup.out / "weights.safetensors"), setup.out, count)


def split_steps(table: Schedule, last: int) -> tuple[Schedule | None, Schedule]:
    """Return the steps of a table before its last ones, None if there are none, and those last ones."""

    def part(steps: slice) -> Schedule:
        return replace(table, timesteps=table.timesteps[steps], a=table.a[steps], b=table.b[steps], c=table.c[steps])

    return (part(slice(-last)) if table.n_steps > last else None), part(slice(-last, None))


def sibling(model: RdeicModel) -> RdeicModel:
    """Return a model with a compression module and a control net of its own and the networks of ``model`` otherwise."""
    other = RdeicModel(model.config).to(next(model.parameters()).device, memory_format=torch.channels_last)
    other.vae, other.unet = model.vae, model.unet
    return other


def split(state: dict[str, Tensor], out: Path, count: int) -> None:
    """Write the shared weights and each rate's to files of their own, with the keys of ``RdeicModel``."""
    shared = {k: v for k, v in state.items() if k.startswith(("vae.", "unet."))}
    loop.save_weights(out / "base.safetensors", shared)
    for index in range(count):
        prefix = f"rate_{index}."
        rate = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        loop.save_weights(out / f"{prefix}safetensors", rate)


if __name__ == "__main__":
    main()
