"""Stage outputs -> the float16 weights a recipe names: ``base.safetensors`` and ``rate_<i>.safetensors``.

    python -m training.pack_weights --out training/weights/tiny --rates runs/fine/rate_{0,1}.safetensors \\
        --base runs/vae/weights.safetensors runs/denoiser/weights.safetensors runs/fine/base.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rdeic_export.modules.config import TINY

from .loop import save_weights


def main() -> None:
    """Write the files; the largest relative rounding error of a tensor is printed per file."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--base",
        type=Path,
        nargs="+",
        required=True,
        help="weights of the autoencoder, the denoiser and the decoder; later ones win",
    )
    p.add_argument("--rates", type=Path, nargs="+", required=True, help="weights of each rate, in the bundle's order")
    p.add_argument("--out", type=Path, required=True, help="folder of the recipe")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    context = {"context": torch.zeros(1, TINY.unet.context_tokens, TINY.unet.context_dim)}
    _pack(args.base, args.out / "base.safetensors", context)
    for index, path in enumerate(args.rates):
        _pack([path], args.out / f"rate_{index}.safetensors", {})


def _pack(sources: Sequence[Path], target: Path, extra: dict[str, Tensor]) -> None:
    state = dict(extra)
    for source in sources:
        state.update({key: value.float() for key, value in load_file(source).items()})
    half = {key: value.half() for key, value in state.items()}
    worst = max(float((half[k].float() - v).abs().max() / v.abs().max().clamp(min=1e-12)) for k, v in state.items())
    save_weights(target, half)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, largest rounding error {worst:.1e}")


if __name__ == "__main__":
    main()
