"""Weights in, verified bundle out.

    python export/build_engines.py                          # the embedded bundle, calibrated on the test photos
    python export/build_engines.py --recipe my/recipe.toml --photos photos/ --output engines/my

The recipe (``rdeic_export/recipe.py``) names the weights. Photos calibrate the integer entropy networks; the
same recipe and photos give the same bundle, byte for byte.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdeic_export import bundle_writer, graphs, integer, onnx_export, recipe, schedule, verify
from rdeic_export.modules.model import RdeicModel
from rdeic_export.photos import photos_in
from rdeic_export.recipe import RateRecipe, Recipe
from rdeic_export.schedule import StepTable
from rdeic_rt import pixels
from rdeic_rt.entropy import EntropyModel
from rdeic_rt.errors import ExportError, RdeicError

ROOT = Path(__file__).parents[1]
UNREADABLE = 3  # exit code when a file cannot be read or written, as of the command rdeic-rt
STEPS = (2, 5)  # every rate can be decoded in either number of steps

logger = logging.getLogger("build_engines")

Samples = list[tuple[Any, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a bundle and return the process's exit code."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        build(recipe.load(args.recipe), args.photos, args.evaluate, args.output)
    except RdeicError as error:
        print(f"build_engines: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"build_engines: {error}", file=sys.stderr)
        return UNREADABLE
    return 0


def build(chosen: Recipe, photos: Sequence[Path], evaluate: Sequence[Path], output: Path) -> None:
    """Write the bundle that a recipe describes.

    Args:
        chosen: names the weights and the networks they are for.
        photos: files or folders; they calibrate the integer entropy networks.
        evaluate: files or folders on which the integer networks' rate overhead is measured; ``photos`` when empty.
        output: the bundle's folder; an older bundle there is replaced once the new one is complete.

    Raises:
        ExportError: weights do not fit, a graph is not exportable or is too far from its module; nothing is written.
    """
    config = chosen.config
    calibration, held_out = _load_images(photos), _load_images(evaluate or photos)
    tables = _step_tables(chosen)

    with bundle_writer.staging(output) as folder:
        graph_entries: dict[str, Any] = {}
        rate_entries = []
        overheads = {}
        for index, rate in enumerate(chosen.rates):
            model = recipe.build_model(chosen, rate)
            if index == 0:
                graph_entries |= _export(graphs.shared_graphs(model), folder, "", chosen.half_weights)
            graph_entries |= _export(graphs.rate_graphs(model), folder, f"_r{index}", chosen.half_weights)
            entropy_model = _freeze_entropy(model, calibration, folder / f"entropy_r{index}.npz")
            overheads[rate.label] = _measure(model, entropy_model, held_out)
            logger.info("rate %d (%s): %s", index, rate.label, overheads[rate.label])
            step_files = _write_step_tables(model, tables, folder, index)
            rate_entries.append(_rate_entry(index, rate, entropy_model, overheads[rate.label]["bpp"], step_files))
        manifest = {
            "name": chosen.name,
            "family": "rdeic",
            "licence": chosen.licence,
            "provenance": chosen.provenance,
            "size_multiple_px": config.image_multiple_px,
            "latent": {"channels": config.vae.latent_channels, "factor_px": config.vae.factor_px},
            "graphs": graph_entries,
            "schedules": {name: bundle_writer.schedule_entry(table) for name, table in tables.items()},
            "rates": rate_entries,
            "default_rate": chosen.default_rate,
            "calibration": {"photos": len(calibration), "held_out_photos": len(held_out), "rates": overheads},
        }
        bundle_writer.write_manifest(folder, manifest)
    logger.info("%s: complete", output)


def _export(
    folded: dict[str, graphs.FoldedGraph], folder: Path, suffix: str, half_weights: bool
) -> dict[str, dict[str, Any]]:
    """Export and verify each graph; return their entries for ``bundle.json``."""
    entries = {}
    for name, graph in folded.items():
        file = f"{name}{suffix}.onnx"
        onnx_export.run(graph.module, graph.spec, folder / file, half_weights=half_weights)
        errors = verify.graph(graph.module, graph.spec, folder / file)
        worst = max(errors.values())
        logger.info("%s: %.1f MB, error %.1e", file, (folder / file).stat().st_size / 1e6, worst)
        entries[name + suffix] = bundle_writer.graph_entry(file, graph.spec, "fp32")
    return entries


def _freeze_entropy(model: RdeicModel, images: list[NDArray[np.uint8]], path: Path) -> EntropyModel:
    """Convert the entropy networks to integers, write them and return them as the runtime reads them."""
    arrays = integer.convert(model.codec, _samples(model, images))
    path.write_bytes(_npz(arrays))
    return EntropyModel.load(arrays)


def _measure(model: RdeicModel, entropy_model: EntropyModel, images: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Return bits per pixel and the rate overhead of the integer networks over the float ones, on these images."""
    report = integer.rate_overhead(model.codec, entropy_model, _samples(model, images))
    pixels_coded = sum(image.shape[0] * image.shape[1] for image in images)
    return {**report, "bpp": round(report["bits_actual"] / pixels_coded, 5)}


