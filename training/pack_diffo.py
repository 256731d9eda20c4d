"""Weights of trained rates -> what a bundle is built from: float16 files and a recipe.

    python -m training.pack_diffo runs/diffo/one_step/weights.safetensors --out training/weights/diffo-tiny
    python export/build_engines.py --recipe training/weights/diffo-tiny/recipe.toml --library onnx ...

Rates come in the configuration's order. They share E and D. Where the folder has a file `context_<n>.safetensors`,
which `fit_index_context` writes, the rate of that number names it: run this again once they are there. Once the bundle
is built, `share_weights` removes what it holds too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file

from rdeic_export.weights.state import read_state

from . import diffo

BASE = "base.safetensors"
RECIPE = """\
# What the bundle is made from: rdeic_export/weights/diffo_recipe.py says what each field means.
name = {name}
model = {model}
licence = "Apache-2.0"
default_rate = 0
base = [{base}]
half_weights = true
"""
RATE = """
[[rates]]
label = {label}
weights = [{file}]
codebook_size = {codebook_size}
index_px = {index_px}
sqrt_eta = {sqrt_eta}
"""


def main() -> None:
    """Write the files."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("weights", type=Path, help="weights of stage one_step")
    p.add_argument("--config", type=Path, default=diffo.CONFIG, help="stage settings")
    p.add_argument("--out", type=Path, required=True, help="output folder")
    args = p.parse_args()
    pack(args.weights, args.config, args.out)


def pack(weights: Path, config: Path, out: Path) -> None:
    """Write base, rates and recipe."""
    settings = diffo.read_settings(config)
    state = {key: value.half().contiguous() for key, value in read_state(weights).items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file({key: value for key, value in state.items() if key.startswith(f"{diffo.SHARED}.")}, out / BASE)
    name = json.dumps(settings["model"])  # JSON's texts are TOML's
    recipe = RECIPE.format(name=name, model=name, base=json.dumps(BASE))
    for index, (rate, networks) in enumerate(diffo.configs(settings).items()):
        file = f"rate_{index}.safetensors"
        own = {key.removeprefix(f"{rate}."): value for key, value in state.items() if key.startswith(f"{rate}.")}
        save_file(own, out / file)
        recipe += RATE.format(
            label=json.dumps(rate),
            file=json.dumps(file),
            codebook_size=networks.codebook_size,
            index_px=networks.index_px,
            sqrt_eta=networks.diffusion.sqrt_eta_end,
        )
        context = f"context_{index}.safetensors"
        if (out / context).exists():
            recipe += f"context = {json.dumps(context)}\n"
    (out / "recipe.toml").write_text(recipe)


if __name__ == "__main__":
    main()
