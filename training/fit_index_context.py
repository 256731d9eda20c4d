"""A context model of a DiffO rate's indices, from photos: what `context` of a rate in a recipe names.

    python -m training.fit_index_context training/weights/diffo-tiny/recipe.toml --rate high --photos TRAIN... \\
        --validation VAL... --out training/weights/diffo-tiny/context_0.safetensors

It is trained in three steps:

1. networks that predict the distribution of each index from the indices of earlier passes around it. They are too large
   for an entropy model, and not exact: what they save is a bound of what the next steps can;
2. clusters of these distributions, by the bits that taking a cluster's mean for one of them costs: the classes;
3. networks that give each position scores of the classes, and the classes' tables, jointly: first they learn the best
   class, then what an index is expected to cost if classes are drawn by their scores.

Printed are bits an index, on the photos of ``--validation``. Building a bundle turns the result into integers, and
keeps it if it saves enough.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from rdeic_export.bundle.common import images_of, photo_paths
from rdeic_export.modules.diffo.index_context import ContextNets, IndexContext
from rdeic_export.modules.diffo.model import DiffoModel
from rdeic_export.weights import any_recipe, diffo_recipe
from rdeic_export.weights.diffo_recipe import DiffoRecipe
from rdeic_rt import pixels

BATCH = 16
CROP = 12  # indices along a side of a training window
LEARNING_RATE = 2e-3
CLUSTERED = 20_000  # distributions that classes are found in
CLUSTER_ROUNDS = 15
PRIOR_SHARE = 0.02  # of a cluster's distribution, so that nothing is impossible
SMOOTHING = 0.5  # occurrences more of each index in the prior

logger = logging.getLogger("fit_index_context")


def main() -> None:
    """Fit and write the model of one rate."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("recipe", type=Path, help="weights of a DiffO bundle")
    p.add_argument("--rate", required=True, help="label of the rate")
    p.add_argument("--photos", type=Path, nargs="+", required=True, help="photos or folders to train on")
    p.add_argument("--validation", type=Path, nargs="+", required=True, help="photos or folders to measure on")
    p.add_argument("--classes", type=int, default=128, help="1 to 256")
    p.add_argument("--steps", type=int, default=1500, help="of each of the two trainings")
    p.add_argument("--out", type=Path, required=True, help="file of weights")
    args = p.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = any_recipe.load(args.recipe)
    if not isinstance(recipe, DiffoRecipe):
        p.error(f"{args.recipe} is no recipe of a DiffO bundle")
    rate = next((rate for rate in recipe.rates if rate.label == args.rate), None)
    if rate is None:
        p.error(f"{args.recipe} has rates {', '.join(rate.label for rate in recipe.rates)}, not {args.rate}")
    model = diffo_recipe.build_model(recipe, rate)
    maps, held_out = (index_maps(model, photo_paths(paths)) for paths in (args.photos, args.validation))
    context = fit(model.codec.quantize.embedding.weight.detach(), maps, held_out, args.classes, args.steps)
    save_file({key: value.contiguous() for key, value in context.state_dict().items()}, args.out)


@torch.no_grad()
def index_maps(model: DiffoModel, photos: Sequence[Path]) -> list[Tensor]:
    """Return the indices of photos, int64 [Hq, Wq] each."""
    maps = []
    for image in (image for path in photos for image in images_of([path])):
        padded = torch.from_numpy(pixels.pad(image, model.config.image_multiple_px))[None]
        maps.append(model.analyse(padded.permute(0, 3, 1, 2).float() / 127.5 - 1)[0])
    return maps


def fit(
    codes: Tensor, maps: Sequence[Tensor], held_out: Sequence[Tensor], classes: int, steps: int, seed: int = 0
) -> IndexContext:
    """Return a trained context model, and log what it saves.

    Args:
        codes: code vectors, float [K, N].
        maps: indices to train on, int64 [Hq, Wq] each; some must be of `CROP` x `CROP` or more.
        held_out: indices to measure on.
        classes: C.
        steps: of each training.
        seed: of weights and windows.
    """
    torch.manual_seed(seed)
    counts = torch.bincount(torch.cat([one.flatten() for one in maps]), minlength=len(codes)) + SMOOTHING
    prior = counts / counts.sum()
    predictor = ContextNets(codes, len(codes))
    for net in predictor.nets:
        nn.init.zeros_(net[-1].weight)  # type: ignore[index]
        net[-1].bias.data.copy_(prior.log())  # type: ignore[index]
    windows = Windows(maps, seed)
    train(predictor, lambda batch, _: torch.cat(_index_bits(predictor, batch)).mean(), windows, steps)
    context = IndexContext(codes, classes)
    context.tables.data.copy_(clusters(predictor, maps, prior, classes).log())
    for net, trained in zip(context.scores.nets, predictor.nets, strict=True):
        for layer, source in zip(list(net)[:-1], list(trained)[:-1], strict=True):  # type: ignore[call-overload]
            layer.load_state_dict(source.state_dict())
    train(context, lambda batch, done: _class_loss(context, predictor, batch, done < 0.2), windows, steps)
    _log_savings(prior, predictor, context, held_out)
    return context


