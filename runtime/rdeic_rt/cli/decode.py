"""`rdeic-rt decode`: .rdc files to images."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import stopping
from ..files import STREAM
from ..progress import Progress
from . import inputs, options, outputs
from .console import Console
from .loop import Done, Tell, run_jobs

if TYPE_CHECKING:
    from pathlib import Path

    from ..codec import Codec
    from ..errors import RdeicError
    from ..limits import Limits, Size

SUFFIX = ".png"


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb and its options."""
    parser = options.add_verb(
        commands,
        "decode",
        arguments="IN...",
        summary="turn .rdc files back into images",
        description="""\
Turn .rdc files back into images, each with the installed bundle that it was made
with; 'rdeic-rt doctor' lists those there are.

Decoding is reproducible: the noise that the decoder starts from follows from the
file, unless --seed says otherwise.""",
        epilog="""\
examples:
  rdeic-rt decode photo.rdc                  makes photo.png
  rdeic-rt decode photo.rdc -o photo.jpg     the suffix chooses the format
  rdeic-rt decode *.rdc -o out/              makes out/NAME.png of each
  rdeic-rt decode small -o out -r -j 2       of all in small and below, 2 at a time
  rdeic-rt decode photo.rdc --preview        a quick look, without denoising
  rdeic-rt decode photo.rdc --preview --max-side 256   a thumbnail
  rdeic-rt decode cut.rdc --allow-partial    what there is of a file cut short
  rdeic-rt decode - < photo.rdc > photo.png  reads a stream, writes PNG to one""",
    )
    options.add_inputs(parser, "IN", ".rdc files, folders of them, or '-' for standard input", ".rdc files")
    output = options.add_output(
        parser, f"NAME{SUFFIX} beside each input. The suffix chooses the format; standard output is PNG"
    )
    output.add_argument(
        "--max-side",
        metavar="N",
        type=options.whole_number(1, 65_535),
        help="scale the image down, once it is decoded, so that its longer side has at most N pixels; with --preview a "
        "quick thumbnail. Default: as large as it is",
    )
    model = options.add_model(parser, "for each file the installed one that it was made with")
    options.add_decoding(model)
    model.add_argument(
        "--preview",
        action="store_true",
        help="a quick look: what is in the file, without denoising; loads neither denoiser nor control net",
    )
    model.add_argument(
        "--allow-partial",
        action="store_true",
        help="of a file that is cut short, decode what is there and estimate the rest, with a warning. "
        "Default: refuse it",
    )
    options.add_jobs(options.add_device(parser))
    options.add_limits(parser, memory=True, time=True)
    options.add_messages(parser)
    parser.set_defaults(run=run)
    return parser


def check_preview(args: argparse.Namespace) -> None:
    """Raise UsageError for what means nothing to a preview."""
    if args.preview and (args.steps, args.seed, args.sharpness) != (None, None, 1.0):
        raise outputs.UsageError("--preview does not denoise: leave out --steps, --seed and --sharpness")


def run(args: argparse.Namespace, console: Console) -> int:
    """Decode every input; return the exit code."""
    check_preview(args)
    found = inputs.find(args.inputs, inputs.RDC_SUFFIXES, recursive=args.recursive)
    jobs = outputs.plan(found, args.output, SUFFIX)
    for job in jobs:
        _format_of(job)
    at_a_time = options.share_cores(args, len(jobs))
    limits = options.limits_from(args)
    codec_of = _codecs(args, limits)
    outputs.make_folders(jobs, args.output)

    def decode(job: outputs.Job, tell: Tell) -> Done:
        from .. import files

        outputs.check(job, args.overwrite)
        data = files.read_bytes(job.source, limits.max_file_bytes)
        codec = codec_of(data)
        with stopping.asked_by(Progress(max_seconds=limits.max_seconds).why_stop):
            return decode_one(job, data, codec, args, tell)

    return run_jobs(jobs, decode, console, at_a_time)


