"""What the stages of DiffO share: one rate's model and settings, its latents, and how well it does on photos."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_eval.psnr import psnr_of_mse
from rdeic_export.modules.diffo.config import DiffoConfig
from rdeic_export.modules.diffo.model import DiffoModel
from rdeic_export.modules.linear_vae import LinearVae
from rdeic_export.weights.diffo_recipe import MODELS
from rdeic_export.weights.state import read_state

from . import common, data, loop
from .common import Setup

DiffoSetup: TypeAlias = Setup[DiffoModel]
CONFIG = Path(__file__).parent / "configs" / "diffo-tiny.toml"
SHEET_PHOTOS = 4
STD_BATCHES = 8  # of crops, that the scales of latents are measured on


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every stage of DiffO takes."""
    p = common.parser(description)
    p.set_defaults(config=CONFIG)
    p.add_argument("--rate", required=True, help="which of the configuration's rates")
    p.add_argument("--init", type=Path, required=True, help="weights that the stage before left")
    return p


def prepare(args: argparse.Namespace, stage: str, *, sqrt_eta: float | None = None) -> DiffoSetup:
    """Return the set-up of one stage of one rate.

    Args:
        args: of `parser`.
        stage: its settings are the table of that name in the configuration file.
        sqrt_eta: noise instead of the configuration's.
    """
    return common.prepare(args, stage, lambda settings: DiffoModel(rate_config(settings, args.rate, sqrt_eta)))


def rate_config(settings: Mapping[str, Any], rate: str, sqrt_eta: float | None = None) -> DiffoConfig:
    """Return the networks of a rate of a configuration file; KeyError if it has none of this name."""
    numbers = {**settings["rates"][rate], **({} if sqrt_eta is None else {"sqrt_eta": sqrt_eta})}
    return MODELS[settings["model"]].at(**numbers)


def read_settings(path: Path) -> dict[str, Any]:
    """Return what a configuration file says."""
    return tomllib.loads(path.read_text())


def linear_vae(model: DiffoModel) -> LinearVae:
    """Return a model's E and D, which must be the small model's: no VQGAN can be trained here."""
    if not isinstance(model.vqgan, LinearVae):
        raise TypeError(f"E and D are a {type(model.vqgan).__name__}, no LinearVae")
    return model.vqgan


@torch.no_grad()
def start_from_rdeic(setup: DiffoSetup, weights: Path) -> None:
    """Take E and D from weights of the small RDEIC model, ``vae.*``, with latents scaled to a variance of one."""
    vae = linear_vae(setup.model)
    state = {key.removeprefix("vae."): value for key, value in read_state(weights).items() if key.startswith("vae.")}
    vae.load_state_dict({key: value.float() for key, value in state.items()})
    places, crop_px = range(setup.schedule.batch), setup.schedule.crop_px  # all processes must find the same
    batches = (data.batch(setup.squares, places, crop_px, setup.seed, step) for step in range(STD_BATCHES))
    vae.rescale(1 / torch.cat([vae.latents(images) for images in batches]).std((0, 2, 3)))


def latent_weights(model: DiffoModel) -> Tensor:
    """Return what an error of each channel of the latent is worth in pixels, float [C, 1, 1], 1 on average."""
    basis = linear_vae(model).basis
    squares = 1 / basis.square().sum(1)  # rows are orthogonal
    return (squares / squares.mean())[:, None, None]


def validate(
    setup: DiffoSetup, decode: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[NDArray[np.uint8], loop.Metrics]:
    """Return a sheet of validation photos and what they are decoded to, and measures on all photos.

    Args:
        setup: has the photos.
        decode: images in [-1, 1] -> (decoded, indices).
    """
    errors, sheets, counts = [], [], torch.zeros(setup.model.config.codebook_size)
    for image in torch.split(setup.validation, SHEET_PHOTOS):
        decoded, indices = decode(image)
        decoded = decoded.float().clamp(-1, 1)
        errors += ((decoded - image) * 127.5).square().mean((1, 2, 3)).tolist()
        sheets.append(data.to_images(decoded))
        counts += torch.bincount(indices.flatten().cpu(), minlength=len(counts))
    share = counts[counts > 0] / counts.sum()
    bits = float(-(share * share.log2()).sum())
    metrics = {
        "psnr": float(np.mean([psnr_of_mse(error, 255) for error in errors])),
        "bpp": bits / setup.model.config.index_px**2,  # by a prior of these very photos: a lower bound
        "codes": float((counts > 0).sum()),
    }
    return loop.sheet(data.to_images(setup.validation[:SHEET_PHOTOS]), sheets[0]), metrics


def run(
    setup: DiffoSetup,
    trained: Mapping[str, nn.Module],
    loss: Callable[[Tensor], tuple[Tensor, loop.Parts]],
    samples: Callable[[], tuple[NDArray[np.uint8], loop.Metrics]],
    after_step: Callable[[int, float], None],
) -> None:
    """Run a stage; arguments as of `loop.run`."""
    loop.run(
        nn.ModuleDict(trained),
        setup.batch,
        loss,
        samples,
        setup.schedule,
        setup.out,
        seed=setup.seed,
        device=setup.device,
        precision=setup.precision,
        after_step=after_step,
    )