def _samples(model: RdeicModel, images: list[NDArray[np.uint8]]) -> Samples:
    multiple = model.config.image_multiple_px
    return [graphs.latents_of(model, pixels.pad(image, multiple)) for image in images]


def _write_step_tables(model: RdeicModel, tables: dict[str, StepTable], folder: Path, index: int) -> dict[str, str]:
    """Write a file of rows per number of steps; return schedule name -> file (samplers share their timesteps' rows)."""
    files = {name: f"steps_r{index}_{table.n_steps}.npz" for name, table in tables.items()}
    for file, table in {files[name]: table for name, table in tables.items()}.items():
        (folder / file).write_bytes(_npz(graphs.step_tables(model, table)))
    return files


def _rate_entry(
    index: int, rate: RateRecipe, entropy_model: EntropyModel, bpp: float, step_files: dict[str, str]
) -> dict[str, Any]:
    own = {name: f"{name}_r{index}" for name in ("analysis", "synthesis", "control")}
    return {
        "index": index,
        "label": rate.label,
        "lambda_r": rate.lambda_r,
        "bpp": bpp,
        "schedule": f"ddpm-{rate.n_steps}",
        "model_id": entropy_model.model_id.hex(),
        "graphs": {**own, "unet_step": "unet_step", "vae_decoder": "vae_decoder"},
        "step_tables": step_files,
        "entropy": f"entropy_r{index}.npz",
    }


def _step_tables(chosen: Recipe) -> dict[str, StepTable]:
    diffusion = chosen.config.diffusion
    counts = sorted({*STEPS, *(rate.n_steps for rate in chosen.rates)})
    ddpm = {f"ddpm-{n}": schedule.ddpm(diffusion, n) for n in counts}
    return ddpm | {f"ddim-{n}": schedule.relay_ddim(diffusion, n) for n in counts}


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return an uncompressed .npz, whose bytes depend on the arrays only."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _load_images(sources: Sequence[Path]) -> list[NDArray[np.uint8]]:
    paths = [path for source in sources for path in photos_in(source)]
    if not paths:
        raise ExportError(f"no photos in {', '.join(map(str, sources))}; some are needed for calibration")
    return [pixels.read_image(path)[0] for path in paths]


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--recipe",
        type=Path,
        default=ROOT / "training/weights/tiny/recipe.toml",
        help="which weights (default: tiny's)",
    )
    p.add_argument(
        "--photos",
        type=Path,
        nargs="+",
        default=[ROOT / "tests/data/photos"],
        help="photos or folders that calibrate the integer entropy networks (default: the test photos)",
    )
    p.add_argument(
        "--evaluate",
        type=Path,
        nargs="+",
        default=[],
        help="photos or folders to measure their rate overhead on (default: the calibration photos)",
    )
    p.add_argument("--output", type=Path, default=ROOT / "engines/tiny", help="bundle folder (default: engines/tiny)")
    return p


if __name__ == "__main__":
    sys.exit(main())
