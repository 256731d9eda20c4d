"""`rdeic-rt batch`: folders of images to .rdc files and back, on the cores of this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import failures, options, outputs
from .console import Console
from .decode import check_preview
from .outputs import UsageError

if TYPE_CHECKING:
    from ..fleet import Decoding, Encoding, Model, Pool

FORMATS = ("files", "parquet", "webdataset")  # as fleet.job has them, which needs Ray
IMAGE_FORMATS = ("png", "jpeg", "webp", "tiff", "bmp", "ppm")
_COUNT = re.compile(r"([1-9][0-9]{0,5})(?::([1-9][0-9]{0,5}))?\Z")

_DESCRIPTION = """\
{what}, once each, with Ray Data: on all cores of
this machine, or on a cluster. Folders are looked through to the bottom, and what is
below them keeps its path. Needs the extra 'fleet'.

A file that fails is a row of the report, and does not stop the others. What was cut
off goes on with --resume: finished files are not done again, but those that failed
are, and those of which the output is not what was written."""


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb, and the two that it has."""
    parser = options.add_verb(
        commands,
        "batch",
        arguments="",
        summary="encode or decode folders, on many cores or machines",
        description="Encode or decode whole folders, on the cores of this machine or on a Ray cluster.",
        epilog="'rdeic-rt batch encode --help' and 'rdeic-rt batch decode --help' tell more.",
    )
    parser.usage = "rdeic-rt batch encode|decode [options] IN... -o OUT"
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", dest="direction", required=True)
    encoding = _add_direction(verbs, "encode", "Encode images to .rdc files")
    model = options.add_model(encoding)
    options.add_rate_or_target(model)
    options.add_effort(model)
    _add_rest(encoding, _encoding)
    decoding = _add_direction(verbs, "decode", "Decode .rdc files to images")
    model = options.add_model(decoding, "for each file the installed one that it was made with")
    options.add_decoding(model)
    model.add_argument("--preview", action="store_true", help="a quick look at each: what is in it, without denoising")
    model.add_argument("--allow-partial", action="store_true", help="of files that are cut short, decode what is there")
    model.add_argument(
        "--image-format",
        metavar="F",
        choices=IMAGE_FORMATS,
        default="png",
        help=f"of the images: {', '.join(IMAGE_FORMATS)}. Default: png",
    )
    _add_rest(decoding, _decoding)
    return parser


def directions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of `encode` and `decode`, by name, from that of the verb."""
    return next(dict(action.choices) for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def run(args: argparse.Namespace, console: Console) -> int:
    """Do the job; return the exit code, which is that of `encode` with several inputs."""
    from .. import fleet

    jobs = fleet.on_ray_half("job")
    outputs.check_reports({"--report": args.report}, args.inputs)
    job = jobs.Job(
        options=args.options_of(args),
        inputs=args.inputs,
        output=Path(args.output),
        form=args.format,
        pool=_pool(args),
        address=args.address,
        resume=args.resume,
        stop_at_error=args.on_error == "stop",
        report=None if args.report is None else Path(args.report),
        is_quiet=args.verbose < 2,
    )
    try:
        with console.without_native_messages():
            summary = jobs.run(job)
    except fleet.JobError as error:
        raise UsageError(str(error)) from None
    for path, text in summary.errors:
        console.error(f"{path}: {text}")
    failed = summary.error_types.total()
    if failed > len(summary.errors):
        console.error(f"and {failed - len(summary.errors)} more; all are in the report")
    console.line(f"{summary.n_files} files, {failed} failed, {summary.n_bytes} bytes; report: {summary.report}")
    return failures.worst([_exit_code(name) for name in summary.error_types])


def _exit_code(error_type: str) -> int:
    from ..errors import RdeicError
    from ..fleet import workers

    kind = workers.error_class(error_type)
    if issubclass(kind, RdeicError):
        return kind.exit_code
    if issubclass(kind, OSError):
        return failures.EXIT_OS_ERROR
    return failures.EXIT_USAGE if issubclass(kind, ValueError) else failures.EXIT_BUG


def _add_direction(verbs: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=what[0].lower() + what[1:],
        prog=f"rdeic-rt batch {name}",
        usage=f"rdeic-rt batch {name} [options] IN... -o OUT",
        description=_DESCRIPTION.format(what=what),
        epilog=f"""\
examples:
  rdeic-rt batch {name} photos/ -o out/                     all cores of this machine
  rdeic-rt batch {name} photos/ -o out/ --resume            goes on with what was cut off
  rdeic-rt batch {name} photos/ -o out/ --format parquet    their bytes as rows
  rdeic-rt batch {name} photos/ -o out/ --address auto --workers 8:64 --gpus-per-worker 0.5""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("input")
    group.add_argument(
        "inputs", metavar="IN", nargs="*", help="files, and folders with what is below them, which every machine sees"
    )
    return parser


