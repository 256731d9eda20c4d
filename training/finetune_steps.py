"""Stage II: fixed-step fine-tuning through the whole reconstruction (RDEIC section 3.3, Eq. 10).

    python -m training.finetune_steps --photos photos.tar --lambda-r 1 --n-steps 2 \\
        --base runs/vae/weights.safetensors runs/denoiser/weights.safetensors \\
        --init runs/rate1/weights.safetensors --out runs/rate1_step2
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from rdeic_export import schedule

from . import common, loop
from .losses import PerceptualDistance
from .train_codec import compress, frozen_base, sample_sheet, start


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with keys ``codec.*`` and ``control.*``."""
    p = common.parser(__doc__ or "")
    p.add_argument("--base", type=Path, nargs="+", required=True, help="weights of the autoencoder and the denoiser")
    p.add_argument("--init", type=Path, required=True, help="weights that stage I left")
    p.add_argument("--lambda-r", type=float, required=True, help="rate-distortion trade-off of Eq. 10")
    p.add_argument("--n-steps", type=int, required=True, help="L, the fixed number of denoising steps")
    args = p.parse_args()
    setup = common.prepare(args, "finetune")
    model = setup.model
    loop.load_weights(model, *args.base, args.init)
    trained = frozen_base(model)
    perceptual = PerceptualDistance().to(setup.device)
    table = schedule.ddpm(model.config.diffusion, args.n_steps)

    def step_loss(step: int) -> tuple[Tensor, loop.Metrics]:
        image = setup.batch(step)
        z_0, features = common.latents(model, image)
        coded = compress(model, features, pixels=image.numel() // 3)
        z_0_hat = model.denoise(start(coded.z_c, table), coded.hint, table).float()
        decoded = model.vae.decode(z_0_hat).float()
        distortion = F.mse_loss(coded.z_c, z_0) + F.mse_loss(z_0_hat, z_0)
        mse, p_distance = F.mse_loss(decoded, image), perceptual(decoded, image)
        pixels = setup.options["pixel_weight"] * mse + setup.options["perceptual_weight"] * p_distance
        loss = args.lambda_r * (distortion + pixels) + coded.bpp + coded.codebook  # Eq. 10
        return loss, {
            "bpp": float(coded.bpp.detach()),
            "z_0": float(F.mse_loss(z_0_hat.detach(), z_0)),
            "perceptual": float(p_distance.detach()),
            "psnr": common.psnr(decoded.detach(), image),
            "codes": float(len(coded.indices.unique())),
        }

    samples = sample_sheet(setup, model, table)
    loop.run(trained, step_loss, samples, setup.schedule, setup.out, seed=setup.seed, device=setup.device)


if __name__ == "__main__":
    main()
