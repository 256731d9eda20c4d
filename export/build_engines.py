"""Weights or a bundle in, verified engines out.

    python export/build_engines.py --steps 2                    TensorRT plans for the embedded bundle, fp16
    python export/build_engines.py --checkpoint rdeic_2_step2.ckpt --sd v2-1_512-ema-pruned.ckpt --steps 2
                                                                a full-size bundle, and its plans
    python export/build_engines.py --random-weights sd21        the same graphs with random weights, for latency
    python export/build_engines.py --diffo ema_model_60000.pth vq_model_60000.pth.tar GT_vq_model_60000.pth.tar
                                                                the same of DiffO, which decodes in one step
    python export/build_engines.py --recipe my/recipe.toml --photos photos/ --library onnx --precision fp32
                                                                a bundle of own weights, without plans

Plans are built with TensorRT where it is installed, else with TensorRT for RTX, which needs no GPU to build. With
--library onnx the graphs of the other precisions go into the bundle instead, for ONNX Runtime and OpenVINO.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rdeic_export import wish
from rdeic_export.bundle import more_forms, preference
from rdeic_export.bundle.build import build as build_bundle
from rdeic_export.forms import derive, selection
from rdeic_export.forms.derive import Derived
from rdeic_export.plans.build import build as build_plans
from rdeic_export.plans.target import PORTABLE
from rdeic_export.verify import gate
from rdeic_export.verify.fidelity import FidelityReport
from rdeic_export.weights import any_recipe
from rdeic_rt.backends.tensorrt.plans import LIBRARIES
from rdeic_rt.cli.failures import exit_code
from rdeic_rt.errors import RdeicError
from rdeic_rt.limits import Size
from rdeic_rt.manifest import Bundle

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "engines/tiny-2"
INTERRUPTED = 130  # exit code, as of the command rdeic-rt
PRECISIONS = tuple(selection.IN_PLANS)
LARGEST_SIDE_PX = 8192  # of an image in one piece

logger = logging.getLogger("build_engines")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the requested bundle or engines, and return the process's exit code."""
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
    """Write the bundle if weights are given; then derive each form once, compare it with float32, and add it.

    Raises:
        RdeicError: a request cannot be met; finished plans are kept, an unfinished bundle is not.
    """
    wanted = wish.of(args, ROOT)
    bundle = wanted.bundle or _built(wanted, args)
    reference = gate.Reference(bundle, wanted.steps, args.photos)
    taken, reports = [], {}
    chosen, one_scale = wanted.chosen(reference.graph_ids), wanted.is_for_rtx
    with derive.derivation(bundle, chosen, wanted.ranges, one_scale=one_scale) as derivation:
        for form in wanted.forms:
            derived = derivation.derive(form)
            if not derived.graphs:
                continue
            if args.verify and form != selection.REFERENCE:
                reports[form] = gate.derived(reference, derived)
            if wanted.keeps(form):
                taken.append(derived)
        if taken or wanted.output.resolve() != bundle.folder:
            _write(reference, taken, reports, wanted, args.drop_fp32)
        if wanted.target is not None:
            for form in wanted.planned:
                derived = derivation.derive(form)
                built = build_plans(bundle, derived, wanted.target, reports.get(form), resume=args.resume)
                if args.verify:
                    gate.plans(reference, form, built)
    logger.info("%s: complete", wanted.output)


def _built(wanted: wish.Wish, args: argparse.Namespace) -> Bundle:
    assert wanted.recipe is not None  # there is one or the other
    return build_bundle(wanted.recipe, args.photos, args.evaluate, wanted.output, resume=args.resume)


