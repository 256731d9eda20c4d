"""`rdeic-rt encode`: images to .rdc files."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from . import inputs, options, outputs
from .console import Console
from .loop import Done, Tell, run_jobs

if TYPE_CHECKING:
    from ..codec import Codec
    from ..limits import Limits

SUFFIX = ".rdc"


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb and its options."""
    parser = options.add_verb(
        commands,
        "encode",
        arguments="IN...",
        summary="compress images to .rdc files",
        description="""\
Compress images (JPEG, PNG, WebP, TIFF and what else Pillow reads) to .rdc files.

The EXIF orientation is applied. Grey, transparent, 16-bit, HDR and CMYK images
become 8-bit RGB, with a warning. An sRGB profile and the EXIF thumbnail are left
out; -v tells what is kept. The same image, bundle and options give the same bytes.""",
        epilog="""\
examples:
  rdeic-rt encode photo.jpg                  makes photo.rdc
  rdeic-rt encode *.jpg -o small/ --rate 0   makes small/NAME.rdc of each
  rdeic-rt encode photos -o small -r -j 2    of all in photos and below, 2 at a time
  rdeic-rt encode photo.jpg --target-size 4k the best that fits in 4096 bytes
  rdeic-rt encode - < photo.jpg > photo.rdc  reads and writes streams""",
    )
    options.add_inputs(parser, "IN", "images, folders of images, or '-' for standard input", "images")
    options.add_output(parser, f"NAME{SUFFIX} beside each input")
    model = options.add_model(parser)
    options.add_rate_or_target(model)
    options.add_effort(model)
    options.add_jobs(options.add_device(parser))
    options.add_limits(parser, memory=True, time=True)
    options.add_messages(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace, console: Console) -> int:
    """Encode every input; return the exit code."""
    from .. import bundle as bundles
    from ..limits import Size

    found = inputs.find(args.inputs, inputs.IMAGE_SUFFIXES, recursive=args.recursive)
    jobs = outputs.plan(found, args.output, SUFFIX)
    at_a_time = options.share_cores(args, len(jobs))
    limits = options.limits_from(args)
    codec = options.codec_from(args, limits)
    bundles.check_encodes(codec.bundle)
    try:
        codec.bundle.choose_rate(args.rate)
        if args.fixed_size:
            codec.fixed_size_bytes(Size(1, 1), args.rate)
    except ValueError as error:
        raise outputs.UsageError(str(error)) from None
    outputs.make_folders(jobs, args.output)

    def encode(job: outputs.Job, tell: Tell) -> Done:
        return encode_one(job, codec, args, limits, console)

    return run_jobs(jobs, encode, console, at_a_time)


def encode_one(job: outputs.Job, codec: Codec, args: argparse.Namespace, limits: Limits, console: Console) -> Done:
    """Encode one input and return how it went."""
    from .. import container, files, pixels

    began = time.perf_counter()
    outputs.check(job, args.overwrite)
    with console.without_native_messages():
        image, metadata = pixels.read_image(job.source, limits)
    if args.strip:
        image, metadata = pixels.stripped(image, metadata)
    data = codec.encode(
        image,
        args.rate,
        target_bytes=args.target_size,
        target_bpp=args.target_bpp,
        fixed_size=args.fixed_size,
        effort=args.effort,
        metadata=metadata,
    )
    files.atomic_write(job.target, data, overwrite=outputs.may_replace(job, args.overwrite))
    height, width = image.shape[:2]
    header = container.parse(data).header
    rate = codec.bundle.rate_of(header.model_id, header.rate)
    line = (
        f"{job.source} -> {job.target}: {width}x{height}, {len(data)} bytes, "
        f"{8 * len(data) / (height * width):.4f} bpp, rate {rate.label}, {time.perf_counter() - began:.2f} s"
    )
    return Done(line, len(data), height * width)
