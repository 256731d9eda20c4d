"""The training loop all stages share: resumable, seeded, averaged weights, metrics and sample images as it goes."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from rdeic_export.weights import in_graphs
from rdeic_export.weights.state import read_state

logger = logging.getLogger("training")

Metrics = dict[str, float]
Parts = dict[str, Tensor]
CHECKPOINT = "checkpoint.pt"
AUTO, FP32, BF16 = "auto", "fp32", "bf16"


@dataclass(frozen=True)
class TrainingSchedule:
    """How one stage is trained.

    Attributes:
        steps: optimiser steps in all; what ends the training unless ``minutes`` does.
        batch: crops a step.
        crop_px: side of a crop.
        lr: peak learning rate; linear warm-up, then constant, then falling linearly to 1 % of it.
        warmup: steps of warm-up.
        decay: share of the steps, the last ones, in which it falls.
        ema: decay of the averaged weights that are saved.
        clip: largest gradient norm.
        checkpoint_minutes: time between checkpoints.
        log_every: steps between two lines of metrics.
        sample_every: steps between two sample sheets, and between two validations.
        minutes: how long to train, whatever number of steps that is; for a machine that is lent for a time.
    """

    steps: int
    batch: int
    lr: float
    crop_px: int = 128
    warmup: int = 200
    decay: float = 0.3
    ema: float = 0.999
    clip: float = 1.0
    checkpoint_minutes: float = 3.0
    log_every: int = 50
    sample_every: int = 1000
    minutes: float | None = None

    def share(self, step: int, seconds: float) -> float:
        """Return the share of the training that is done after so many steps, which took so many seconds."""
        return step / self.steps if self.minutes is None else seconds / (60 * self.minutes)


def run(
    trained: nn.Module,
    batch: Callable[[int], Tensor],
    loss: Callable[[Tensor], tuple[Tensor, Parts]],
    samples: Callable[[], tuple[NDArray[np.uint8], Metrics]],
    schedule: TrainingSchedule,
    out: Path,
    *,
    seed: int,
    device: str,
    precision: str = AUTO,
    after_step: Callable[[int, float], None] = lambda step, share: None,
) -> None:
    """Train the modules and leave ``weights.safetensors`` (averaged weights, fp32) in ``out``.

    ``out`` also gets ``metrics.jsonl``, ``validation.jsonl``, ``samples/*.png`` and ``checkpoint.pt``, from which an
    interrupted run goes on. On a GPU, loss and gradients are one CUDA graph, so ``loss`` must neither read a value back
    nor copy one from the host.

    Args:
        trained: the modules whose parameters are optimised, by the prefix of their keys.
        batch: step -> crops, float [B, 3, H, W] in [-1, 1], on the device.
        loss: crops -> (scalar loss, its parts and other scalars to log).
        samples: a sheet of images, uint8 [H, W, 3], and metrics on validation photos, made with the averaged weights.
        schedule: steps, rates and intervals.
        out: folder of this run.
        seed: seeds torch; the data loader has its own.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` for autocasts to bfloat16, or ``auto`` for the faster one.
        after_step: called with each step that is done, and with the share of the training that is.
    """
    (out / "samples").mkdir(parents=True, exist_ok=True)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average = {k: v.detach().clone() for k, v in trained.state_dict().items()}
    checkpoint = out / CHECKPOINT
    step, seconds = 0, 0.0
    torch.manual_seed(seed + process_rank())
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
        trained.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average, step, seconds = state["average"], state["step"], state["seconds"]
        torch.set_rng_state(state["rng"].cpu())
        logger.info("resuming %s at step %d", out, step)

    trained.train()
    if precision == AUTO:
        precision = faster_precision(lambda: loss(batch(step))[0], device)
        torch.manual_seed(seed + process_rank())
        if checkpoint.exists():
            torch.set_rng_state(state["rng"].cpu())

    def gradients(image: Tensor) -> tuple[Tensor, Parts]:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == BF16):
            value, parts = loss(image)
        value.backward()  # type: ignore[no-untyped-call]
        _average_gradients(parameters)
        return value.detach(), parts

    begun = time.monotonic() - seconds

    def elapsed() -> float:
        seconds = time.monotonic() - begun
        return seconds if schedule.minutes is None else _of_first_process(seconds, device)

    def save() -> None:
        _save_checkpoint(checkpoint, trained, optimiser, average, step, time.monotonic() - begun)

    crops = batch(step)
    compute: Callable[[Tensor], tuple[Tensor, Parts]] = gradients
    if device == "cuda" and process_count() == 1:
        try:
            compute = recorded(gradients, crops)
        except RuntimeError as error:
            logger.warning("no CUDA graph, so steps take longer: %s", error)
    averaged = _Average(average, trained)
    saved_at = time.monotonic()
    share = schedule.share(step, elapsed())
    while share < 1:
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * lr_factor(step, share, schedule)
        value, parts = compute(crops)
        crops = batch(step + 1)  # while a GPU is at work
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, schedule.clip))
        if math.isfinite(norm):
            optimiser.step()
        else:
            logger.warning("step %d skipped: gradient norm %s", step, norm)
        averaged.update(min(schedule.ema, (1 + step) / (10 + step)))
        after_step(step, share)
        step += 1
        share = schedule.share(step, elapsed())

        if process_rank():
            continue
        if (step - 1) % schedule.log_every == 0 or share >= 1:
            _log(out, step - 1, {"loss": float(value), "norm": norm, **{k: float(v) for k, v in parts.items()}})
        if share >= 1 or step % schedule.sample_every == 0:
            _write_samples(out, step, trained, average, samples)
        if time.monotonic() - saved_at > 60 * schedule.checkpoint_minutes:
            save()
            saved_at = time.monotonic()
    if not process_rank():
        save()
        save_weights(out / "weights.safetensors", average)
    trained.load_state_dict(average)


def recorded(
    gradients: Callable[[Tensor], tuple[Tensor, Parts]], example: Tensor
) -> Callable[[Tensor], tuple[Tensor, Parts]]:
    """Return ``gradients`` as a CUDA graph: one launch in place of several thousand.

    Args:
        gradients: crops -> (loss, parts); leaves gradients in parameters that had none.
        example: crops, of the shape that all others have.
    """
    crops = example.clone()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels now
            gradients(crops)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = gradients(crops)

    def replay(image: Tensor) -> tuple[Tensor, Parts]:
        crops.copy_(image)
        graph.replay()
        return result

    return replay


def faster_precision(loss: Callable[[], Tensor], device: str) -> str:
    """Return ``fp32`` or ``bf16``, whichever is faster: without AVX-512, bf16 takes eight times as long.

    Args:
        loss: computes the loss of one step.
        device: ``cpu`` or ``cuda``.
    """
    seconds = {}
    for precision in (FP32, BF16):
        for timed in (False, True):
            started = time.monotonic()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == BF16):
                value = loss()
            value.backward()  # type: ignore[no-untyped-call]
            if device == "cuda":
                torch.cuda.synchronize()
            if timed:
                seconds[precision] = time.monotonic() - started
    # All processes must take the same; the slowest decides.
    total = torch.tensor([seconds[FP32], seconds[BF16]], device=device)
    if process_count() > 1:
        distributed.all_reduce(total)
    chosen = FP32 if total[0] <= total[1] else BF16
    logger.info("a step takes %.2f s in fp32 and %.2f s in bf16: %s", seconds[FP32], seconds[BF16], chosen)
    return chosen


def join_processes() -> None:
    """Share batches and gradients with the other processes that ``torchrun`` started, if it did."""
    if distributed.is_torchelastic_launched() and not distributed.is_initialized():
        distributed.init_process_group()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def process_count() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_rank() -> int:
    """Return which of the processes that train together this one is, 0 when it trains alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def _of_first_process(value: float, device: str) -> float:
    """Return the first process's value: all must leave the loop after the same step, or one waits for ever."""
    if process_count() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.broadcast(shared, 0)
    return float(shared)


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients over all processes; the same parameters have one in each."""
    if process_count() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= process_count()
    for gradient, average in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(average.view_as(gradient))


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors, atomically."""
    in_graphs.write(path, state)


def load_weights(module: nn.Module, *paths: Path) -> None:
    """Load weights written by :func:`run` into the parts of ``module`` they name; other parts keep theirs."""
    for path in paths:
        state = read_state(path)
        unknown = set(state) - set(module.state_dict())
        if unknown:
            raise KeyError(f"{path}: {sorted(unknown)[:5]} are not part of {type(module).__name__}")
        module.load_state_dict(state, strict=False)


def sheet(*columns: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return one image, uint8 [H, W, 3], of batches [B, h, w, 3] side by side, one photo a row."""
    rows = [np.concatenate(row, axis=1) for row in zip(*columns, strict=True)]
    return np.concatenate(rows, axis=0)


def lr_factor(step: int, share: float, schedule: TrainingSchedule) -> float:
    """Return the learning rate of a step over the peak one; ``share`` of the training lies before it."""
    warm = min(1.0, (step + 1) / schedule.warmup)
    return warm * max(0.01, min(1.0, (1 - share) / schedule.decay))


class _Average:
    """Keeps averages of a module's weights; of buffers that are no real numbers, the latest."""

    def __init__(self, average: dict[str, Tensor], module: nn.Module) -> None:
        pairs = [(average[key], value) for key, value in module.state_dict().items()]
        self._averages = [average for average, value in pairs if value.is_floating_point()]
        self._values = [value for _, value in pairs if value.is_floating_point()]
        self._others = [(average, value) for average, value in pairs if not value.is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)
        for average, value in self._others:
            average.copy_(value)


def _log(out: Path, step: int, metrics: Metrics, name: str = "metrics.jsonl") -> None:
    line = {"step": step, "time": round(time.time(), 1), **{k: round(v, 5) for k, v in metrics.items()}}
    with (out / name).open("a") as file:
        file.write(json.dumps(line) + "\n")
    logger.info("%s", line)


def _write_samples(
    out: Path,
    step: int,
    trained: nn.Module,
    average: dict[str, Tensor],
    samples: Callable[[], tuple[NDArray[np.uint8], Metrics]],
) -> None:
    current = {k: v.clone() for k, v in trained.state_dict().items()}
    trained.load_state_dict(average)
    trained.eval()
    with torch.no_grad():
        sheet_of_images, metrics = samples()
    Image.fromarray(sheet_of_images).save(out / "samples" / f"{step:06d}.png")
    _log(out, step, metrics, "validation.jsonl")
    trained.load_state_dict(current)
    trained.train()


def _save_checkpoint(
    path: Path,
    trained: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: dict[str, Tensor],
    step: int,
    seconds: float,
) -> None:
    temporary = path.with_suffix(".tmp")
    state = {
        "model": trained.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average,
        "step": step,
        "seconds": seconds,
        "rng": torch.get_rng_state(),
    }
    torch.save(state, temporary)
    os.replace(temporary, path)
