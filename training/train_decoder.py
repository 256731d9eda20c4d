"""Stage *decoder*: synthesis, control net, UNet and D learn what decoded images look like; files stay as they are.

    python -m training.train_decoder --crops runs/crops.npy --validation val.tar \
        --init runs/codec/weights.safetensors --out runs/decoder

What an optimal encoder for squared error writes is optimal for a perceptual decoder too (Yan et al., arXiv 2106.02782),
so analysis and entropy model are left alone. Gradients go through the whole decode, all L steps of it (RDEIC section
3.3, Eq. 10). The UNet's own task, to denoise without a control net, goes on beside it, so that Eq. 11 keeps its
meaning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdeic_export.modules import samplers
from rdeic_export.modules.model import RdeicModel
from rdeic_rt.schedule import Schedule

from . import common, loop
from .losses import PixelLoss
from .train_codec import Coded, compress, validation


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with the keys of ``RdeicModel``."""
    run_stage(DecoderStage, "decoder", __doc__ or "")


def run_stage(kind: type[DecoderStage], name: str, description: str) -> None:
    """Read the command line of a stage with a frozen bitstream, and run it; ``name`` is its table of settings."""
    p = common.parser(description)
    p.add_argument("--init", type=Path, nargs="+", required=True, help="weights of the previous stage, or of this one")
    args = p.parse_args()
    setup = common.prepare(args, name, common.rdeic_model)
    stage = kind(setup, args.init)
    loop.run(
        stage.trained,
        setup.batch,
        stage.loss,
        lambda: validation(setup, stage.decode),
        setup.schedule,
        setup.out,
        seed=setup.seed,
        device=setup.device,
        precision=setup.precision,
        after_step=stage.after_step,
    )


@dataclass(frozen=True)
class Step:
    """One step of stage decoder.

    Attributes:
        image: crops, float [B, 3, H, W] in [-1, 1].
        coded, decoded: what became of them.
        loss, parts: as `loop.run` takes them.
    """

    image: Tensor
    coded: Coded
    decoded: Tensor
    loss: Tensor
    parts: loop.Parts


class DecoderStage:
    """What the stages with a frozen bitstream share: the decode, its losses, and which networks learn."""

    def __init__(self, setup: common.RdeicSetup, init: list[Path]) -> None:
        self.setup, self.model = setup, setup.model
        model = self.model
        zero_connections(model)
        loop.load_weights(model, *init)
        model.requires_grad_(False)
        codec = common.codec_of(model)
        for module in (model.vae, codec.g_s, model.control, model.unet):
            module.requires_grad_(True)
        for parameter in (codec.log_inverse_gain, codec.synthesis_bias):
            parameter.requires_grad_(True)
        self.trained = nn.ModuleDict({"vae": model.vae, "codec": codec, "control": model.control, "unet": model.unet})
        self.table = samplers.ddpm(model.config.diffusion, setup.options["n_steps"])
        self.abar = torch.from_numpy(samplers.abar(model.config.diffusion)).float().to(setup.device)
        self.pixel_loss = PixelLoss(setup.options, setup.device)

    def decode(self, coded: Coded) -> Tensor:
        """Return the whole decode, float [B, 3, H, W] about [-1, 1]."""
        z_0 = self.model.denoise(start(coded.z_c, self.table), coded.hint, self.table)
        return self.model.vae.decode(z_0)

    def loss(self, image: Tensor) -> tuple[Tensor, loop.Parts]:
        """Return the loss of crops, and its parts."""
        done = self.forward(image)
        return done.loss, done.parts

    def after_step(self, step: int, share: float) -> None:
        """Do what the next step needs; here nothing."""

    def forward(self, image: Tensor) -> Step:
        """Code and decode crops, float [B, 3, H, W] in [-1, 1], at rates of their own."""
        setup, model = self.setup, self.model
        rate = torch.rand(len(image), device=image.device) * (common.codec_of(model).rates - 1)
        coded = compress(model, image, rate)
        decoded = self.decode(coded)
        pixels, parts = self.pixel_loss(decoded, image)
        part = slice(0, (len(image) + 3) // 4)
        # D serves the preview too, which is of z_c.
        preview = F.mse_loss(model.vae.decode(coded.z_c[part]).float(), image[part])
        z_0 = model.vae.latents(image)
        prior = denoising_loss(model, z_0[: len(z_0) // 2], self.abar)
        loss = pixels + setup.options["preview_weight"] * preview + setup.options["prior_weight"] * prior
        parts |= {"bpp": coded.bpp.mean(), "preview": preview.detach(), "prior": prior.detach()}
        return Step(image, coded, decoded, loss, parts)


def denoising_loss(model: RdeicModel, z_0: Tensor, abar: Tensor) -> Tensor:
    """Return the mean squared error of eps_sd on latents [B, C, h, w], at random timesteps below N.

    ``abar``: float [N or more], the share of the variance that is not noise, of each timestep.
    """
    diffusion = model.config.diffusion
    # Decoding starts at N, so only the first N timesteps are ever asked for.
    timesteps = torch.randint(diffusion.used_timesteps, (len(z_0),), device=z_0.device)
    level = abar[timesteps][:, None, None, None]
    eps = torch.randn_like(z_0)
    z_n = level.sqrt() * z_0 + (1 - level).sqrt() * eps
    predicted = model.unet(z_n, model.unet.time_embed(timesteps), model.context.expand(len(z_n), -1, -1))
    return F.mse_loss(predicted.float(), eps)


def zero_connections(model: RdeicModel) -> None:
    """Start from the plain denoiser: the control net adds nothing until it has learnt to."""
    for connection in model.control.connections:
        for parameter in connection.parameters():
            nn.init.zeros_(parameter)


def start(z_c: Tensor, table: Schedule) -> Tensor:
    """Return z_N with fresh noise, float [B, C, h, w]."""
    return math.sqrt(table.abar_start) * z_c + math.sqrt(1 - table.abar_start) * torch.randn_like(z_c)


if __name__ == "__main__":
    main()
