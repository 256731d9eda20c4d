"""A recipe's weights -> a bundle of float32 graphs, integer entropy networks and step tables.

weights ─ build_model ─┬─ step tables ──────────────────────────── steps_r0_2.npz
                       ├─ integer networks, fixed-point tables ─── entropy_r0.npz   (together they are model_id)
                       └─ folds ─ ONNX export ─ verify ─────────── control_r0.onnx, unet_step.onnx, ...
                                                                   bundle.json last
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdeic_rt import bundle as bundles
from rdeic_rt import pixels
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.entropy.hyperprior import Hyperprior
from rdeic_rt.manifest import Bundle
from rdeic_rt.schedule import Schedule, load_arrays

from ..disk import check_free
from ..entropy import integer, skip_threshold
from ..fold import graphs
from ..fold.pixels import PixelsFromVae
from ..forms.ranges import names_digest
from ..modules import samplers
from ..modules.model import RdeicModel
from ..weights import in_graphs, recipe
from ..weights.any_recipe import AnyRecipe
from ..weights.diffo_recipe import DiffoRecipe
from ..weights.document import RANDOM
from ..weights.recipe import RateRecipe, Recipe
from . import diffo, preference, staging
from .common import digest, export_graphs, images_of, npz, photo_paths
from .staging import Staging

_DISK_BYTES = {"sd21": 6_000_000_000}  # disk space for writing a large bundle, without its plans

logger = logging.getLogger("build_engines")

LEVELS_FILE = "levels.npz"
LEVELS_PER_RATE = 64  # steps of about 1 % of the file's size, from one of the model's rates to the next

Samples = list[tuple[Any, Any]]


@dataclass(frozen=True)
class LevelRow:
    """The inputs of a shared compression module's graphs at one level, float32 [D] each."""

    analysis: NDArray[np.float32]
    synthesis: NDArray[np.float32]


Level = LevelRow | None


@dataclass(frozen=True)
class _Part:
    """Rates that share a compression module, and the suffix of the files it becomes."""

    suffix: str
    rates: tuple[RateRecipe, ...]

    @property
    def entropy(self) -> str:
        """Name of the entropy model's file."""
        return f"entropy{self.suffix}.npz"

    def __str__(self) -> str:
        return " and ".join(rate.label for rate in self.rates)


def build(
    chosen: AnyRecipe, photos: Sequence[Path], evaluate: Sequence[Path], output: Path, *, resume: bool = False
) -> Bundle:
    """Write the bundle that a recipe describes; return it, read back without hashing it again.

    Args:
        chosen: the weights and their networks.
        photos: files or folders; they calibrate the integer entropy networks.
        evaluate: files or folders on which the integer networks' rate overhead is measured; ``photos`` when empty.
        output: the bundle's folder; an older bundle there is replaced once the new one is complete.
        resume: reuse the finished files of an interrupted build of the same weights.

    Raises:
        ExportError: weights do not fit or lie in ``output`` itself, a graph is not exportable or is too far from its
            module; nothing is written.
    """
    in_graphs.check_apart(chosen.files, output)
    if isinstance(chosen, DiffoRecipe):
        return diffo.build(chosen, photos, evaluate, output, resume=resume)
    config = chosen.config
    check_free(output, _DISK_BYTES.get(config.name, 0), "its graphs")
    calibration, held_out = photo_paths(photos), photo_paths(evaluate or photos)
    schedules = _schedules(chosen)
    key = {
        "layout": chosen.layout,
        "weights": {str(path): digest(path) for path in chosen.files},
        "half_weights": chosen.half_weights,
        "prompt": chosen.prompt,
    }

    with staging.staging(output, resume=resume) as stage:
        graph_entries: dict[str, Any] = {}
        rate_entries: list[dict[str, Any]] = []
        overheads = {}
        for part in _parts(chosen):
            model = recipe.build_model(chosen, part.rates[0])
            logger.info("%s: weights loaded", part)
            step_files = _write_step_tables(model, schedules, stage.folder, part.suffix)
            if chosen.shares_rates:
                (stage.folder / LEVELS_FILE).write_bytes(npz(graphs.level_tables(model, _n_levels(chosen))))
            entropy, facts = _freeze_entropy(model, chosen, part, calibration, held_out, stage, key)
            logger.info("%s: %s", part, facts)
            graph_entries |= export_graphs(graphs.rate_graphs(model), stage, part.suffix, key)
            if not rate_entries:
                graph_entries |= export_graphs(graphs.shared_graphs(model), stage, "", key)
            for rate in part.rates:
                overheads[rate.label] = facts[rate.label]
                rate_entries.append(_rate_entry(len(rate_entries), rate, part, entropy, facts[rate.label], step_files))
        document = {
            "name": chosen.name,
            "family": "rdeic",
            "licence": chosen.licence,
            "provenance": chosen.provenance,
            "size_multiple_px": config.image_multiple_px,
            "graphs": graph_entries,
            "preferred": preference.DEFAULT,
            "schedules": {name: bundles.schedule_entry(table) for name, table in schedules.items()},
            "rates": rate_entries,
            "default_rate": chosen.default_rate,
            "calibration": {"photos": len(calibration), "held_out_photos": len(held_out), "rates": overheads},
        }
        if chosen.shares_rates:
            document["levels"] = {"file": LEVELS_FILE, "count": _n_levels(chosen)}
        bundles.write(stage.folder, document)
    logger.info("%s: bundle complete", output)
    return bundles.read(output, verify=False)


