"""Command-line options and set-up that every training script shares."""

from __future__ import annotations

import argparse
import logging
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rdeic_export.modules.model import RdeicModel
from rdeic_export.recipe import MODELS
from rdeic_rt.evaluation.perceptual import FeatureDistance

from . import data, loop
from .loop import Metrics, Schedule
from .losses import PERCEPTUAL_NETWORK

Samples = Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class Setup:
    """What a training script starts from: the model, its photos, its options and where it writes."""

    model: RdeicModel
    photos: list[NDArray[np.uint8]]
    validation: Tensor
    schedule: Schedule
    options: dict[str, Any]
    out: Path
    seed: int
    device: str

    def batch(self, step: int) -> Tensor:
        """Return this process's crops of one step, float [B, 3, crop, crop] in [-1, 1], on the device."""
        share = self.schedule.batch // loop.process_count()
        places = range(loop.process_rank() * share, (loop.process_rank() + 1) * share)
        crops = data.batch(self.photos, places, self.schedule.crop_px, self.seed, step)
        return crops.to(self.device, memory_format=torch.channels_last)


class PixelLoss:
    """The terms of Eq. 10 on pixels: squared error and perceptual distance, weighted as the stage's settings say."""

    def __init__(self, setup: Setup) -> None:
        self._perceptual = FeatureDistance(PERCEPTUAL_NETWORK).to(setup.device, memory_format=torch.channels_last)
        self._weights = setup.options["pixel_weight"], setup.options["perceptual_weight"]

    def __call__(self, decoded: Tensor, image: Tensor) -> tuple[Tensor, Metrics]:
        """Return the loss, a scalar, and the metrics of two batches [B, 3, H, W] in [-1, 1]."""
        decoded = decoded.float()
        mse, distance = F.mse_loss(decoded, image), self._perceptual(decoded, image)
        metrics = {"perceptual": float(distance.detach()), "psnr": psnr(decoded.detach(), image)}
        return self._weights[0] * mse + self._weights[1] * distance, metrics


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options every stage takes."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--photos", type=Path, nargs="+", required=True, help="folders, tar archives or files of photos")
    p.add_argument("--out", type=Path, required=True, help="folder of this run; an interrupted run there is resumed")
    p.add_argument(
        "--config", type=Path, default=Path(__file__).parent / "configs" / "tiny.toml", help="stage settings"
    )
    p.add_argument("--steps", type=int, help="optimiser steps, instead of the configuration's")
    p.add_argument("--batch", type=int, help="crops a step, instead of the configuration's")
    p.add_argument("--seed", type=int, default=0, help="seed of data order, noise and initial weights")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    p.add_argument("--samples", type=int, default=4, help="photos on the sample sheets, taken from the last ones")
    return p


def prepare(args: argparse.Namespace, stage: str) -> Setup:
    """Return the set-up of one stage; its settings are the table of that name in the configuration file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    loop.join_processes()
    torch.manual_seed(args.seed)
    settings = tomllib.loads(args.config.read_text())
    options = settings[stage]
    fields = {k: options.pop(k) for k in list(options) if k in Schedule.__dataclass_fields__}
    fields |= {k: getattr(args, k) for k in ("steps", "batch") if getattr(args, k)}
    schedule = Schedule(**fields)
    photos = data.load_photos(args.photos, schedule.crop_px)
    held_out, photos = photos[-args.samples :], photos[: -args.samples]
    side = 2 * schedule.crop_px
    squares = np.stack([_centre(photo, side) for photo in held_out])
    return Setup(
        # Convolutions in bfloat16 run up to twice as fast in this order of dimensions.
        model=RdeicModel(MODELS[settings["model"]]).to(args.device, memory_format=torch.channels_last),
        photos=photos,
        validation=data.to_tensor(squares).to(args.device),
        schedule=schedule,
        options=options,
        out=args.out,
        seed=args.seed,
        device=args.device,
    )


@torch.no_grad()
def latents(model: RdeicModel, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return (z_0, h): the frozen autoencoder's scaled latent and features of images in [-1, 1]."""
    features = model.vae.features(image)
    mean, _ = model.vae.moments(features)
    return mean.float() * model.config.vae.scale_factor, features


def psnr(image: Tensor, reference: Tensor) -> float:
    """Return the PSNR in dB of images in [-1, 1]."""
    mse = float((image.float().clamp(-1, 1) - reference).square().mean())
    return float(10 * np.log10(4.0 / max(mse, 1e-12)))


def _centre(photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    padded = np.pad(
        photo, [(0, max(0, side - photo.shape[0])), (0, max(0, side - photo.shape[1])), (0, 0)], "symmetric"
    )
    top, left = (padded.shape[0] - side) // 2, (padded.shape[1] - side) // 2
    return padded[top : top + side, left : left + side]
