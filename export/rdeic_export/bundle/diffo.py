"""A DiffO recipe's weights -> a bundle of float32 graphs, and an entropy model and a schedule for each rate.

weights ─ build_model ─┬─ indices of photos ─ prior, context ─ entropy_r0.npz   (it is model_id)
                       └─ folds ─ ONNX export ─ verify ────── synthesis_r0.onnx, unet_step_r0.onnx, ...
                                                              bundle.json last

All rates share the VQGAN's decoder.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rdeic_rt import bundle as bundles
from rdeic_rt import pixels
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.entropy.arrays import Arrays
from rdeic_rt.entropy.static_prior import VERSION, StaticPrior
from rdeic_rt.manifest import Bundle
from rdeic_rt.schedule import load_arrays

from ..disk import check_free
from ..entropy import index_context, priors
from ..fold import one_step, upsample
from ..fold.graphs import FoldedGraph
from ..fold.pixels import IndicesFromPixels, PixelsFromVae
from ..forms.ranges import names_digest
from ..modules.diffo import resshift, signature
from ..modules.diffo.model import DiffoModel
from ..weights import diffo_recipe
from ..weights.diffo_recipe import DiffoRate, DiffoRecipe
from . import preference, staging
from .common import digest, export_graphs, images_of, npz, photo_paths
from .staging import Staging

_DISK_BYTES = {"diffo": 2_500_000_000}  # disk space for writing a large bundle, without its plans
_SMOOTHING = 0.5  # added to the count of each code vector
_WORTHWHILE = 0.02  # share of the bits that a context model must save to be kept

logger = logging.getLogger("build_engines")


def build(
    chosen: DiffoRecipe, photos: Sequence[Path], evaluate: Sequence[Path], output: Path, *, resume: bool = False
) -> Bundle:
    """Write the bundle that a recipe describes; arguments, result and errors as for `build.build`.

    The entropy models are computed from ``photos``.
    """
    check_free(output, _DISK_BYTES.get(chosen.config.name, 0), "its graphs")
    calibration, held_out = photo_paths(photos), photo_paths(evaluate or photos)
    key = {
        "layout": chosen.layout,
        "weights": {str(path): digest(path) for path in chosen.files},
        "half_weights": chosen.half_weights,
    }
    with staging.staging(output, resume=resume) as stage:
        graph_entries: dict[str, Any] = {}
        rate_entries, schedules, measured = [], {}, {}
        for index, rate in enumerate(chosen.rates):
            suffix, rate_key = f"_r{index}", {**key, "config": repr(rate.config)}
            model = diffo_recipe.build_model(chosen, rate)
            logger.info("%s: weights loaded", rate.label)
            entropy, facts = _entropy_model(model, rate, calibration, held_out, stage, f"entropy{suffix}.npz", rate_key)
            logger.info("%s: %s", rate.label, facts)
            measured[rate.label] = facts
            graph_entries |= export_graphs(_rate_graphs(model), stage, suffix, rate_key)
            if index == 0:
                graph_entries |= export_graphs(_shared_graphs(model), stage, "", key)
            schedules[f"resshift{suffix}"] = resshift.ddpm(rate.config.diffusion)
            rate_entries.append(_rate_entry(index, rate, entropy, facts))
        document = {
            "name": chosen.name,
            "family": "diffo",
            "licence": chosen.licence,
            "provenance": dict(chosen.provenance),
            "size_multiple_px": _unit_px(chosen),
            "graphs": graph_entries,
            "preferred": preference.DEFAULT,
            "schedules": {name: bundles.schedule_entry(table) for name, table in schedules.items()},
            "rates": rate_entries,
            "default_rate": chosen.default_rate,
            "calibration": {"photos": len(calibration), "held_out_photos": len(held_out), "rates": measured},
        }
        bundles.write(stage.folder, document)
    logger.info("%s: bundle complete", output)
    return bundles.read(output, verify=False)


def _unit_px(chosen: DiffoRecipe) -> int:
    """Return the common unit of all rates: that of their UNets, which also covers codes twice as coarse as latents."""
    (unit_px,) = {rate.config.image_multiple_px for rate in chosen.rates}
    return unit_px


def _rate_graphs(model: DiffoModel) -> dict[str, FoldedGraph]:
    """Return analysis, synthesis and unet_step; the UNet is folded in place."""
    config = model.config
    synthesis = one_step.SynthesisFromIndices(model.codec, model.unet)
    one_step.fold(model.unet, resshift.ddpm(config.diffusion).timesteps[0])
    return {
        "analysis": FoldedGraph(IndicesFromPixels(model), signature.analysis(config)),
        "synthesis": FoldedGraph(synthesis, signature.synthesis(config)),
        "unet_step": FoldedGraph(one_step.OneStep(model.unet), signature.unet_step(config)),
    }


def _shared_graphs(model: DiffoModel) -> dict[str, FoldedGraph]:
    """Return vae_decoder; the decoder is folded in place."""
    upsample.fold(model.vqgan)
    return {"vae_decoder": FoldedGraph(PixelsFromVae(model.vqgan), signature.vae_decoder(model.config))}


def _entropy_model(
    model: DiffoModel,
    rate: DiffoRate,
    calibration: Sequence[Path],
    held_out: Sequence[Path],
    stage: Staging,
    file: str,
    key: Mapping[str, Any],
) -> tuple[StaticPrior, dict[str, float]]:
    """Count the occurrences of each code, overall and in context, and write the entropy model.

    The context model is kept if it saves `_WORTHWHILE` on the held-out photos.

    Returns:
        The model as the runtime reads it; on the held-out photos, the bits of their indices with a fixed width, with
        the prior, with the context model if the rate has one, and with the shorter of the two for each photo in the
        model that was written, also in bits per pixel; and the number of codes in use.
    """
    key = {**key, "photos": names_digest(calibration), "held_out": names_digest(held_out)}
    path = stage.folder / file
    facts = stage.finished(file, key)
    if facts is None:
        indices = [_indices(model, image)[0] for image in images_of(calibration)]
        prior = {
            "version": np.array([VERSION], np.int32),
            "index_px": np.array([rate.config.index_px], np.int32),
            **priors.prior_arrays(indices, rate.config.codebook_size, _SMOOTHING),
        }
        images = images_of(held_out)
        measured = [_indices(model, image)[0] for image in images]
        candidates = {"prior": prior}
        context = diffo_recipe.build_context(rate, model.codec.quantize.embedding.weight.detach())
        if context is not None:
            candidates["context"] = index_context.convert(context, indices, prior)
        bits = {name: _range_coded_bits(arrays, measured) for name, arrays in candidates.items()}
        chosen = "context" if bits.get("context", math.inf) <= (1 - _WORTHWHILE) * bits["prior"] else "prior"
        path.write_bytes(npz(candidates[chosen]))
        facts = {
            **{f"bits_{name}": count for name, count in bits.items()},
            **_measure(StaticPrior.load(candidates[chosen]), measured),
        }
        facts["bpp"] = round(facts["bits_actual"] / sum(image.shape[0] * image.shape[1] for image in images), 5)
        stage.record(file, key, facts)
    return StaticPrior.load(load_arrays(OwnFile(path))), facts


def _range_coded_bits(arrays: Arrays, indices: Sequence[NDArray[np.int64]]) -> int:
    """Return the bits of indices, [Hq, Wq] each, by an entropy model, without the fixed width."""
    coder = StaticPrior.load(arrays).indices
    return 8 * sum(len(coder.range_coded(one.astype(np.int32))) for one in indices)


def _measure(entropy: StaticPrior, indices: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    coded = [entropy.encode({"vq_indices": one[None]}) for one in indices]
    masses = np.bincount(np.concatenate([one.ravel() for one in indices]), minlength=entropy.indices.n_codes)
    return {
        "bits_fixed": 8 * sum(entropy.indices.plain_bytes(one.size) for one in indices),
        "bits_actual": 8 * sum(len(one.z) for one in coded),
        "fixed_share": sum(one.z_is_plain for one in coded) / len(coded),
        "codes_in_use": int((masses > 0).sum()),
    }


@torch.no_grad()
def _indices(model: DiffoModel, image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the indices of an image, int64 [1, Hq, Wq], as the analysis graph computes them."""
    padded = torch.from_numpy(pixels.pad(image, model.config.image_multiple_px))
    found: NDArray[np.int64] = IndicesFromPixels(model)(padded[None]).numpy()
    return found


def _rate_entry(index: int, rate: DiffoRate, entropy: StaticPrior, facts: Mapping[str, float]) -> dict[str, Any]:
    own = {name: f"{name}_r{index}" for name in ("analysis", "synthesis", "unet_step")}
    return {
        "index": index,
        "label": rate.label,
        "bpp": facts["bpp"],
        "guided": False,
        "schedule": f"resshift_r{index}",
        "model_id": entropy.model_id.hex(),
        "graphs": {**own, "vae_decoder": "vae_decoder"},
        "entropy": f"entropy_r{index}.npz",
    }
