"""Stage *codec*: analysis, entropy model, synthesis and D learn to code photos, all rates at once, by MSE + rate.

    python -m training.train_codec --crops runs/crops.npy --validation val.tar --out runs/codec

Each crop has a rate of its own, drawn evenly from the largest to the smallest; see ``modules/gained.py``. There is no
denoising yet: what is decoded is D(z_c). After this stage files do not change any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from rdeic_eval.psnr import psnr_of_mse
from rdeic_export.modules.gained import rate_between
from rdeic_export.modules.model import RdeicModel

from . import common, data, loop, losses, transforms

RESTART_EVERY = 100  # steps between two restarts of unused code vectors
RESTART_UNTIL = 0.3  # fraction of the stage after which the codebook is left alone
SHEET_PHOTOS = 4


@dataclass(frozen=True)
class Coded:
    """One batch through the compression module in training.

    Attributes:
        z_c, hint: what synthesis returns.
        bpp: float [B], bits per pixel of each image.
        codebook: codebook and commitment loss, a scalar.
        indices, l_p: VQ indices and what they stand for.
    """

    z_c: Tensor
    hint: Tensor
    bpp: Tensor
    codebook: Tensor
    indices: Tensor
    l_p: Tensor


def compress(model: RdeicModel, image: Tensor, rate: Tensor) -> Coded:
    """Return z_c, the hint and the rate of images [B, 3, H, W] in [-1, 1], coded at rates [B]."""
    codec = common.codec_of(model)
    analysis_row, synthesis_row = codec.rows(rate)
    y = codec.analyse(model.vae.features(image), analysis_row)
    l_p = codec.hyper_enc(y)
    indices = codec.quantize.indices(l_p.float())
    code = codec.quantize.lookup(indices)
    hyper = codec.hyper_dec(l_p + (code - l_p).detach())
    with torch.autocast(image.device.type, enabled=False):
        slices = list(codec.predict(y, hyper.float(), noise_free_gradient=True))
    pixels = image.shape[2] * image.shape[3]
    index_bits = indices[0].numel() * np.log2(model.config.compression.codebook_size)
    z_c, hint = codec.synthesise(torch.cat([s.y_hat for s in slices], dim=1), synthesis_row)
    return Coded(
        z_c=z_c,
        hint=hint,
        bpp=(losses.gaussian_bits(slices, y) + index_bits) / pixels,
        codebook=losses.codebook_loss(l_p.float(), code.float()),
        indices=indices,
        l_p=l_p.detach(),
    )


def squared_error(decoded: Tensor, image: Tensor) -> Tensor:
    """Return the mean squared error of each image, float [B], in steps of 1/255, of images in [-1, 1]."""
    return (decoded.float() - image).square().mean((1, 2, 3)) * 127.5**2


def error_of_means(decoded: Tensor, image: Tensor) -> Tensor:
    """Return the mean squared error of 16-px blocks' means, float [B], in steps of 1/255, of images in [-1, 1]."""
    return F.avg_pool2d(decoded.float() - image, 16).square().mean((1, 2, 3)) * 127.5**2


class Codebook:
    """Moves code vectors that nothing chooses onto hyper latents, the same in all processes."""

    def __init__(self, model: RdeicModel) -> None:
        self._embedding = model.codec.quantize.embedding.weight
        self._usage = torch.zeros(len(self._embedding), device=self._embedding.device)
        self._candidates = torch.empty(0)

    def saw(self, coded: Coded) -> None:
        """Count what a batch chose, and keep what it chose for."""
        chosen = coded.indices.flatten()
        self._usage.scatter_add_(0, chosen, torch.ones_like(chosen, dtype=self._usage.dtype))
        self._candidates = coded.l_p.permute(0, 2, 3, 1).flatten(0, 2).float()

    def used(self) -> Tensor:
        """Return how many code vectors have been chosen lately, a scalar."""
        return (self._usage > 0).sum()

    @torch.no_grad()
    def restart(self, step: int, share: float) -> None:
        """Move what nothing chose since the last time; ``share`` of the training is done."""
        if step % RESTART_EVERY or share >= RESTART_UNTIL:
            return
        if loop.process_count() > 1:
            distributed.all_reduce(self._usage)
        unused = torch.nonzero(self._usage == 0).flatten()
        picks = self._candidates[torch.randperm(len(self._candidates))[: len(unused)]]
        self._embedding[unused[: len(picks)]] = picks
        if loop.process_count() > 1:
            distributed.broadcast(self._embedding, 0)
        self._usage.zero_()