def _freeze_entropy(
    model: RdeicModel,
    chosen: Recipe,
    part: _Part,
    calibration: Sequence[Path],
    held_out: Sequence[Path],
    stage: Staging,
    key: dict[str, Any],
) -> tuple[Hyperprior, dict[str, dict[str, float]]]:
    """Convert the entropy networks to integers and write them.

    Returns:
        The model as the runtime reads it; for each rate's label, bits per pixel and the rate overhead over the float
        networks on the held-out photos, the skip threshold, and ``bit_worth``.
    """
    levels = [_level_row(model, chosen, rate) for rate in part.rates]
    key = {
        **key,
        "photos": names_digest(calibration),
        "held_out": names_digest(held_out),
        "levels": [rate.level for rate in part.rates],
    }
    path = stage.folder / part.entropy
    facts = stage.finished(part.entropy, key)
    if facts is None:
        arrays, bit_worth = _entropy_arrays(model, levels, images_of(calibration), key["layout"])
        path.write_bytes(npz(arrays))
    entropy = Hyperprior.load(load_arrays(OwnFile(path)))
    if facts is None:
        images = images_of(held_out)
        pixels_coded = sum(image.shape[0] * image.shape[1] for image in images)
        facts = {}
        for rate, level in zip(part.rates, levels, strict=True):
            samples = _samples(model, level, images)
            report = integer.rate_overhead(model.codec, entropy, samples)
            bpp = round(_bits(entropy, samples, bit_worth) / pixels_coded, 5)
            facts[rate.label] = {
                **report,
                "bpp": bpp,
                "skip_below": entropy.tables.skip_below,
                "bit_worth": bit_worth,
            }
        stage.record(part.entropy, key, facts)
    return entropy, facts


def _bits(model: Hyperprior, samples: Samples, bit_worth: float) -> int:
    """Return the total bits of the sections of all samples."""
    coded = [integer.encode(model, sample, bit_worth) for sample in samples]
    return 8 * sum(len(one.y) + len(one.z) for one in coded)


def _entropy_arrays(
    model: RdeicModel, levels: list[Level], images: list[NDArray[np.uint8]], layout: str
) -> tuple[dict[str, NDArray[Any]], float]:
    """Return the arrays of the entropy model, and ``bit_worth``, calibrated on the photos at all levels."""
    samples = [sample for level in levels for sample in _samples(model, level, images)]
    arrays = integer.convert(model.codec, samples)
    if layout == RANDOM:  # nothing to calibrate: with random weights, z_c estimates nothing
        return arrays, 0.0
    padded = [pixels.pad(image, model.config.image_multiple_px) for image in images] * len(levels)
    rows = [None if level is None else torch.from_numpy(level.synthesis)[None] for level in levels]
    pixels_of = PixelsFromVae(model.vae)

    def reconstruct(y_hat: Tensor, number: int) -> Tensor:
        preview: Tensor = pixels_of(model.codec.synthesise(y_hat, rows[number // len(images)])[0])
        return preview.float()

    threshold = skip_threshold.choose(reconstruct, Hyperprior.load(arrays), samples, padded)
    arrays = {**arrays, "skip_below": np.array([threshold], np.int32)}
    return arrays, skip_threshold.choose_bit_worth(reconstruct, Hyperprior.load(arrays), samples, padded)


def _samples(model: RdeicModel, level: Level, images: list[NDArray[np.uint8]]) -> Samples:
    multiple = model.config.image_multiple_px
    row = None if level is None else level.analysis
    return [graphs.latents_of(model, pixels.pad(image, multiple), row) for image in images]


def _level_row(model: RdeicModel, chosen: Recipe, rate: RateRecipe) -> Level:
    if rate.level is None:
        return None
    tables = graphs.level_tables(model, _n_levels(chosen))
    return LevelRow(tables["analysis"][rate.level], tables["synthesis"][rate.level])


def _n_levels(chosen: Recipe) -> int:
    assert chosen.config.compression.rates is not None  # called only if rates share a module
    return LEVELS_PER_RATE * (chosen.config.compression.rates - 1) + 1


def _parts(chosen: Recipe) -> list[_Part]:
    """Return the groups of rates that share a compression module: all of them, or each alone."""
    if chosen.shares_rates:
        return [_Part("", chosen.rates)]
    return [_Part(f"_r{index}", (rate,)) for index, rate in enumerate(chosen.rates)]


def _write_step_tables(model: RdeicModel, tables: dict[str, Schedule], folder: Path, suffix: str) -> dict[str, str]:
    """Write a file of rows per number of steps; return schedule name -> file (samplers share their timesteps' rows)."""
    files = {name: f"steps{suffix}_{table.n_steps}.npz" for name, table in tables.items()}
    for file, table in {files[name]: table for name, table in tables.items()}.items():
        (folder / file).write_bytes(npz(graphs.step_tables(model, table)))
    return files


def _rate_entry(
    index: int,
    rate: RateRecipe,
    part: _Part,
    entropy_model: Hyperprior,
    facts: dict[str, float],
    step_files: dict[str, str],
) -> dict[str, Any]:
    own = {name: f"{name}{part.suffix}" for name in ("analysis", "synthesis", "control")}
    return {
        **({} if rate.level is None else {"level": rate.level}),
        "index": index,
        "label": rate.label,
        "lambda_r": rate.lambda_r,
        "bpp": facts["bpp"],
        "bit_worth": facts["bit_worth"],
        "schedule": f"ddpm-{rate.n_steps}",
        "model_id": entropy_model.model_id.hex(),
        "graphs": {**own, "unet_step": "unet_step", "vae_decoder": "vae_decoder"},
        "step_tables": step_files,
        "entropy": part.entropy,
    }


def _schedules(chosen: Recipe) -> dict[str, Schedule]:
    diffusion, counts = chosen.config.diffusion, chosen.schedule_steps
    ddpm = {f"ddpm-{n}": samplers.ddpm(diffusion, n) for n in counts}
    return ddpm | {f"ddim-{n}": samplers.relay_ddim(diffusion, n) for n in counts}
