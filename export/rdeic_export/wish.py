"""What a command line asks for, checked: what cannot be had is refused here, before anything is written."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdeic_rt import bundle as bundles
from rdeic_rt.backends.tensorrt.plans import Profile
from rdeic_rt.errors import ExportError
from rdeic_rt.limits import Size
from rdeic_rt.manifest import Bundle

from .forms import ranges, selection
from .forms.ranges import Ranges
from .plans.target import Target, capabilities, installed_library
from .weights import any_recipe, diffo_recipe, recipe
from .weights.any_recipe import AnyRecipe
from .weights.recipe import STEPS

ONNX = "onnx"  # in the place of a library: no plans, but forms in the bundle

_PX_PER_LATENT = 8
_MOST_KEYS = 65_504  # the largest float16; tier4/autoware-ml#95, of a fused attention of TensorRT's


@dataclass(frozen=True)
class Wish:
    """What to build.

    Attributes:
        recipe: what a new bundle is made of; None for one that is there.
        bundle: the one that is there; its files are known to be whole.
        steps: rates that can be decoded in one of these numbers of steps are wanted.
        output: folder of the bundle that is written; that of ``bundle`` where only plans are.
        forms: what to derive, in this order.
        planned: those of them that plans are built from.
        ranges: activation ranges, if a form has 8 bits.
        target: what to build plans for; None for a bundle with the forms.
        graphs: ids of those that get the forms; None for all that decode.
    """

    recipe: AnyRecipe | None
    bundle: Bundle | None
    steps: tuple[int, ...]
    output: Path
    forms: tuple[str, ...]
    planned: tuple[str, ...]
    ranges: Ranges | None
    target: Target | None
    graphs: tuple[str, ...] | None = None

    @property
    def is_for_rtx(self) -> bool:
        """Whether plans are built with TensorRT for RTX."""
        return self.target is not None and self.target.library == "tensorrt-rtx"

    def chosen(self, graph_ids: Sequence[str]) -> Sequence[str]:
        """Return which of the graphs that decode get the forms.

        Raises:
            ExportError: a requested one is none of them.
        """
        unknown = [name for name in self.graphs or () if name not in graph_ids]
        if unknown:
            raise ExportError(f"no graph {unknown[0]!r} decodes; --graphs takes some of {', '.join(graph_ids)}")
        return graph_ids if self.graphs is None else self.graphs

    def keeps(self, form: str) -> bool:
        """Return whether the bundle gets a form of the graphs: all without plans, and half precision if it is new."""
        return self.target is None or (self.recipe is not None and form in selection.BESIDE_PLANS)


def of(args: argparse.Namespace, root: Path) -> Wish:
    """Return what the arguments of ``build_engines.py`` ask for.

    Args:
        args: parsed.
        root: folder of the repository, for whatever is not named.

    Raises:
        ExportError: it cannot be had. BundleError: the bundle is not there or damaged. OSError: a photo is not there.
    """
    for photo in (*args.photos, *args.evaluate):
        photo.stat()
    chosen = _recipe(args)
    bundle = _bundle(args.bundle) if chosen is None else None
    steps = args.steps or _default_steps(chosen, bundle)
    if bundle is not None:
        selection.float32_graphs(bundle, selection.decoding_graphs(bundle, steps))
    if chosen is not None:
        _check_steps(chosen, steps)
    unit_px = bundle.size_multiple_px if bundle is not None else _of(chosen).config.image_multiple_px
    target = None if args.library == ONNX else _target(args, unit_px)
    if target is None and chosen is None and args.output is None:
        raise ExportError("--library onnx adds graphs to a copy of the bundle: name its folder with --output")
    if target is not None and args.graphs is not None:
        raise ExportError("--graphs is about forms in a bundle, with --library onnx; plans are built of all graphs")
    planned = () if target is None else _forms(selection.IN_PLANS, args.precision)
    wanted = planned if target is not None else _forms(selection.IN_BUNDLES, args.precision)
    if chosen is not None and "fp16" in planned:
        wanted = tuple(dict.fromkeys((*wanted, *selection.BESIDE_PLANS)))
    _check_drop(args, target, wanted)
    name = bundle.name if bundle is not None else _of(chosen).name
    ranges_of = _ranges(args, root, name, bundle, steps)
    return Wish(chosen, bundle, steps, _output(args, root, chosen), wanted, planned, ranges_of, target, args.graphs)


def _forms(table: Mapping[str, Sequence[str]], precisions: Sequence[str]) -> tuple[str, ...]:
    return tuple(form for precision in precisions for form in table[precision])


def _default_steps(chosen: AnyRecipe | None, bundle: Bundle | None) -> tuple[int, ...]:
    """Return the usual numbers of steps, or where no rate has these, all that there are."""
    if bundle is not None:
        possible = set().union(*(selection.steps_of(bundle, rate) for rate in bundle.rates))
    else:
        possible = set(_of(chosen).schedule_steps)
    return STEPS if possible.intersection(STEPS) else tuple(sorted(possible))


def _recipe(args: argparse.Namespace) -> AnyRecipe | None:
    """Return what the bundle is to be made of, or None for one that is there already."""
    half_weights = "fp32" not in args.precision
    if args.random_weights:
        return any_recipe.random(args.random_weights, args.steps or STEPS, half_weights=half_weights)
    if args.diffo:
        name = args.output.name if args.output else "diffo"
        return diffo_recipe.from_checkpoints(name, *args.diffo, sqrt_eta=args.sqrt_eta, half_weights=half_weights)
    if args.checkpoint:
        if args.sd is None:
            raise ExportError(
                "--checkpoint needs the Stable Diffusion 2.1 it was trained with: give v2-1_512-ema-pruned.ckpt, or a "
                "diffusers folder, as --sd"
            )
        name = args.output.name if args.output else "sd21"
        return recipe.from_checkpoints(
            name,
            args.checkpoint,
            args.sd,
            args.steps or STEPS,
            half_weights=half_weights,
            prompt=args.prompt,
            context=args.context,
        )
    return any_recipe.load(args.recipe) if args.recipe else None


def _bundle(folder: Path) -> Bundle:
    """Return a bundle that is there; it is hashed here, and not again when it is used."""
    bundles.load(folder)
    return bundles.load(folder, verify=False)


def _check_steps(chosen: AnyRecipe, steps: Sequence[int]) -> None:
    possible = chosen.schedule_steps
    if not set(possible) & set(steps):
        raise ExportError(
            f"the rates of {chosen.name!r} decode in {', '.join(map(str, possible))} steps, not in "
            f"{' or '.join(map(str, steps))}. Choose among those with --steps."
        )


def _target(args: argparse.Namespace, unit_px: int) -> Target:
    library, version = installed_library(args.library)
    smallest, typical, largest = (_padded(size, unit_px) for size in args.sizes)
    ordered = all(
        low.height <= high.height and low.width <= high.width for low, high in ((smallest, typical), (typical, largest))
    )
    if not ordered:
        raise ExportError("--sizes: each size must be at least as large as the one before, on both sides")
    _check_attention(largest, args.precision)
    profile = Profile(smallest, typical, largest, args.batch)
    return Target(library, version, capabilities(library, args.target), profile, args.workspace)


def _check_attention(largest: Size, precisions: Sequence[str]) -> None:
    """Raise ExportError where attention sums over more keys than float16 has whole numbers of."""
    keys = (largest.height // _PX_PER_LATENT) * (largest.width // _PX_PER_LATENT)
    if keys > _MOST_KEYS and set(precisions) != {"fp32"}:
        raise ExportError(
            f"--sizes: {largest.width}x{largest.height} in one piece is attention over {keys} keys, and more than "
            f"{_MOST_KEYS} have been reported to give NaN in float16. Take a smaller size, as larger images are "
            "decoded in tiles, or --precision fp32."
        )


def _padded(size: Size, unit_px: int) -> Size:
    return Size(*(-(-side // unit_px) * unit_px for side in (size.height, size.width)))


def _check_drop(args: argparse.Namespace, target: Target | None, wanted: Sequence[str]) -> None:
    if not args.drop_fp32:
        return
    if target is not None:
        raise ExportError("--drop-fp32 is for bundles with other forms: give --library onnx too")
    if not wanted or "fp32" in args.precision:
        raise ExportError("--drop-fp32 leaves the bundle without float32: give --precision fp16 or int8, and not fp32")


def _output(args: argparse.Namespace, root: Path, chosen: AnyRecipe | None) -> Path:
    if chosen is None:
        return Path(args.output if args.library == ONNX else args.bundle)
    return args.output or root / "engines" / chosen.name


def _ranges(
    args: argparse.Namespace, root: Path, name: str, bundle: Bundle | None, steps: Sequence[int]
) -> Ranges | None:
    if "int8" not in args.precision:
        return None
    path = args.ranges or root / "calibration/ranges" / f"{name}.json"
    if not path.exists():
        raise ExportError(
            f"{path}: no activation ranges of bundle {name!r}, which int8 needs. Measure them with "
            f"`python calibration/collect_ranges.py --bundle FOLDER --photos PHOTOS --output {path}`."
        )
    found = ranges.load(path)
    if bundle is not None:
        for graph_id in selection.decoding_graphs(bundle, steps):
            found.graph(graph_id)
    return found


def _of(chosen: AnyRecipe | None) -> AnyRecipe:
    assert chosen is not None  # where there is no bundle, there is a recipe
    return chosen