def _add_rest(parser: argparse.ArgumentParser, options_of: Any) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="folder, new or of the job to resume, that every machine sees",
    )
    output.add_argument(
        "--format",
        metavar="F",
        choices=FORMATS,
        default=FORMATS[0],
        help="what OUT holds: files; or parquet or webdataset, rows or samples with their bytes. Default: files",
    )
    output.add_argument("--strip", action="store_true", help="leave out ICC profile and EXIF data, as 'encode' does")
    output.add_argument("--report", metavar="FILE.parquet", help="a row for each file. Default: OUT/report.parquet")
    output.add_argument(
        "--resume", action="store_true", help="go on with the job that OUT holds; refuses another one's"
    )
    output.add_argument(
        "--on-error",
        metavar="HOW",
        choices=("record", "stop"),
        default="record",
        help="'record' it and go on, or 'stop' with the first file that fails. Default: record",
    )
    fleet = parser.add_argument_group("fleet")
    fleet.add_argument(
        "--address",
        metavar="A",
        default="auto",
        help="'local': the cores of this machine; 'auto': a Ray cluster that runs here, or else local; or a cluster's. "
        "Default: auto",
    )
    fleet.add_argument(
        "--workers", metavar="N|MIN:MAX", type=workers, help="processes that work. Default: as many as fit"
    )
    fleet.add_argument(
        "--cpus-per-worker",
        metavar="X",
        type=share,
        default=1.0,
        help="CPUs of each, and its threads unless --threads says how many. Default: 1",
    )
    fleet.add_argument(
        "--gpus-per-worker",
        metavar="X",
        type=share,
        default=0.0,
        help="GPUs of each; with 0.5 two share one. Default: 0",
    )
    fleet.add_argument(
        "--memory-per-worker",
        metavar="N[M|G]",
        type=options.memory_bytes,
        help="that Ray sets aside for each. Default: none",
    )
    options.add_device(parser)
    options.add_limits(parser, memory=True, time=True)
    options.add_messages(parser)
    parser.set_defaults(run=run, options_of=options_of, leaf=parser)


def _model(args: argparse.Namespace) -> Model:
    from .. import bundle_search
    from ..fleet import Model
    from ..tiles import DEFAULT_TILE_PX

    # A path is one on every machine; a name is looked up on each.
    is_path = args.bundle is not None and (Path(args.bundle) / bundle_search.MANIFEST).is_file()
    return Model(
        bundle=str(Path(args.bundle).absolute()) if is_path else args.bundle,
        backend=args.backend,
        precision=args.precision,
        threads=args.threads,
        verify=args.verify,
        limits=options.limits_from(args),
        tile_px=args.tile or DEFAULT_TILE_PX,
        max_vram=args.max_vram,
    )


def _encoding(args: argparse.Namespace) -> Encoding:
    from .. import bundle as bundles
    from ..fleet import Encoding

    try:
        bundle = bundles.load(args.bundle, verify=False)
        bundles.check_encodes(bundle)
        bundle.choose_rate(args.rate)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Encoding(
        model=_model(args),
        rate=args.rate,
        target_bytes=args.target_size,
        target_bpp=args.target_bpp,
        fixed_size=args.fixed_size,
        effort=args.effort,
        strip=args.strip,
    )


def _decoding(args: argparse.Namespace) -> Decoding:
    from ..decode_options import DecodeOptions
    from ..fleet import Decoding

    check_preview(args)
    chosen = DecodeOptions(
        sharpness=args.sharpness,
        seed=args.seed,
        steps=args.steps,
        preview=args.preview,
        allow_partial=args.allow_partial,
    )
    return Decoding(model=_model(args), options=chosen, image_format=args.image_format, strip=args.strip)


def _pool(args: argparse.Namespace) -> Pool:
    from ..fleet import Pool

    least, most = args.workers or (None, None)
    return Pool(least, most, args.cpus_per_worker, args.gpus_per_worker, args.memory_per_worker)


def workers(text: str) -> tuple[int, int]:
    """Return the value of `--workers`: the least and the most."""
    found = _COUNT.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers, like 8 or 2:16")
    least, most = int(found[1]), int(found[2] or found[1])
    if least > most:
        raise argparse.ArgumentTypeError(f"{text}: the first is to be the lower one")
    return least, most


def share(text: str) -> float:
    """Return the value of `--cpus-per-worker` or `--gpus-per-worker`: a number from 0 to 1024."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0.0 <= value <= 1024.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1024")
    return value