class Windows:
    """Draws batches of windows, int64 [BATCH, CROP, CROP], that begin with a position of the first pass."""

    def __init__(self, maps: Sequence[Tensor], seed: int) -> None:
        self._maps = [one for one in maps if min(one.shape) >= CROP]
        if not self._maps:
            raise ValueError(f"no photo has {CROP} indices along both sides")
        self._rng = np.random.default_rng(seed)

    def __call__(self) -> Tensor:
        """Return the next batch."""
        batch = []
        for which in self._rng.integers(len(self._maps), size=BATCH):
            one = self._maps[which]
            top, left = (2 * int(self._rng.integers((side - CROP) // 2 + 1)) for side in one.shape)
            batch.append(one[top : top + CROP, left : left + CROP])
        return torch.stack(batch)


def train(model: nn.Module, loss_of: Callable[[Tensor, float], Tensor], windows: Windows, steps: int) -> None:
    """Minimise ``loss_of``: (batch, share of the steps that are done) -> loss."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        loss = loss_of(windows(), step / steps)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@torch.no_grad()
def clusters(predictor: ContextNets, maps: Sequence[Tensor], prior: Tensor, classes: int) -> Tensor:
    """Return the distributions of classes, float [C, K]: k-means with the Kullback-Leibler divergence."""
    chosen = torch.randperm(len(maps))[: max(1, 2 * CLUSTERED * len(maps) // sum(one.numel() for one in maps))]
    outputs = torch.cat([outputs for number in chosen for outputs, _ in predictor(maps[number][None])])
    points = outputs[torch.randperm(len(outputs))[:CLUSTERED]].softmax(1)
    found = points[torch.randint(len(points), (classes,))]
    for _ in range(CLUSTER_ROUNDS):
        logs = ((1 - PRIOR_SHARE) * found + PRIOR_SHARE * prior).log()
        nearest = (points @ logs.T).argmax(1)
        sizes = torch.bincount(nearest, minlength=classes)
        found = torch.zeros_like(found).index_add_(0, nearest, points) / sizes.clamp(min=1)[:, None]
        empty = sizes == 0
        found[empty] = points[torch.randint(len(points), (int(empty.sum()),))]
    return (1 - PRIOR_SHARE) * found + PRIOR_SHARE * prior


def _index_bits(predictor: ContextNets, batch: Tensor) -> list[Tensor]:
    """Return the bits of each index but those of the first pass, by pass."""
    return [F.cross_entropy(outputs, own, reduction="none") / math.log(2) for outputs, own in predictor(batch)]


def _class_loss(context: IndexContext, predictor: ContextNets, batch: Tensor, of_best_class: bool) -> Tensor:
    """Return the cross entropy of the best class, or the expected bits of indices: half true ones, half predicted."""
    logs = context.tables.log_softmax(1)
    losses = []
    with torch.no_grad():
        predicted = [outputs.softmax(1) for outputs, _ in predictor(batch)]
    for (scores, indices), shares in zip(context.scores(batch), predicted, strict=True):
        costs = -(shares @ logs.T + logs[:, indices].T) / 2
        if of_best_class:
            losses.append(F.cross_entropy(scores, costs.detach().argmin(1), reduction="none"))
        else:
            losses.append((scores.softmax(1) * costs).sum(1))
    return torch.cat(losses).mean()


@torch.no_grad()
def _log_savings(prior: Tensor, predictor: ContextNets, context: IndexContext, maps: Sequence[Tensor]) -> None:
    costs = -prior.log2()
    by_prior = torch.cat([costs[one.flatten()] for one in maps]).mean()
    first = [costs[one[::2, ::2].flatten()] for one in maps]
    by_predictor = torch.cat([*first, *(bits for one in maps for bits in _index_bits(predictor, one[None]))]).mean()
    tables = -context.tables.log_softmax(1) / math.log(2)
    chosen = [tables[s.argmax(1), i] for one in maps for s, i in context.scores(one[None])]
    by_class = torch.cat([*first, *chosen]).mean()
    logger.info(
        "bits an index: fixed width %d, prior %.3f, predicted %.3f (%+.1f %%), %d classes %.3f (%+.1f %%)",
        (len(prior) - 1).bit_length(),
        by_prior,
        by_predictor,
        100 * (by_predictor / by_prior - 1),
        len(tables),
        by_class,
        100 * (by_class / by_prior - 1),
    )


if __name__ == "__main__":
    main()
