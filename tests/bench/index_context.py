"""How many bits of VQ indices a context model would save over the static prior, on photos that it has not seen.

    python -m tests.bench.index_context training/weights/diffo-tiny/recipe.toml --photos TRAIN... --validation VAL...

Indices are coded in four passes over a lattice of 2x2 positions. A network of three layers sees the code vectors of a
5x5 neighbourhood that earlier passes have decoded, and predicts the distribution of the next index. It runs in float32
and its distributions are taken as they are, which no exact coder could do: what it saves is a bound of what an integer
network with tables could.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdeic_export.bundle.common import images_of
from rdeic_export.modules.diffo.model import DiffoModel
from rdeic_export.photos import photos_in
from rdeic_export.weights import any_recipe, diffo_recipe
from rdeic_export.weights.diffo_recipe import DiffoRecipe
from rdeic_rt import pixels

PASSES = ((0, 0), (1, 1), (0, 1), (1, 0))  # rows and columns of the lattice, in coding order
WIDTH = 96
BATCH = 16
CROP = 12  # indices along a side of a training window


class Context(nn.Module):
    """Distributions of the indices of one pass, given those of the passes before."""

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes / codes.std())
        count, dim = codes.shape
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim + 1, WIDTH, 5, padding=2), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU())
            for _ in PASSES[1:]
        )
        self.out = nn.ModuleList(nn.Conv2d(WIDTH, count, 1) for _ in PASSES[1:])
        self.prior = nn.Parameter(torch.zeros(count))  # of the first pass

    def bits(self, indices: Tensor) -> list[Tensor]:
        """Return the bits of each index, by pass: float tensors, of int64 indices [B, H, W]."""
        vectors = F.embedding(indices, self.get_buffer("codes")).permute(0, 3, 1, 2)
        known = torch.zeros_like(indices, dtype=torch.bool)
        found = []
        for number, (top, left) in enumerate(PASSES):
            at = indices[:, top::2, left::2]
            if number == 0:
                logits = self.prior.log_softmax(0)[None].expand(at.numel(), -1)
            else:
                seen = torch.cat([vectors * known[:, None], known[:, None].float()], dim=1)
                features = self.layers[number - 1](seen)[:, :, top::2, left::2]
                logits = self.out[number - 1](features).permute(0, 2, 3, 1).flatten(0, 2)
            found.append(F.cross_entropy(logits, at.flatten(), reduction="none") / math.log(2))
            known[:, top::2, left::2] = True
        return found


@torch.no_grad()
def index_maps(model: DiffoModel, photos: Sequence[Path]) -> list[Tensor]:
    """Return the indices of photos, int64 [Hq, Wq] each."""
    maps = []
    for image in images_of(photos):
        padded = torch.from_numpy(pixels.pad(image, model.config.image_multiple_px))[None]
        maps.append(model.analyse(padded.permute(0, 3, 1, 2).float() / 127.5 - 1)[0])
    return maps


def train(context: Context, maps: Sequence[Tensor], steps: int) -> None:
    """Train on random windows."""
    fitting = [one for one in maps if min(one.shape) >= CROP]
    optimiser = torch.optim.AdamW(context.parameters(), lr=2e-3, weight_decay=0.01)
    rng = np.random.default_rng(0)
    for step in range(steps):
        windows = []
        for which in rng.integers(len(fitting), size=BATCH):
            one = fitting[which]
            top, left = (2 * int(rng.integers((side - CROP) // 2 + 1)) for side in one.shape)
            windows.append(one[top : top + CROP, left : left + CROP])
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        loss = torch.cat(context.bits(torch.stack(windows))).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def main() -> None:
    """Print the bits of each rate."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("recipe", type=Path, help="weights of a DiffO bundle")
    p.add_argument("--photos", type=Path, nargs="+", required=True, help="photos or folders to train on")
    p.add_argument("--validation", type=Path, nargs="+", required=True, help="photos or folders to measure on")
    p.add_argument("--steps", type=int, default=3000)
    args = p.parse_args()
    recipe = any_recipe.load(args.recipe)
    if not isinstance(recipe, DiffoRecipe):
        p.error(f"{args.recipe} is no recipe of a DiffO bundle")
    trained_on, measured_on = (
        [q for path in paths for q in photos_in(path)] for paths in (args.photos, args.validation)
    )
    print(f"{len(trained_on)} photos to train on, {len(measured_on)} to measure on; bits an index")
    for rate in recipe.rates:
        model = diffo_recipe.build_model(recipe, rate)
        maps, held_out = index_maps(model, trained_on), index_maps(model, measured_on)
        count = rate.config.codebook_size
        masses = torch.bincount(torch.cat([one.flatten() for one in maps]), minlength=count) + 0.5
        cost = -(masses / masses.sum()).log2()
        by_prior = torch.cat([cost[one.flatten()] for one in held_out]).mean()
        torch.manual_seed(0)
        context = Context(model.codec.quantize.embedding.weight.detach())
        context.prior.data.copy_(masses.log())
        train(context, maps, args.steps)
        with torch.no_grad():
            passes = [torch.cat(bits) for bits in zip(*[context.bits(one[None]) for one in held_out], strict=True)]
        by_context = torch.cat(passes).mean()
        print(
            f"{rate.label}: fixed width {math.ceil(math.log2(count))}, prior {by_prior:.3f}, context {by_context:.3f} "
            f"({100 * float(by_context / by_prior - 1):+.1f} %); by pass "
            + ", ".join(f"{float(bits.mean()):.3f}" for bits in passes)
        )


if __name__ == "__main__":
    main()
