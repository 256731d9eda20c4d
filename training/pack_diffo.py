"""Weights of trained rates -> what a bundle is built from: float16 files and a recipe.

    python -m training.pack_diffo low=runs/low/one_step high=runs/high/one_step --out training/weights/diffo-tiny
    python export/build_engines.py --recipe training/weights/diffo-tiny/recipe.toml --library onnx ...

Rates come in the order given, the smallest files last by custom. They share E and D.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import diffo

SHARED = "vqgan."
RECIPE = """\
name = {name}
model = {model}
licence = "Apache-2.0"
default_rate = 0
base = ["base.safetensors"]
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
    p.add_argument("rates", nargs="+", metavar="RATE=FOLDER", help="rate of the configuration, and its run")
    p.add_argument("--config", type=Path, default=diffo.CONFIG, help="stage settings")
    p.add_argument("--out", type=Path, required=True, help="folder of the files")
    args = p.parse_args()
    pack(dict(text.split("=", 1) for text in args.rates), args.config, args.out)


def pack(runs: dict[str, str], config: Path, out: Path) -> None:
    """Write base, rates and recipe.

    Raises:
        ValueError: the rates were trained with different E and D.
    """
    settings = diffo.read_settings(config)
    out.mkdir(parents=True, exist_ok=True)
    name = json.dumps(settings["model"])  # JSON's texts are TOML's
    recipe, shared = RECIPE.format(name=name, model=name), None
    for index, (rate, run) in enumerate(runs.items()):
        state = {key: value.half() for key, value in load_file(Path(run) / "weights.safetensors").items()}
        base = {key: value for key, value in state.items() if key.startswith(SHARED)}
        if shared is not None and not all(torch.equal(shared[key], base[key]) for key in base):
            raise ValueError(f"rate {rate!r} was trained with another E and D than the first")
        shared = base
        file = f"rate_{index}.safetensors"
        save_file({key: state[key].contiguous() for key in sorted(state.keys() - base.keys())}, out / file)
        numbers = diffo.rate_config(settings, rate)
        recipe += RATE.format(
            label=json.dumps(rate),
            file=json.dumps(file),
            codebook_size=numbers.codebook_size,
            index_px=numbers.index_px,
            sqrt_eta=numbers.diffusion.sqrt_eta_end,
        )
    assert shared is not None  # there is at least one rate
    save_file(shared, out / "base.safetensors")
    (out / "recipe.toml").write_text(recipe)


if __name__ == "__main__":
    main()
