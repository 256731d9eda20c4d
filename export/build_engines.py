"""Weights or a bundle in, verified engines out.

    python export/build_engines.py --steps 2                    TensorRT plans for the embedded bundle, fp16
    python export/build_engines.py --checkpoint rdeic_2_step2.ckpt --sd v2-1_512-ema-pruned.ckpt --steps 2
                                                                a full-size bundle, and its plans
    python export/build_engines.py --random-weights sd21        the same graphs with random weights, for latency
    python export/build_engines.py --recipe my/recipe.toml --photos photos/ --flavor onnx --precision fp32
                                                                a bundle of own weights, without plans

Plans are built with TensorRT where it is installed, else with TensorRT for RTX, which needs no GPU to build. With
--flavor onnx the other precisions become variants in the bundle instead, for ONNX Runtime and OpenVINO.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rdeic_export import forms, plans, ranges, recipe, verify
from rdeic_export.bundle_build import STEPS, build
from rdeic_export.recipe import Recipe
from rdeic_rt import bundle as bundles
from rdeic_rt.cli.batch import exit_code
from rdeic_rt.errors import ExportError, RdeicError
from rdeic_rt.limits import Size
from rdeic_rt.plans import FLAVORS, Profile

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "engines/tiny"
INTERRUPTED = 130  # exit code, as of the command rdeic-rt
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_SIDE_PX = 8192  # of a picture in one piece

logger = logging.getLogger("build_engines")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line asks for and return the process's exit code."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that these graphs do not need
    logger.setLevel(logging.INFO)
    try:
        run(args)
    except (RdeicError, OSError) as error:
        print(f"build_engines: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("build_engines: interrupted; run it again with --resume to go on from here", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(args: argparse.Namespace) -> None:
    """Write the bundle if weights are given, then its plans or variants, and compare the result with float32.

    Raises:
        ExportError: something asked for cannot be built; finished plans stay, a bundle that was not finished does not.
    """
    flavor, version = ("onnx", "") if args.flavor == "onnx" else plans.installed_flavor(args.flavor)
    chosen, profile = _recipe(args), _profile(args)
    target = () if flavor == "onnx" else plans.capabilities(flavor, args.target)
    if flavor == "onnx" and chosen is None and args.output is None:
        raise ExportError("--flavor onnx adds graphs to a copy of the bundle: name its folder with --output")
    folder: Path = args.bundle
    if chosen is not None:
        folder = args.output or ROOT / "engines" / chosen.name
        build(chosen, args.photos, args.evaluate, folder, resume=args.resume)
    bundle = bundles.load(folder)
    derive = forms.Derive(_ranges(args, bundle.name))
    if flavor == "onnx":
        output = folder if chosen is not None else args.output
        wanted = [form for precision in args.precision for form in forms.FORMS_OF[precision]]
        checked = verify.derived_forms(folder, wanted, args.steps, derive, args.photos) if args.verify else {}
        if wanted or output != folder:
            forms.write_variants(folder, output, wanted, args.steps, derive, checked)
        folder = output
    else:
        options = plans.Options(flavor, version, target, profile, args.workspace)
        names = forms.decoding_graphs(bundle, args.steps)
        for precision in args.precision:
            wanted = forms.FORMS_OF[precision][:1]
            checked = verify.derived_forms(folder, wanted, args.steps, derive, args.photos) if args.verify else {}
            built = plans.build(bundle, names, precision, options, derive, checked, resume=args.resume)
            if args.verify:
                verify.built_plans(folder, precision, built, args.steps, args.photos)
    logger.info("%s: complete", folder)


def _recipe(args: argparse.Namespace) -> Recipe | None:
    """Return what the bundle is to be made of, or None for one that is there already."""
    half_weights = "fp32" not in args.precision
    if args.random_weights:
        return recipe.random(args.random_weights, args.steps, half_weights=half_weights)
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
            args.steps,
            half_weights=half_weights,
            prompt=args.prompt,
            context=args.context,
        )
    return recipe.load(args.recipe) if args.recipe else None


def _ranges(args: argparse.Namespace, name: str) -> ranges.Ranges | None:
    if "int8" not in args.precision:
        return None
    path = args.ranges or ROOT / "calibration/ranges" / f"{name}.json"
    if not path.exists():
        raise ExportError(
            f"{path}: no activation ranges of bundle {name!r}, which int8 needs. Measure them with "
            f"`python calibration/collect_ranges.py --bundle FOLDER --photos PHOTOS --output {path}`."
        )
    return ranges.load(path)


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    source = p.add_argument_group("source, the embedded bundle unless one is named")
    one = source.add_mutually_exclusive_group()
    one.add_argument("--bundle", metavar="B", type=Path, default=EMBEDDED, help="folder of a finished bundle")
    one.add_argument("--recipe", metavar="R", type=Path, help="TOML file that names weights (rdeic_export/recipe.py)")
    one.add_argument(
        "--checkpoint",
        metavar="C",
        type=Path,
        nargs="+",
        help="released RDEIC checkpoints, one a rate; needs --sd",
    )
    one.add_argument("--random-weights", metavar="M", choices=recipe.MODELS, help="random weights: sd21 or tiny")
    source.add_argument("--sd", metavar="SD", type=Path, help="Stable Diffusion 2.1: checkpoint or diffusers folder")
    source.add_argument("--prompt", metavar="T", default="", help="what the constant text says. Default: nothing")
    source.add_argument("--context", metavar="F", type=Path, help="safetensors file with the tensor 'context' instead")
    source.add_argument(
        "--photos",
        metavar="P",
        type=Path,
        nargs="+",
        default=[ROOT / "tests/data/photos"],
        help="photos or folders that calibrate a new bundle and verify the result. Default: the test photos",
    )
    source.add_argument(
        "--evaluate",
        metavar="P",
        type=Path,
        nargs="+",
        default=[],
        help="photos or folders to measure a new bundle's rate on. Default: those of --photos",
    )
    engines = p.add_argument_group("engines")
    engines.add_argument(
        "--steps",
        metavar="L",
        type=_numbers(1000),
        default=STEPS,
        help="numbers of denoising steps: rates that cannot be decoded in one of them are left out. Default: 2,5",
    )
    engines.add_argument(
        "--precision",
        metavar="P",
        type=_names(PRECISIONS),
        default=("fp16",),
        help="one or several of fp32, fp16, int8, such as fp16,int8. Default: fp16",
    )
    engines.add_argument(
        "--flavor",
        choices=("auto", *FLAVORS, "onnx"),
        default="auto",
        help="which library's plans; 'onnx' for variants in the bundle instead. Default: auto, the first installed",
    )
    engines.add_argument(
        "--target",
        metavar="SM",
        type=_numbers(999),
        default=(),
        help="compute capabilities, such as 86,89 (TensorRT for RTX). Default: "
        + ",".join(map(str, plans.PORTABLE))
        + ", or the GPU here",
    )
    engines.add_argument(
        "--sizes",
        metavar="WxH",
        type=_size,
        nargs=3,
        default=(Size(64, 64), Size(512, 768), Size(1024, 1024)),
        help="smallest, typical and largest picture in one piece; larger ones are decoded in tiles. Default: 64x64 "
        "768x512 1024x1024",
    )
    engines.add_argument(
        "--batch",
        metavar="N",
        type=int,
        choices=(1, 2),
        default=2,
        help="2 lets --sharpness run both of its denoisers at once, 1 builds without. Default: 2",
    )
    engines.add_argument(
        "--workspace", metavar="MB", type=_megabytes, help="limit of scratch memory. Default: the library's"
    )
    engines.add_argument("--ranges", metavar="F", type=Path, help="activation ranges, for int8")
    result = p.add_argument_group("result")
    result.add_argument("--output", metavar="DIR", type=Path, help="folder of a new bundle. Default: engines/NAME")
    result.add_argument("--resume", action="store_true", help="go on where an interrupted build stopped")
    result.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare whole decodes with float32 before anything is built of a precision (that every graph agrees with "
        "PyTorch is checked in any case). Default: --verify",
    )
    return p


def _profile(args: argparse.Namespace) -> Profile:
    smallest, typical, largest = args.sizes
    ordered = all(
        low.height <= high.height and low.width <= high.width for low, high in ((smallest, typical), (typical, largest))
    )
    if not ordered:
        raise ExportError("--sizes: each size must be at least as large as the one before, on both sides")
    return Profile(smallest, typical, largest, args.batch)


def _size(text: str) -> Size:
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels") from None
    if not 1 <= min(width, height) <= max(width, height) <= LARGEST_SIDE_PX:
        raise argparse.ArgumentTypeError(f"{text!r}: a side must be from 1 to {LARGEST_SIDE_PX} pixels")
    return Size(height=-(-height // 64) * 64, width=-(-width // 64) * 64)


def _numbers(highest: int) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        if not all(part.isdecimal() and 1 <= int(part) <= highest for part in text.split(",")):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 1 to {highest}, such as 2,5")
        return tuple(sorted({int(part) for part in text.split(",")}))

    return parse


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not among {', '.join(known)}")
        return tuple(name for name in known if name in text.split(","))

    return parse


def _megabytes(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of megabytes")
    return int(text) * 10**6


if __name__ == "__main__":
    sys.exit(main())
