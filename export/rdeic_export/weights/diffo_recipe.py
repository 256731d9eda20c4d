"""Recipes of DiffO: a VQGAN for all rates, and of each rate its own latent autoencoder, codebook and UNet.

In a TOML file they differ from those of `recipe` in this::

    model = "diffo-tiny"                # or "diffo"
    base = ["base.safetensors"]         # the VQGAN

    [[rates]]
    label = "1/32"
    weights = ["rate_0.safetensors"]    # latent autoencoder and UNet
    codebook_size = 1024                # K, index_px and sqrt_eta are the configuration's unless given
    index_px = 32                       # pixels that a code stands for along a side
    sqrt_eta = 0.6                      # noise that decoding starts with: kappa times this
    context = "context_0.safetensors"   # what a context model of the indices is made from; none unless given

With ``layout = "released"`` files are as released: ``base`` is ``GT_vq_model_N.pth.tar``, and ``weights`` of a rate are
``ema_model_N.pth`` and ``vq_model_N.pth.tar``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdeic_rt.errors import ExportError

from ..modules.diffo.config import DIFFO, DIFFO_TINY, DiffoConfig
from ..modules.diffo.index_context import IndexContext
from ..modules.diffo.model import DiffoModel
from ..modules.linear_vae import LinearVae
from . import diffo
from .document import OWN, RANDOM, RELEASED, check_files
from .state import draw, listed, read_state, round_to_half, take

MODELS = {config.name: config for config in (DIFFO, DIFFO_TINY)}


@dataclass(frozen=True)
class DiffoRate:
    """One rate.

    Attributes:
        label: for people.
        config: of its networks: K, fineness of the codes and noise are its own.
        weights: its files.
        context: file of an `IndexContext`, or None.
    """

    label: str
    config: DiffoConfig
    weights: tuple[Path, ...] = ()
    context: Path | None = None


@dataclass(frozen=True)
class DiffoRecipe:
    """What a bundle of family ``diffo`` is made from; paths are absolute.

    Attributes:
        name, config, licence, default_rate, half_weights, provenance, layout: as of `recipe.Recipe`.
        base: file of the VQGAN.
        rates: in the order of their indices.
    """

    name: str
    config: DiffoConfig
    licence: str
    default_rate: int
    base: tuple[Path, ...]
    half_weights: bool
    rates: tuple[DiffoRate, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    layout: str = OWN

    @property
    def files(self) -> list[Path]:
        """Every file of weights."""
        contexts = [rate.context for rate in self.rates if rate.context]
        return [*self.base, *(path for rate in self.rates for path in rate.weights), *contexts]

    @property
    def schedule_steps(self) -> list[int]:
        """In how many steps its rates are decoded."""
        return [1]


def from_document(raw: Mapping[str, Any], path: Path) -> DiffoRecipe:
    """Return the recipe in a TOML document that was read from ``path``, whose ``model`` is one of `MODELS`.

    Raises:
        KeyError: a field is missing, or a layout is not known.
        ExportError: a number is out of range, or a file is not there.
    """
    config, folder = MODELS[raw["model"]], path.parent
    recipe = DiffoRecipe(
        name=raw["name"],
        config=config,
        licence=raw["licence"],
        default_rate=raw["default_rate"],
        base=tuple(folder / name for name in raw["base"]),
        half_weights=raw["half_weights"],
        rates=tuple(
            DiffoRate(
                rate["label"],
                _at(
                    config, rate["label"], {name: rate.get(name) for name in ("codebook_size", "index_px", "sqrt_eta")}
                ),
                tuple(folder / name for name in rate["weights"]),
                folder / rate["context"] if "context" in rate else None,
            )
            for rate in raw["rates"]
        ),
        provenance=raw.get("provenance", {}),
        layout={name: name for name in (OWN, RELEASED)}[raw.get("layout", OWN)],
    )
    check_files(recipe.files, str(path))
    return recipe


def from_checkpoints(
    name: str, unet: Path, latent: Path, vqgan: Path, *, sqrt_eta: float | None, half_weights: bool
) -> DiffoRecipe:
    """Return the recipe of three released files; K and the fineness of the codes are read from them.

    Args:
        name: of the bundle.
        unet, latent, vqgan: as of `diffo.load`.
        sqrt_eta: noise that the model was trained with, which no file holds; None for the released 0.8.
        half_weights: as in `DiffoRecipe`.

    Raises:
        ExportError: a file is missing, or the second is no latent autoencoder.
    """
    check_files((unet, latent, vqgan), name)
    state = read_state(latent)
    codes = state.get("quantize.embedding.weight")
    index_px = DIFFO.latent_px * (2 if "encoder.down.0.downsample.conv.weight" in state else 1)
    size = None if codes is None else codes.shape[0]  # if there are none, loading reports what the file is
    config = _at(DIFFO, name, {"codebook_size": size, "index_px": index_px, "sqrt_eta": sqrt_eta})
    files = [path.name for path in (unet, latent, vqgan)]
    rates = (DiffoRate(unet.stem, config, (unet, latent)),)
    provenance = {"checkpoints": files}
    return DiffoRecipe(name, DIFFO, "that of the checkpoints", 0, (vqgan,), half_weights, rates, provenance, RELEASED)


def random(model: str, *, half_weights: bool) -> DiffoRecipe:
    """Return a recipe of random weights, for latency, memory and parity."""
    config = MODELS[model]
    rates = (DiffoRate("random", config),)
    provenance = {"weights": "random: images are noise"}
    return DiffoRecipe(f"{model}-random", config, "none", 0, (), half_weights, rates, provenance, RANDOM)


def build_model(recipe: DiffoRecipe, rate: DiffoRate) -> DiffoModel:
    """Return the networks of one rate with all their weights, fp32, in evaluation mode.

    Weights that the bundle stores in float16 are rounded to it.

    Raises:
        ExportError: keys are missing, unexpected or misshapen.
    """
    model = _MODEL_OF[recipe.layout](recipe, rate).float().eval().requires_grad_(False)
    if recipe.half_weights:
        round_to_half(model)
    return model


def build_context(rate: DiffoRate, codes: Tensor) -> IndexContext | None:
    """Return the float context model of a rate, on its code vectors, float [K, N]; None if it has none.

    Raises:
        ExportError: keys are missing, unexpected or misshapen.
    """
    if rate.context is None:
        return None
    state = read_state(rate.context)
    if "tables" not in state:
        raise ExportError(listed(str(rate.context), ["missing: tables"]))
    context = IndexContext(codes, len(state["tables"])).eval().requires_grad_(False)
    problems: list[str] = []
    take(context.state_dict(), state, rate.label, problems)
    if problems:
        raise ExportError(listed(str(rate.context), problems))
    return context


def _own_model(recipe: DiffoRecipe, rate: DiffoRate) -> DiffoModel:
    model, state = DiffoModel(rate.config), {}
    for path in (*recipe.base, *rate.weights):
        state.update(read_state(path))
    problems: list[str] = []
    take(model.state_dict(), state, rate.label, problems)
    if problems:
        raise ExportError(listed(", ".join(map(str, (*recipe.base, *rate.weights))), problems))
    return model


def _released_model(recipe: DiffoRecipe, rate: DiffoRate) -> DiffoModel:
    if len(recipe.base) != 1 or len(rate.weights) != 2:
        raise ExportError(
            f"{recipe.name}: released weights are one file in 'base', the VQGAN, and two a rate, UNet and latent "
            f"autoencoder; it has {len(recipe.base)} and {len(rate.weights)}"
        )
    return diffo.load(rate.config, *rate.weights, *recipe.base)


@torch.no_grad()
def _random_model(recipe: DiffoRecipe, rate: DiffoRate) -> DiffoModel:
    """Return weights that keep activations near unit variance, so that latents, indices and ranges are plausible."""
    generator = torch.Generator().manual_seed(recipe.rates.index(rate))
    model = DiffoModel(rate.config)
    draw(model, generator)
    if isinstance(model.vqgan, LinearVae):
        basis = model.vqgan.basis
        basis.copy_(torch.linalg.qr(torch.randn(basis.shape, generator=generator).t())[0].t() * 4)
    codes = model.codec.quantize.embedding.weight
    codes.copy_(torch.nn.functional.normalize(torch.randn(codes.shape, generator=generator)))  # all equally likely
    return model


_MODEL_OF = {OWN: _own_model, RELEASED: _released_model, RANDOM: _random_model}


def _at(config: DiffoConfig, label: str, numbers: Mapping[str, Any]) -> DiffoConfig:
    try:
        return config.at(**numbers)
    except ValueError as error:
        raise ExportError(f"rate {label!r}: {error}") from None
