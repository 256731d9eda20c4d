"""Recipes: what they are made of, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

import build_engines
from rdeic_export.weights import recipe as recipes
from rdeic_rt.errors import ExportError

# Of rates that have weights of their own.
OWN_WEIGHTS = """
name = "own"
model = "sd21"
licence = "Apache-2.0"
default_rate = 0
base = ["base.safetensors"]
half_weights = true

[[rates]]
label = "larger"
lambda_r = 0.4
n_steps = 2
weights = "rate_0.safetensors"

[[rates]]
label = "smaller"
lambda_r = 0.0135
n_steps = 5
weights = "rate_1.safetensors"

[provenance]
trained_by = "nobody"
"""


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("rdeic_2_step2.ckpt", (5,), r"rdeic_2_step2\.ckpt: trained for 2 steps, not 5; give --steps 2"),
        ("own.ckpt", (2, 5), r"own\.ckpt: its name does not say .*give one --steps"),
        ("rdeic_2_step2.ckpt", (2,), r"no such weights: .*rdeic_2_step2\.ckpt"),
    ],
)
def test_from_checkpoints_of_other_steps_or_absent_are_refused(
    tmp_path: Path, name: str, steps: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        recipes.from_checkpoints("x", [tmp_path / name], tmp_path / "sd.ckpt", steps, half_weights=True)


def test_from_checkpoints_takes_rates_from_their_names_largest_first(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("rdeic_0.1_step5.ckpt", "rdeic_2_step2.ckpt")]
    for path in (*paths, tmp_path / "sd.ckpt"):
        path.touch()
    made = recipes.from_checkpoints("x", paths, tmp_path / "sd.ckpt", (2, 5), half_weights=True)
    assert [(rate.lambda_r, rate.n_steps, rate.weights) for rate in made.rates] == [
        (2.0, 2, paths[1]),
        (0.1, 5, paths[0]),
    ]


def test_load_recipe_names_every_missing_file(tmp_path: Path) -> None:
    text = Path(build_engines.ROOT / "training/weights/tiny-2/recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ExportError, match=r"no such weights: \S*codec\.safetensors, \S*decoder\.safetensors"):
        recipes.load(tmp_path / "recipe.toml")
    (tmp_path / "recipe.toml").write_text(OWN_WEIGHTS)
    with pytest.raises(ExportError, match=r"base\.safetensors, .*rate_0\.safetensors, .*rate_1\.safetensors"):
        recipes.load(tmp_path / "recipe.toml")
