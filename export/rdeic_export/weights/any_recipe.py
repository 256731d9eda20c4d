"""A recipe of whichever family its model is."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from . import diffo_recipe, recipe
from .diffo_recipe import DiffoRecipe
from .document import reading
from .recipe import Recipe

AnyRecipe: TypeAlias = Recipe | DiffoRecipe
MODELS = (*recipe.MODELS, *diffo_recipe.MODELS)


def load(path: Path) -> AnyRecipe:
    """Return the recipe in a TOML file; errors as of `recipe.load`."""
    with reading(path, MODELS):
        raw = tomllib.loads(path.read_text())
        if raw["model"] in diffo_recipe.MODELS:
            return diffo_recipe.from_document(raw, path)
        return recipe.from_document(raw, path)


def random(model: str, steps: Sequence[int], *, half_weights: bool) -> AnyRecipe:
    """Return a recipe of random weights, of RDEIC a rate for each number of steps."""
    if model in diffo_recipe.MODELS:
        return diffo_recipe.random(model, half_weights=half_weights)
    return recipe.random(model, steps, half_weights=half_weights)
