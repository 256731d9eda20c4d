"""Stage *texture*: stage decoder with a patch discriminator, so that what cannot be known looks like photos do.

    python -m training.train_texture --crops runs/crops.npy --validation val.tar \
        --init runs/decoder/weights.safetensors --out runs/texture

The discriminator sees the image and z_c, and says of every patch of 54 pixels whether it is a photo's (hinge loss). Its
weight in the decoder's loss rises from nothing. Keep what this stage learns only if a judge of another family than that
of the perceptual loss says so.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from . import common, loop
from .train_decoder import DecoderStage, run_stage


class PatchDiscriminator(nn.Module):
    """Scores of overlapping patches of an image, given z_c; as in pix2pix (arXiv 1611.07004, section 3.2.2)."""

    def __init__(self, z_channels: int, width: int = 48) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2))

        self.head = nn.ModuleList(
            [conv(3, width, 4, 2), conv(width, 2 * width, 4, 2), conv(2 * width, 3 * width, 4, 2)]
        )
        self.joint = conv(3 * width + z_channels, 4 * width, 3, 1)
        self.score = conv(4 * width, 1, 3, 1)

    def forward(self, image: Tensor, z_c: Tensor) -> Tensor:
        """Return scores, float [B, 1, H/8, W/8], of images [B, 3, H, W] in [-1, 1]; positive for photos."""
        h = image
        for layer in self.head:
            h = F.leaky_relu(layer(h), 0.2)
        h = F.leaky_relu(self.joint(torch.cat([h, z_c.to(h.dtype)], dim=1)), 0.2)
        out: Tensor = self.score(h).float()
        return out


class TextureStage(DecoderStage):
    """Stage decoder and its discriminator, which learn in the same steps."""

    def __init__(self, setup: common.RdeicSetup, init: list[Path]) -> None:
        super().__init__(setup, init)
        self.discriminator = common.on_device(PatchDiscriminator(setup.model.config.vae.latent_channels), setup.device)
        self.trained["discriminator"] = self.discriminator

        self.weight = torch.zeros((), device=setup.device)

    def after_step(self, step: int, share: float) -> None:
        """Let the discriminator's weight in the decoder's loss rise."""
        warm = min(1.0, step / self.setup.options["adversarial_warmup"])
        self.weight.fill_(warm * self.setup.options["adversarial_weight"])

    def loss(self, image: Tensor) -> tuple[Tensor, loop.Parts]:
        """Return the losses of decoder and discriminator together; each has gradients for its own networks only."""
        done = self.forward(image)
        # Between -1 and 1: the first channel of z_c alone would drown the image.
        z_c = F.softsign(done.coded.z_c.detach())
        self.discriminator.requires_grad_(False)
        fooled = -self.discriminator(done.decoded, z_c).mean()
        self.discriminator.requires_grad_(True)
        of_photo = self.discriminator(done.image, z_c)
        of_decoded = self.discriminator(done.decoded.detach(), z_c)
        judged = F.relu(1 - of_photo).mean() + F.relu(1 + of_decoded).mean()
        return done.loss + self.weight * fooled + judged, done.parts | {
            "fooled": fooled.detach(),
            "discriminator": judged.detach(),
            "caught": (of_decoded < 0).float().mean(),
        }


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with the keys of ``RdeicModel`` and of the discriminator."""
    run_stage(TextureStage, "texture", __doc__ or "")


if __name__ == "__main__":
    main()