def validation(setup: common.RdeicSetup, decode: Callable[[Coded], Tensor]) -> tuple[NDArray[np.uint8], loop.Metrics]:
    """Return a sheet of some validation photos and their decoded images, and measures on all, for each rate.

    Args:
        setup: has the photos.
        decode: coded -> image in [-1, 1].
    """
    metrics: loop.Metrics = {}
    columns = [data.to_images(setup.validation[:SHEET_PHOTOS])]
    for rate in range(common.codec_of(setup.model).rates):
        bpp, squares, means = [], [], []
        for index, image in enumerate(torch.split(setup.validation, 4)):
            coded = compress(setup.model, image, torch.full((len(image),), float(rate), device=image.device))
            decoded = decode(coded).float().clamp(-1, 1)
            bpp.append(coded.bpp)
            squares.append(squared_error(decoded, image))
            means.append(error_of_means(decoded, image))
            if index * 4 < SHEET_PHOTOS:
                columns.append(data.to_images(decoded))
        mse = torch.cat(squares)
        metrics |= {
            f"bpp_{rate}": float(torch.cat(bpp).mean()),
            f"psnr_{rate}": float(np.mean([psnr_of_mse(error, 255) for error in mse.tolist()])),
            f"mse16_{rate}": float(torch.cat(means).mean()),
            f"share16_{rate}": float(torch.cat(means).mean() / mse.mean()),
        }
    return loop.sheet(*columns), metrics


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with keys ``vae.*`` and ``codec.*``."""
    p = common.parser(__doc__ or "")
    p.add_argument(
        "--init", type=Path, nargs="+", help="weights of an earlier training to start from; default: linear transforms"
    )
    args = p.parse_args()
    setup = common.prepare(args, "codec", common.rdeic_model)
    model = setup.model
    lambdas = torch.tensor(setup.options["lambdas"], device=setup.device)
    middle = float(lambdas.log().mean().exp())
    if args.init:
        loop.load_weights(model, *args.init)
    elif not (setup.out / loop.CHECKPOINT).exists():  # what is resumed needs none of it, and it takes 9 GB
        transforms.start_from_linear(model, np.load(args.crops, mmap_mode="r"), setup.options["steps_of_y"])
    codebook = Codebook(model)
    rates = common.codec_of(model).rates

    def loss(image: Tensor) -> tuple[Tensor, loop.Parts]:
        rate = torch.rand(len(image), device=image.device) * (rates - 1)
        trade_off = rate_between(lambdas, rate)
        coded = compress(model, image, rate)
        codebook.saw(coded)
        decoded = model.vae.decode(coded.z_c)
        mse = squared_error(decoded, image)
        # Errors over large areas are seen more than others, and cost few bits.
        distortion = mse + setup.options["means_weight"] * error_of_means(decoded, image)
        latent = (coded.z_c - model.vae.latents(image)).square().mean()
        # Divided by the root of lambda, all rates weigh about the same.
        balanced = (trade_off * distortion + coded.bpp) * (middle / trade_off).sqrt()
        total = (
            balanced.mean()
            + setup.options["latent_weight"] * latent
            + setup.options["codebook_weight"] * coded.codebook
        )
        return total, {
            "bpp": coded.bpp.detach().mean(),
            "mse": mse.detach().mean(),
            "latent": latent.detach(),
            "codebook": coded.codebook.detach(),
            "codes": codebook.used(),
        }

    trained = nn.ModuleDict({"vae": model.vae, "codec": model.codec})
    loop.run(
        trained,
        setup.batch,
        loss,
        lambda: validation(setup, lambda coded: model.vae.decode(coded.z_c)),
        setup.schedule,
        setup.out,
        seed=setup.seed,
        device=setup.device,
        precision=setup.precision,
        after_step=codebook.restart,
    )


if __name__ == "__main__":
    main()
