"""What the last stage left -> the float16 weights that a recipe names.

python -m training.pack_weights runs/decoder/weights.safetensors --out training/weights/tiny-2/weights.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from rdeic_export.modules.config import TINY_2

from .loop import save_weights


def main() -> None:
    """Write the file; the largest relative rounding error of a tensor is printed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("weights", type=Path, nargs="+", help="weights of stages; later ones win")
    p.add_argument("--out", type=Path, required=True, help="the file to write, beside its recipe")
    args = p.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    state = {"context": torch.zeros(1, TINY_2.unet.context_tokens, TINY_2.unet.context_dim)}
    for source in args.weights:
        state.update({k: v.float() for k, v in load_file(source).items() if not k.startswith("discriminator.")})
    half = {key: value.half() for key, value in state.items()}
    worst = max(float((half[k].float() - v).abs().max() / v.abs().max().clamp(min=1e-12)) for k, v in state.items())
    save_weights(args.out, half)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, largest rounding error {worst:.1e}")


if __name__ == "__main__":
    main()
