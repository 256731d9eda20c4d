"""What the last stage left -> the float16 weights that a recipe names, in two files.

python -m training.pack_weights runs/*/weights.safetensors --out training/weights/tiny-2

``codec.safetensors`` has what files depend on, which stage *codec* settles, and ``decoder.safetensors`` what the stages
after it learn. A stage's ``--init`` takes both. Once their bundle is built, `share_weights` removes what it holds too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from rdeic_export.modules.config import TINY_2
from rdeic_export.weights.state import read_state

from .loop import save_weights

# Of the compression module, what the stages after *codec* learn.
LEARNT_LATER = ("codec.g_s.", "codec.log_inverse_gain", "codec.synthesis_bias")


def main() -> None:
    """Write the files; the largest relative rounding error of a tensor is printed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("weights", type=Path, nargs="+", help="weights of stages; later ones take precedence")
    p.add_argument("--out", type=Path, required=True, help="output folder, which contains the recipe")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    state = {"context": torch.zeros(1, TINY_2.unet.context_tokens, TINY_2.unet.context_dim)}
    for source in args.weights:
        state.update({k: v.float() for k, v in read_state(source).items() if not k.startswith("discriminator.")})
    half = {key: value.half() for key, value in state.items()}
    worst = max(float((half[k].float() - v).abs().max() / v.abs().max().clamp(min=1e-12)) for k, v in state.items())
    settled = {key for key in half if key.startswith("codec.") and not key.startswith(LEARNT_LATER)}
    for name, keys in (("codec", settled), ("decoder", half.keys() - settled)):
        path = args.out / f"{name}.safetensors"
        save_weights(path, {key: half[key] for key in sorted(keys)})
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(f"largest rounding error {worst:.1e}")


if __name__ == "__main__":
    main()
