"""Stage 0: train the autoencoder (E, D) on crops, then standardise its latents.

python -m training.train_vae --photos photos.tar --out runs/vae
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_export.modules.vae import Vae
from rdeic_rt.evaluation.perceptual import FeatureDistance

from . import common, data, loop
from .losses import PERCEPTUAL_NETWORK

STANDARDISING_BATCHES = 50


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with keys ``vae.*``."""
    setup = common.prepare(common.parser(__doc__ or "").parse_args(), "vae")
    vae = setup.model.vae
    perceptual = FeatureDistance(PERCEPTUAL_NETWORK).to(setup.device)

    def step_loss(step: int) -> tuple[Tensor, loop.Metrics]:
        image = setup.batch(step)
        mean, log_variance = vae.moments(vae.features(image))
        log_variance = log_variance.float().clamp(-20, 10)
        sample = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        decoded = vae.decode(sample * vae.config.scale_factor)
        kl = 0.5 * (mean.float().square() + log_variance.exp() - 1 - log_variance).mean()
        l1 = F.l1_loss(decoded.float(), image)
        half = (image.shape[0] + 1) // 2  # the perceptual network costs as much as the decoder: half a batch is enough
        p = perceptual(decoded[:half].float(), image[:half])
        loss = l1 + setup.options["perceptual_weight"] * p + setup.options["kl_weight"] * kl
        metrics = {"l1": float(l1.detach()), "perceptual": float(p.detach()), "kl": float(kl.detach())}
        return loss, metrics | {"psnr": common.psnr(decoded.detach(), image)}

    def samples() -> NDArray[np.uint8]:
        mean, _ = vae.moments(vae.features(setup.validation))
        decoded = vae.decode(mean * vae.config.scale_factor)
        return loop.sheet(data.to_images(setup.validation), data.to_images(decoded))

    trained = nn.ModuleDict({"vae": vae})
    loop.run(trained, step_loss, samples, setup.schedule, setup.out, seed=setup.seed, device=setup.device)
    mean, std = _latent_statistics(setup)
    standardise(vae, mean, std)
    loop.save_weights(setup.out / "weights.safetensors", trained.state_dict())


@torch.no_grad()
def _latent_statistics(setup: common.Setup) -> tuple[Tensor, Tensor]:
    vae = setup.model.vae
    latents = [vae.moments(vae.features(setup.batch(-1 - i)))[0] for i in range(STANDARDISING_BATCHES)]
    stacked = torch.cat(latents).transpose(0, 1).flatten(1)
    return stacked.mean(1), stacked.std(1)


@torch.no_grad()
def standardise(vae: Vae, mean: Tensor, std: Tensor) -> None:
    """Fold a per-channel affine map into the layers around the latent, so that it has mean 0 and deviation 1.

    Args:
        vae: changed in place; decoding its own latents gives the same image as before.
        mean, std: float [C], of the latents as they are now.
    """
    channels = mean.numel()
    quant, post = vae.kl.quant_conv, vae.kl.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()


if __name__ == "__main__":
    main()