def _write(
    reference: gate.Reference,
    taken: Sequence[Derived],
    reports: Mapping[str, FidelityReport],
    wanted: wish.Wish,
    drop_fp32: bool,
) -> None:
    """Write a bundle with the added forms, and with the fastest form for each backend."""
    whole = derive.with_forms(reference.bundle, taken, drop_fp32=drop_fp32)
    # Beside plans they are for the backend cuda, which prefers them anyway.
    preferred = preference.measure(whole, reference.files[0]) if taken and wanted.target is None else {}
    more_forms.write(reference.bundle, wanted.output, taken, preferred=preferred, reports=reports, drop_fp32=drop_fp32)


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    source = p.add_argument_group("source, the embedded bundle unless one is named")
    one = source.add_mutually_exclusive_group()
    one.add_argument("--bundle", metavar="B", type=Path, default=EMBEDDED, help="folder of a finished bundle")
    one.add_argument(
        "--recipe", metavar="R", type=Path, help="TOML file that names weights (rdeic_export/weights/recipe.py)"
    )
    one.add_argument(
        "--checkpoint",
        metavar="C",
        type=Path,
        nargs="+",
        help="released RDEIC checkpoints, one per rate; needs --sd",
    )
    one.add_argument(
        "--diffo",
        metavar=("UNET", "LATENT", "VQGAN"),
        type=Path,
        nargs=3,
        help="the three released DiffO checkpoints: ema_model_N.pth, vq_model_N.pth.tar and GT_vq_model_N.pth.tar",
    )
    one.add_argument(
        "--random-weights",
        metavar="M",
        choices=any_recipe.MODELS,
        help="random weights: sd21 or tiny, diffo or diffo-tiny",
    )
    source.add_argument(
        "--sqrt-eta",
        metavar="X",
        type=float,
        help="with --diffo: level of the initial noise that the model was trained with; checkpoints do not contain it. "
        "Default: 0.8, as released",
    )
    source.add_argument("--sd", metavar="SD", type=Path, help="Stable Diffusion 2.1: checkpoint or diffusers folder")
    source.add_argument("--prompt", metavar="T", default="", help="constant text prompt. Default: empty")
    source.add_argument(
        "--context", metavar="F", type=Path, help="safetensors file with the tensor 'context', instead of --prompt"
    )
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
        help="photos or folders on which a new bundle's rate is measured. Default: those of --photos",
    )
    engines = p.add_argument_group("engines")
    engines.add_argument(
        "--steps",
        metavar="L",
        type=_numbers(1000),
        help="numbers of denoising steps; rates that support none of them are dropped. Default: 2,5, or 1 "
        "if the model has a single step",
    )
    engines.add_argument(
        "--precision",
        metavar="P",
        type=_names(PRECISIONS),
        default=("fp16",),
        help="one or several of fp32, fp16, int8, such as fp16,int8. Default: fp16",
    )
    engines.add_argument(
        "--library",
        choices=("auto", *LIBRARIES, wish.ONNX),
        default="auto",
        help="library to build plans for; 'onnx' adds graphs to the bundle instead. Default: auto, the first installed",
    )
    engines.add_argument(
        "--drop-fp32",
        action="store_true",
        help="with --library onnx: the other forms replace the float32 decoding graphs, for a smaller bundle. No plans "
        "or other forms can be built from it",
    )
    engines.add_argument(
        "--target",
        metavar="SM",
        type=_numbers(999),
        default=(),
        help="compute capabilities, such as 86,89 (TensorRT for RTX). Default: "
        + ",".join(map(str, PORTABLE))
        + ", or the GPU here",
    )
    engines.add_argument(
        "--sizes",
        metavar="WxH",
        type=_size,
        nargs=3,
        default=(Size(64, 64), Size(512, 768), Size(1024, 1024)),
        help="smallest, typical and largest untiled image; larger ones are decoded in tiles. Default: 64x64 "
        "768x512 1024x1024",
    )
    engines.add_argument(
        "--batch",
        metavar="N",
        type=int,
        choices=(1, 2),
        default=2,
        help="2 lets --sharpness run its two predictions as one batch, 1 builds without it. Default: 2",
    )
    engines.add_argument(
        "--workspace", metavar="MB", type=_megabytes, help="limit of scratch memory. Default: the library's"
    )
    engines.add_argument(
        "--graphs",
        metavar="ID,...",
        type=lambda text: tuple(text.split(",")),
        help="with --library onnx: only these graphs get the other forms. Default: all decoding graphs",
    )
    engines.add_argument("--ranges", metavar="F", type=Path, help="activation ranges, for int8")
    result = p.add_argument_group("result")
    result.add_argument("--output", metavar="DIR", type=Path, help="folder of a new bundle. Default: engines/NAME")
    result.add_argument("--resume", action="store_true", help="resume an interrupted build")
    result.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare whole decodes with float32 before building a precision (each graph is compared with PyTorch in "
        "any case). Default: --verify",
    )
    return p


def _size(text: str) -> Size:
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels") from None
    if not 1 <= min(width, height) <= max(width, height) <= LARGEST_SIDE_PX:
        raise argparse.ArgumentTypeError(f"{text!r}: a side must be from 1 to {LARGEST_SIDE_PX} pixels")
    return Size(height, width)


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
