"""What the stages of DiffO share: all rates' networks and settings, their latents, and how well they do on photos.

Rates are trained together, on the same crops: they share D, which learns to decode all of them.
"""

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
from rdeic_export.modules.linear_vae import LinearVae, zero
from rdeic_export.weights import any_recipe
from rdeic_export.weights.diffo_recipe import MODELS, DiffoRecipe
from rdeic_export.weights.state import read_state

from . import common, data, loop
from .common import Setup

CONFIG = Path(__file__).parent / "configs" / "diffo-tiny.toml"
SHARED = "vqgan"  # E and D of all rates; what begins keys of a rate's own networks is the rate's name
SHEET_PHOTOS = 4
STD_BATCHES = 8  # of crops, that the scales of latents are measured on


class DiffoRates(nn.Module):
    """The networks of several rates; keys are ``vqgan.*``, and ``RATE.codec.*`` and ``RATE.unet.*`` of each rate.

    Attributes:
        models: by name, complete models of which ``vqgan`` is one and the same.
        vqgan: E and D.
    """

    def __init__(self, configs: Mapping[str, DiffoConfig]) -> None:
        super().__init__()
        self.models = {name: DiffoModel(config) for name, config in configs.items()}  # no modules of this one
        first = next(iter(self.models.values())).vqgan
        if not isinstance(first, LinearVae):
            raise TypeError(f"E and D are a {type(first).__name__}, no LinearVae: no VQGAN can be trained here")
        self.vqgan = first
        for name, model in self.models.items():
            model.vqgan = first
            zero(_last(model))  # the UNet starts by adding nothing to the base
            self.add_module(name, nn.ModuleDict({"codec": model.codec, "unet": model.unet}))


def _last(model: DiffoModel) -> nn.Conv2d:
    last = model.unet.out[-1]
    assert isinstance(last, nn.Conv2d)
    return last


DiffoSetup: TypeAlias = Setup[DiffoRates]


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every stage of DiffO takes."""
    p = common.parser(description)
    p.set_defaults(config=CONFIG)
    p.add_argument("--init", type=Path, required=True, help="weights of the previous stage, or a packed recipe")
    return p


def prepare(args: argparse.Namespace, stage: str, *, sqrt_eta: float | None = None) -> DiffoSetup:
    """Return the set-up of one stage.

    Args:
        args: of `parser`.
        stage: its settings are the table of that name in the configuration file.
        sqrt_eta: noise of all rates, instead of the configuration's.
    """
    return common.prepare(args, stage, lambda settings: DiffoRates(configs(settings, sqrt_eta)))


def configs(settings: Mapping[str, Any], sqrt_eta: float | None = None) -> dict[str, DiffoConfig]:
    """Return the networks of each rate of a configuration file, by name."""
    own = {} if sqrt_eta is None else {"sqrt_eta": sqrt_eta}
    return {name: MODELS[settings["model"]].at(**{**numbers, **own}) for name, numbers in settings["rates"].items()}


def read_settings(path: Path) -> dict[str, Any]:
    """Return what a configuration file says."""
    return tomllib.loads(path.read_text())


def is_own(weights: Path) -> bool:
    """Return whether a file is what a stage of DiffO left, or a recipe, and not the small RDEIC model's."""
    return weights.suffix == ".toml" or any(key.startswith(f"{SHARED}.") for key in read_state(weights))


def load_weights(model: DiffoRates, weights: Path) -> None:
    """Load what a stage of DiffO left, or what a recipe of `pack_diffo` names; other parts keep theirs.

    Raises:
        ValueError: the recipe has other rates, by label, than the configuration.
        TypeError: the recipe is of another family.
        KeyError: a file has weights of other networks.
    """
    if weights.suffix != ".toml":
        loop.load_weights(model, weights)
        return
    recipe = any_recipe.load(weights)
    if not isinstance(recipe, DiffoRecipe):
        raise TypeError(f"{weights} is a recipe of another family")
    packed, wanted = [rate.label for rate in recipe.rates], list(model.models)
    if set(packed) != set(wanted):
        raise ValueError(f"{weights} has rates {packed}, the configuration {wanted}")
    loop.load_weights(model, *recipe.base)
    for rate in recipe.rates:
        own = model.get_submodule(rate.label)
        assert isinstance(own, nn.ModuleDict)
        loop.load_weights(own, *rate.weights)


@torch.no_grad()
def start_from_rdeic(setup: DiffoSetup, weights: Path) -> None:
    """Take E and D from weights of the small RDEIC model, ``vae.*``, with latents scaled to a variance of one.

    They must be those of its stage *codec*, whose D decodes latents themselves; later stages' D decodes what their
    denoiser makes of them.
    """
    vae = setup.model.vqgan
    state = {key.removeprefix("vae."): value for key, value in read_state(weights).items() if key.startswith("vae.")}
    vae.load_state_dict({key: value.float() for key, value in state.items()})
    places, crop_px = range(setup.schedule.batch), setup.schedule.crop_px  # all processes must find the same
    batches = (data.batch(setup.squares, places, crop_px, setup.seed, step) for step in range(STD_BATCHES))
    vae.rescale(1 / torch.cat([vae.latents(images) for images in batches]).std((0, 2, 3)))


def latent_weights(vae: LinearVae) -> Tensor:
    """Return what an error of each channel of the latent is worth in pixels, float [C, 1, 1], 1 on average."""
    squares = 1 / vae.basis.square().sum(1)  # rows are orthogonal
    return (squares / squares.mean())[:, None, None]


def validate(
    setup: DiffoSetup, decode: Callable[[str, Tensor], tuple[Tensor, Tensor]]
) -> tuple[NDArray[np.uint8], loop.Metrics]:
    """Return a sheet of validation photos and what they are decoded to at each rate, and measures on all photos.

    Args:
        setup: has the photos.
        decode: rate, images in [-1, 1] -> (decoded, indices).
    """
    columns = [data.to_images(setup.validation[:SHEET_PHOTOS])]
    metrics: loop.Metrics = {}
    for name, model in setup.model.models.items():
        errors, sheets, counts = [], [], torch.zeros(model.config.codebook_size)
        for image in torch.split(setup.validation, SHEET_PHOTOS):
            decoded, indices = decode(name, image)
            decoded = decoded.float().clamp(-1, 1)
            errors += ((decoded - image) * 127.5).square().mean((1, 2, 3)).tolist()
            sheets.append(data.to_images(decoded))
            counts += torch.bincount(indices.flatten().cpu(), minlength=len(counts))
        share = counts[counts > 0] / counts.sum()
        bits = float(-(share * share.log2()).sum())
        metrics |= {
            f"{name}.psnr": float(np.mean([psnr_of_mse(error, 255) for error in errors])),
            f"{name}.bpp": bits / model.config.index_px**2,  # by a prior of these very photos: a lower bound
            f"{name}.codes": float((counts > 0).sum()),
        }
        columns.append(sheets[0])
    return loop.sheet(*columns), metrics


def run(
    setup: DiffoSetup,
    loss: Callable[[Tensor], tuple[Tensor, loop.Parts]],
    samples: Callable[[], tuple[NDArray[np.uint8], loop.Metrics]],
    after_step: Callable[[int, float], None] = lambda step, share: None,
) -> None:
    """Run a stage; ``loss``, ``samples`` and ``after_step`` as of `loop.run`, which says what is left in the folder."""
    loop.run(
        setup.model,
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
