"""A recipe names the weights of a bundle: shared ones, one file per rate, and their provenance.

It is a TOML file beside its weights::

    name = "tiny-2"
    model = "tiny-2"                    # configuration of the networks
    licence = "Apache-2.0"
    default_rate = 0
    base = ["base.safetensors"]         # autoencoder, denoiser, text context
    half_weights = true                 # store float16, compute float32

    [[rates]]
    label = "high"
    lambda_r = 1.0
    n_steps = 2
    weights = "rate_0.safetensors"      # compression module and control net
    level = 0                           # instead, where all rates share the weights in ``base``

    [provenance]                        # free-form, copied into the bundle

With ``layout = "released"`` the weights are in the released key layout instead: ``base`` is one Stable Diffusion 2.1
checkpoint or diffusers folder, and each rate's ``weights`` a released RDEIC checkpoint. The constant text context is
that of ``prompt`` (by default the empty one), or the tensor ``context``, float [1, tokens, context_dim], of the
safetensors file that ``context`` names. `from_checkpoints` makes such a recipe of files, `random` one of no weights.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdeic_rt.errors import ExportError

from ..modules.config import SD21, TINY_2, ModelConfig, UNetConfig
from ..modules.model import RdeicModel
from . import checkpoint
from .document import OWN, RANDOM, RELEASED, check_files, reading
from .state import draw, listed, read_state, round_to_half, take

MODELS = {config.name: config for config in (SD21, TINY_2)}
STEPS = (2, 5)  # every rate can be decoded in either number of steps


@dataclass(frozen=True)
class RateRecipe:
    """One rate.

    Attributes:
        label: for people.
        lambda_r: its trade-off.
        n_steps: its fixed number of steps.
        weights: file of its compression module and control net; None where all rates share theirs.
        level: where all rates share them, the level it has, 0 for the largest.
    """

    label: str
    lambda_r: float
    n_steps: int
    weights: Path | None
    level: int | None = None


@dataclass(frozen=True)
class Recipe:
    """What a bundle is made from; paths are absolute.

    Attributes:
        name: of the bundle.
        config: sizes of the networks.
        licence: of the weights.
        default_rate: index into ``rates``.
        base: files of the shared weights.
        half_weights: store float16, compute float32.
        rates: in the order of their indices.
        provenance: free-form, copied into the bundle.
        layout: how the weights are named: `OWN`, `RELEASED`, or `RANDOM` for none.
        prompt: text of the constant text context (`RELEASED`).
        context: a file that holds the context itself, in place of the prompt.
    """

    name: str
    config: ModelConfig
    licence: str
    default_rate: int
    base: tuple[Path, ...]
    half_weights: bool
    rates: tuple[RateRecipe, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    layout: str = OWN
    prompt: str = ""
    context: Path | None = None

    @property
    def shares_rates(self) -> bool:
        """Whether one compression module serves all rates."""
        return self.config.compression.rates is not None

    @property
    def schedule_steps(self) -> list[int]:
        """In how many steps its rates can be decoded."""
        return sorted({*STEPS, *(rate.n_steps for rate in self.rates)})

    @property
    def files(self) -> list[Path]:
        """Every file or folder of weights."""
        if self.layout == RANDOM:
            return []
        context = [self.context] if self.context else []
        return [*self.base, *context, *(rate.weights for rate in self.rates if rate.weights)]


def load(path: Path) -> Recipe:
    """Return the recipe in a TOML file.

    Raises:
        ExportError: it cannot be read, lacks a field, or names an unknown model or file; all gaps are listed.
    """
    with reading(path, MODELS):
        return from_document(tomllib.loads(path.read_text()), path)


def from_document(raw: Mapping[str, Any], path: Path) -> Recipe:
    """Return the recipe in a TOML document that was read from ``path``; KeyError for a field, ExportError for files."""
    folder = path.parent
    recipe = Recipe(
        name=raw["name"],
        config=MODELS[raw["model"]],
        licence=raw["licence"],
        default_rate=raw["default_rate"],
        base=tuple(folder / name for name in raw["base"]),
        half_weights=raw["half_weights"],
        rates=tuple(
            RateRecipe(
                r["label"],
                float(r["lambda_r"]),
                int(r["n_steps"]),
                folder / r["weights"] if "weights" in r else None,
                r.get("level"),
            )
            for r in raw["rates"]
        ),
        provenance=raw.get("provenance", {}),
        layout={name: name for name in (OWN, RELEASED)}[raw.get("layout", OWN)],
        prompt=raw.get("prompt", ""),
        context=folder / raw["context"] if "context" in raw else None,
    )
    check_files(recipe.files, str(path))
    return recipe


def from_checkpoints(
    name: str,
    checkpoints: Sequence[Path],
    stable_diffusion: Path,
    steps: Sequence[int],
    *,
    half_weights: bool,
    prompt: str = "",
    context: Path | None = None,
) -> Recipe:
    """Return the recipe of released checkpoints, one rate for each, largest rate first.

    Args:
        name: of the bundle.
        checkpoints: named ``rdeic_<weight>_step<L>.ckpt`` as in the release, from which lambda_r and L are taken; with
            another name L is the only one of ``steps``, and lambda_r 1.
        stable_diffusion: Stable Diffusion 2.1, checkpoint or diffusers folder.
        steps: the requested numbers of steps.
        half_weights: as in `Recipe`.
        prompt, context: as in `Recipe`.

    Raises:
        ExportError: a file is missing, or a checkpoint was trained for another number of steps.
    """
    rates, problems = [], []
    for path in checkpoints:
        lambda_r, trained = checkpoint.lambda_r_from_name(path), checkpoint.n_steps_from_name(path)
        if trained is None and len(steps) > 1:
            problems.append(f"{path.name}: its name does not say for how many steps it was trained; give one --steps")
        elif trained is not None and trained not in steps:
            wanted = ",".join(map(str, steps))
            problems.append(f"{path.name}: trained for {trained} steps, not {wanted}; give --steps {trained}")
        rates.append(RateRecipe(path.stem, lambda_r or 1.0, trained or steps[0], path))
    if problems:
        raise ExportError("; ".join(problems))
    recipe = Recipe(
        name=name,
        config=SD21,
        licence="that of the checkpoints",
        default_rate=0,
        base=(stable_diffusion,),
        half_weights=half_weights,
        rates=tuple(sorted(rates, key=lambda rate: -rate.lambda_r)),
        provenance={"checkpoints": [path.name for path in (*checkpoints, stable_diffusion)], "prompt": prompt},
        layout=RELEASED,
        prompt=prompt,
        context=context,
    )
    check_files(recipe.files, name)
    return recipe


def random(model: str, steps: Sequence[int], *, half_weights: bool) -> Recipe:
    """Return a recipe of random weights, one rate for each number of steps: for latency, memory and parity."""
    rates = tuple(RateRecipe(f"random, {n} steps", 1.0 / n, n, Path()) for n in steps)
    provenance = {"weights": "random: images are noise"}
    return Recipe(f"{model}-random", MODELS[model], "none", 0, (), half_weights, rates, provenance, RANDOM)


def build_model(recipe: Recipe, rate: RateRecipe) -> RdeicModel:
    """Return the networks of one rate with all their weights, fp32, in evaluation mode.

    Weights that the bundle stores in float16 are rounded to it.

    Raises:
        ExportError: keys are missing, unexpected or misshapen.
    """
    model = _MODEL_OF[recipe.layout](recipe, rate).float().eval().requires_grad_(False)
    if recipe.half_weights:
        round_to_half(model)
    return model


def _own_model(recipe: Recipe, rate: RateRecipe) -> RdeicModel:
    model = RdeicModel(recipe.config)
    state = {}
    for path in (*recipe.base, *([rate.weights] if rate.weights else [])):
        state.update(read_state(path))
    problems: list[str] = []
    files = [path.name for path in (*recipe.base, *([rate.weights] if rate.weights else []))]
    take(model.state_dict(), state, " and ".join(files), problems)
    if problems:
        raise ExportError(listed(f"{rate.weights or recipe.base[-1]}", problems))
    return model


def _released_model(recipe: Recipe, rate: RateRecipe) -> RdeicModel:
    if recipe.context:
        texts = read_state(recipe.context)
        if "context" not in texts:
            raise ExportError(f"{recipe.context}: no tensor 'context', only {', '.join(sorted(texts))}")
        context = texts["context"]
    else:
        context = _text_context(recipe.base[0], recipe.prompt, recipe.config.unet)
    assert rate.weights is not None  # `from_checkpoints` gives each rate a checkpoint
    return checkpoint.load(recipe.config, rate.weights, recipe.base[0], context)


@lru_cache(maxsize=1)
def _text_context(stable_diffusion: Path, prompt: str, config: UNetConfig) -> Tensor:
    """Return the context, computed once for all rates."""
    from . import text_encoder  # brings transformers, which nothing else needs

    return text_encoder.context(stable_diffusion, prompt, config)


@torch.no_grad()
def _random_model(recipe: Recipe, rate: RateRecipe) -> RdeicModel:
    """Return weights that keep activations near unit variance, so that latents, symbols and ranges are plausible."""
    generator = torch.Generator().manual_seed(recipe.rates.index(rate))
    model = RdeicModel(recipe.config)
    draw(model, generator)
    model.context.normal_(generator=generator)
    model.codec.quantize.embedding.weight.normal_(generator=generator)
    return model


_MODEL_OF = {OWN: _own_model, RELEASED: _released_model, RANDOM: _random_model}
