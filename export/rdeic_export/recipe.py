"""A recipe names the weights that make a bundle: shared ones, one file per rate, and what to say about them.

It is a TOML file beside its weights::

    name = "tiny"
    model = "tiny"                      # configuration of the networks
    licence = "Apache-2.0"
    default_rate = 0
    base = ["base.safetensors"]         # autoencoder, denoiser, text context
    half_weights = true                 # store float16, compute float32

    [[rates]]
    label = "high"
    lambda_r = 1.0
    n_steps = 2
    weights = "rate_0.safetensors"      # compression module and control net

    [provenance]                        # free-form, copied into the bundle

With ``layout = "released"`` the weights are in the released key layout instead: ``base`` is one Stable Diffusion 2.1
checkpoint or diffusers folder, each rate's ``weights`` a released RDEIC checkpoint, and ``context`` a safetensors file
whose tensor ``context`` is the constant text context, float [1, tokens, context_dim].
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdeic_rt.errors import ExportError

from . import checkpoint
from .modules.config import SD21, TINY, ModelConfig
from .modules.model import RdeicModel

MODELS = {config.name: config for config in (SD21, TINY)}
_LAYOUTS = {"rdeic-rt": False, "released": True}  # whether the text context has a file of its own


@dataclass(frozen=True)
class RateRecipe:
    """One rate: its trade-off, its fixed number of steps and the file with its weights."""

    label: str
    lambda_r: float
    n_steps: int
    weights: Path


@dataclass(frozen=True)
class Recipe:
    """What a bundle is made from; paths are absolute."""

    name: str
    config: ModelConfig
    licence: str
    default_rate: int
    base: tuple[Path, ...]
    half_weights: bool
    rates: tuple[RateRecipe, ...]
    provenance: dict[str, Any]
    released_context: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Every file or folder of weights."""
        context = [self.released_context] if self.released_context else []
        return [*self.base, *context, *(rate.weights for rate in self.rates)]


def load(path: Path) -> Recipe:
    """Return the recipe in a TOML file.

    Raises:
        ExportError: it cannot be read, lacks a field, or names an unknown model or file; all gaps are listed.
    """
    try:
        raw = tomllib.loads(path.read_text())
        recipe = Recipe(
            name=raw["name"],
            config=MODELS[raw["model"]],
            licence=raw["licence"],
            default_rate=raw["default_rate"],
            base=tuple(path.parent / name for name in raw["base"]),
            half_weights=raw["half_weights"],
            rates=tuple(
                RateRecipe(r["label"], float(r["lambda_r"]), int(r["n_steps"]), path.parent / r["weights"])
                for r in raw["rates"]
            ),
            provenance=raw.get("provenance", {}),
            released_context=path.parent / raw["context"] if _LAYOUTS[raw.get("layout", "rdeic-rt")] else None,
        )
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ExportError(f"{path}: not a readable recipe: {error}") from error
    except KeyError as error:
        raise ExportError(f"{path}: missing or unknown value for {error}; models are {', '.join(MODELS)}") from error
    missing = [str(p) for p in recipe.files if not p.exists()]
    if missing:
        raise ExportError(f"{path}: no such weights: {', '.join(missing)}")
    return recipe


def build_model(recipe: Recipe, rate: RateRecipe) -> RdeicModel:
    """Return the networks of one rate with all their weights, fp32, in evaluation mode.

    Raises:
        ExportError: keys are missing, unexpected or misshapen; all are listed.
    """
    if recipe.released_context:
        texts = checkpoint.read_state(recipe.released_context)
        if "context" not in texts:
            raise ExportError(f"{recipe.released_context}: no tensor 'context', only {', '.join(sorted(texts))}")
        return checkpoint.load(recipe.config, rate.weights, recipe.base[0], texts["context"])
    model = RdeicModel(recipe.config)
    state = {}
    for path in (*recipe.base, rate.weights):
        state.update(checkpoint.read_state(path))
    wanted = model.state_dict()
    problems = [f"missing {k}" for k in sorted(wanted.keys() - state.keys())]
    problems += [f"unexpected {k}" for k in sorted(state.keys() - wanted.keys())]
    problems += [
        f"{k} has shape {list(state[k].shape)}, expected {list(wanted[k].shape)}"
        for k in sorted(wanted.keys() & state.keys())
        if state[k].shape != wanted[k].shape
    ]
    if problems:
        raise ExportError(f"{rate.weights}: {len(problems)} problems:\n  " + "\n  ".join(problems))
    model.load_state_dict(state)
    return model.float().eval().requires_grad_(False)