def decode_one(job: outputs.Job, data: bytes, codec: Codec, args: argparse.Namespace, tell: Tell) -> Done:
    """Decode one input's file and return how it went."""
    from .. import container, pixels
    from ..decode_options import DecodeOptions

    began = time.perf_counter()
    header = container.parse(data, codec.limits, allow_partial=args.allow_partial).header
    rate = codec.bundle.rate_of(header.model_id, header.rate)
    try:
        codec.bundle.choose_schedule(rate, args.steps)
        codec.bundle.check_sharpness(rate, args.sharpness)
    except ValueError as error:
        raise outputs.UsageError(str(error)) from None
    chosen = DecodeOptions(
        sharpness=args.sharpness,
        seed=args.seed,
        steps=args.steps,
        preview=args.preview,
        allow_partial=args.allow_partial,
        on_progress=_Parts(tell, _n_tiles(header.size, codec, args)),
    )
    decoded = codec.decode_with_metadata(data, chosen)
    image, metadata = decoded.image, decoded.metadata
    if args.strip:
        image, metadata = pixels.stripped(image, metadata)
    if args.max_side is not None:
        image = pixels.scaled_down(image, args.max_side)
    overwrite = outputs.may_replace(job, args.overwrite)
    pixels.write_image(job.target, image, metadata, _format_of(job), overwrite=overwrite)
    height, width = image.shape[:2]
    cut = decoded.cut
    partial = f"{cut.complete_slices} of {cut.n_slices} slices, " if cut else ""
    line = f"{job.source} -> {job.target}: {width}x{height}, {partial}{time.perf_counter() - began:.2f} s"
    return Done(line, len(data), header.size.height * header.size.width)


class _Parts:
    """Passes on what a decode tells of its parts, as the share that is done.

    Of a part that is done in tiles it is told again at each further tile.
    """

    def __init__(self, tell: Tell, n_tiles: int) -> None:
        self._tell, self._n_tiles = tell, n_tiles
        self._last: tuple[str, int] | None = None
        self._tile = 0

    def __call__(self, part: str, done: int, total: int) -> None:
        """As `rdeic_rt.progress.OnProgress`."""
        self._tile = self._tile + 1 if (part, done) == self._last else 0
        self._last = (part, done)
        in_part = min(self._tile / self._n_tiles, 1.0)
        tiles = f", tile {self._tile + 1} of {self._n_tiles}" if self._n_tiles > 1 else ""
        self._tell((done + in_part) / total, "writing" if done == total else part + tiles)


def _n_tiles(size: Size, codec: Codec, args: argparse.Namespace) -> int:
    """Return how many tiles an image has, where memory does not make for smaller ones."""
    from .. import pixels, tiles

    unit_px = codec.bundle.size_multiple_px
    padded = pixels.padded_size(size, unit_px)
    return tiles.tiles_of(padded, args.tile or tiles.DEFAULT_TILE_PX, None, unit_px).count


def _codecs(args: argparse.Namespace, limits: Limits) -> Callable[[bytes], Codec]:
    """Return what gives each file its codec: that of ``--bundle``, or of the installed bundle it was made with.

    A bundle is loaded once, when the first file needs it; ``--bundle`` at once. If it cannot be loaded, that is said of
    each of its files.

    Raises:
        RdeicError: ``--bundle`` cannot be loaded.
    """
    if args.bundle is not None:
        given = options.codec_from(args, limits)
        return lambda _: given
    from .. import bundle as bundles
    from .. import container
    from ..errors import RdeicError
    from ..lazy import Cache

    def load(folder: Path) -> Codec | RdeicError:
        try:
            return options.codec_from(args, limits, bundle=folder)
        except RdeicError as error:
            return error

    folders: Cache[tuple[bytes, int], Path] = Cache(lambda key: bundles.find_for(*key))
    codecs = Cache(load)

    def codec_of(data: bytes) -> Codec:
        header = container.parse(data, limits, allow_partial=True).header
        codec = codecs[folders[header.model_id, header.rate]]
        if isinstance(codec, RdeicError):
            raise codec
        return codec

    return codec_of


def _format_of(job: outputs.Job) -> str:
    """Return the format that the output's suffix says; PNG for a stream, a pipe or a device that has none.

    Raises:
        UsageError: no format has the suffix; the message lists those there are.
    """
    from .. import files, pixels

    try:
        return "png" if job.target == STREAM else pixels.format_from_suffix(job.target)
    except ValueError as error:
        if files.is_stream(job.target):
            return "png"
        raise outputs.UsageError(str(error)) from None
