"""Command-line options and set-up that every training script shares."""

from __future__ import annotations

import argparse
import logging
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_export.modules.gained import GainedCompressionModel
from rdeic_export.modules.model import RdeicModel
from rdeic_export.weights.recipe import MODELS

from . import data, loop
from .loop import TrainingSchedule

VALIDATION_PX = 256

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Setup(Generic[Network]):
    """What a training script starts from: the model, its crops, its options and where it writes.

    Attributes:
        model: the networks, on the device.
        squares: what crops are cut from, uint8 [N, side, side, 3]: an array in memory, or a tensor on the GPU.
        validation: middles of validation photos, float [n, 3, side, side] in [-1, 1], on the device.
        schedule, options: the stage's settings.
        out: folder of the run.
        seed: of data order and noise.
        device: ``cpu`` or ``cuda``.
        precision: as `loop.run` takes it.
    """

    model: Network
    squares: NDArray[np.uint8] | Tensor
    validation: Tensor
    schedule: TrainingSchedule
    options: dict[str, Any]
    out: Path
    seed: int
    device: str
    precision: str

    def batch(self, step: int) -> Tensor:
        """Return this process's crops of one step, float [B, 3, crop, crop] in [-1, 1], on the device."""
        share = self.schedule.batch // loop.process_count()
        places = range(loop.process_rank() * share, (loop.process_rank() + 1) * share)
        return data.batch(self.squares, places, self.schedule.crop_px, self.seed, step)


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options every stage takes."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--crops", type=Path, required=True, help="array of crops, written by training.cut_crops")
    p.add_argument("--validation", type=Path, nargs="+", required=True, help="photos: folders, tar archives or files")
    p.add_argument("--out", type=Path, required=True, help="folder of this run; an interrupted run there is resumed")
    p.add_argument(
        "--config", type=Path, default=Path(__file__).parent / "configs" / "tiny-2.toml", help="stage settings"
    )
    p.add_argument("--steps", type=int, help="optimiser steps, instead of the configuration's")
    p.add_argument("--minutes", type=float, help="time to train, instead of a number of steps")
    p.add_argument("--batch", type=int, help="crops per step, instead of the configuration's")
    p.add_argument("--crop-px", type=int, help="side of a crop, instead of the configuration's")
    p.add_argument("--seed", type=int, default=0, help="seed of data order, noise and initial weights")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    p.add_argument("--precision", choices=(loop.AUTO, loop.FP32, loop.BF16), default=loop.AUTO)
    p.add_argument("--samples", type=int, default=24, help="number of validation photos to evaluate on")
    return p


RdeicSetup: TypeAlias = Setup[RdeicModel]


def rdeic_model(settings: Mapping[str, Any]) -> RdeicModel:
    """Return the untrained RDEIC model of a configuration file."""
    return RdeicModel(MODELS[settings["model"]])


def prepare(args: argparse.Namespace, stage: str, model_of: Callable[[Mapping[str, Any]], Network]) -> Setup[Network]:
    """Return the set-up of one stage.

    Args:
        args: of `parser`.
        stage: its settings are the table of that name in the configuration file.
        model_of: all settings -> the model to train.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    loop.join_processes()
    torch.manual_seed(args.seed)
    settings = tomllib.loads(args.config.read_text())
    options = settings[stage]
    fields = {k: options.pop(k) for k in list(options) if k in TrainingSchedule.__dataclass_fields__}
    fields |= {k: getattr(args, k) for k in ("steps", "batch", "crop_px", "minutes") if getattr(args, k)}
    schedule = TrainingSchedule(**fields)
    photos = data.load_photos(args.validation, VALIDATION_PX)[: args.samples]
    middles = np.stack([data.centre(photo, VALIDATION_PX) for photo in photos])
    squares = np.load(args.crops, mmap_mode="r")
    if args.device == "cuda":
        torch.set_float32_matmul_precision("high")  # what bf16 leaves in float32 may have 10 bits
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    return Setup(
        model=on_device(model_of(settings), args.device),
        squares=torch.from_numpy(squares[:]).to(args.device) if args.device == "cuda" else squares,
        validation=data.to_tensor(middles).to(args.device),
        schedule=schedule,
        options=options,
        out=args.out,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
    )


def on_device(network: Network, device: str) -> Network:
    """Return a network on a device, with channels last: convolutions in bfloat16 then run up to twice as fast."""
    moved: Network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def codec_of(model: RdeicModel) -> GainedCompressionModel:
    """Return the compression module of a model, which must be one for all rates: no other can be trained."""
    if not isinstance(model.codec, GainedCompressionModel):
        raise TypeError(f"the compression module is a {type(model.codec).__name__}, of one rate")
    return model.codec
