"""The groups of options that verbs share, so that a flag means the same everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import cpu

if TYPE_CHECKING:
    from pathlib import Path

    from ..codec import Codec
    from ..limits import Limits

Commands = argparse._SubParsersAction  # what a verb adds itself to; argparse has no public name for it

# As in backends.select, which is not imported here so that --help stays quick.
BACKENDS = ("auto", "tensorrt", "cuda", "openvino", "cpu")
PRECISIONS = ("auto", "fp32", "fp16", "int8")
MAX_EFFORT = 4  # as in closed_loop
MAX_JOBS = 64  # as many as `pipeline` takes workers
_UNIT_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def add_verb(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    *,
    arguments: str,
    summary: str,
    description: str,
    epilog: str,
    under: str = "",
) -> argparse.ArgumentParser:
    """Return the parser of a new verb; description and epilog are printed as they are. ``under``: a verb before it."""
    whole_name = f"rdeic-rt {under} {name}" if under else f"rdeic-rt {name}"
    return commands.add_parser(
        name,
        help=summary,
        prog=whole_name,
        usage=f"{whole_name} [options] {arguments}".rstrip(),
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_inputs(parser: argparse.ArgumentParser, metavar: str, help_text: str, taken: str) -> argparse._ArgumentGroup:
    """Add the positional inputs, of which `main` sees to it that there is one; ``taken``: what is, of folders."""
    group = parser.add_argument_group("input")
    group.add_argument("inputs", metavar=metavar, nargs="*", help=help_text)
    group.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        help=f"take the {taken} in the subfolders of folders too, but for hidden ones and links. Default: only those "
        "in the folders themselves",
    )
    return group


def add_output(parser: argparse.ArgumentParser, default_names: str) -> argparse._ArgumentGroup:
    """Add where results go and what of the image's metadata goes with them; return the group."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="a file; a folder (an existing one, a name that ends in '/', or any name for several inputs or a folder, "
        f"whose subfolders are kept); or '-' for standard output. Default: {default_names}",
    )
    replace = group.add_mutually_exclusive_group()
    replace.add_argument(
        "--overwrite",
        action="store_true",
        default=None,
        help="replace files, each in one step, once the new one is complete. Default: only one that -o names",
    )
    replace.add_argument(
        "--no-overwrite", dest="overwrite", action="store_false", help="refuse to replace even a file that -o names"
    )
    group.add_argument(
        "--strip",
        action="store_true",
        help="leave out ICC profile, by which the image is converted to sRGB, and EXIF data. Default: keep them",
    )
    return group


def add_model(parser: argparse.ArgumentParser, default: str = "'tiny-2', the embedded one") -> argparse._ArgumentGroup:
    """Add which model to use; return the group, for what only one verb has. ``default``: what no --bundle means."""
    group = parser.add_argument_group("model")
    group.add_argument("--bundle", metavar="B", help=f"folder or name of a bundle. Default: {default}")
    group.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not check the hashes of the bundle's files: loads faster, and trusts the disk",
    )
    return group


def add_rate(group: argparse._ArgumentGroup) -> None:
    """Add how small files are to be."""
    group.add_argument(
        "--rate",
        metavar="R",
        type=rate,
        help="which of the bundle's rates, by label or number, 0 being the first that 'rdeic-rt info BUNDLE' lists; in "
        "bundles that have rates between, 1.5 is halfway from rate 1 to rate 2. Default: the bundle's",
    )


def add_rate_or_target(group: argparse._ArgumentGroup) -> None:
    """Add how small files are to be, as a rate or as what the file may take."""
    choice = group.add_mutually_exclusive_group()
    add_rate(choice)
    choice.add_argument(
        "--target-bpp",
        metavar="X",
        type=bits_per_pixel,
        help="the best of the bundle's rates, or of those between, with which the whole file takes at most X bits per "
        "pixel; instead of --rate",
    )
    choice.add_argument(
        "--target-size",
        metavar="N[k|M]",
        type=file_bytes,
        help="the same, for at most N bytes, KiB (k) or MiB (M)",
    )
    group.add_argument(
        "--fixed-size",
        action="store_true",
        help="make files whose length follows from rate and image size alone, where the bundle can, even "
        "where they could be shorter; metadata adds to it",
    )


def add_effort(group: argparse._ArgumentGroup) -> None:
    """Add how hard to try."""
    group.add_argument(
        "--effort",
        metavar="N",
        type=whole_number(0, MAX_EFFORT),
        default=0,
        help=f"try N more files of each image, at most {MAX_EFFORT}, and take the one of least error that is no "
        "larger; each takes several times as long as a file. Default: 0",
    )


def add_decoding(group: argparse._ArgumentGroup) -> None:
    """Add what changes the image that a file decodes to."""
    group.add_argument(
        "--sharpness",
        metavar="S",
        type=sharpness,
        default=1.0,
        help="below 1 smoother, above 1 crisper than the model was trained for, 0 to 10; anything but 1 takes up to "
        "twice the time. Default: 1",
    )
    group.add_argument(
        "--steps",
        metavar="L",
        type=whole_number(1, 1000),
        help="denoising steps, one of the numbers the bundle has for the file's rate. Default: the rate's own",
    )
    group.add_argument(
        "--seed",
        metavar="N",
        type=whole_number(0, 2**64 - 1),
        help="of the noise, 0 to 2^64 - 1. Default: the file's checksum",
    )


def add_device(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add where and how the networks run; return the group."""
    group = parser.add_argument_group("device")
    group.add_argument(
        "--backend",
        metavar="NAME",
        choices=BACKENDS,
        default="auto",
        help=f"what runs the networks: {', '.join(BACKENDS)}; 'rdeic-rt doctor' says which can. Default: auto",
    )
    group.add_argument(
        "--precision",
        metavar="P",
        choices=PRECISIONS,
        default="auto",
        help=f"arithmetic of the networks: {', '.join(PRECISIONS)}. Default: auto, what the bundle has",
    )
    group.add_argument(
        "--threads", metavar="N", type=whole_number(1, 1024), help="CPU threads. Default: one for each core"
    )
    group.add_argument(
        "--tile",
        metavar="N",
        type=whole_number(256, 65_536),
        help="work on images of more than N x N pixels in overlapping tiles of at most that many, so that memory "
        "stays bounded; at least 256. Default: 1024",
    )
    group.add_argument(
        "--max-vram",
        metavar="N[M|G]",
        type=memory_bytes,
        help="GPU memory to take at most, in bytes, MiB (M) or GiB (G); larger images are worked on in tiles. "
        "Default: what is free",
    )
    return group


def add_jobs(group: argparse._ArgumentGroup) -> None:
    """Add how many images are worked on at a time."""
    group.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=whole_number(1, MAX_JOBS),
        default=1,
        help="work on N images at a time, in as many times the memory; unless --threads says otherwise, each has its "
        "share of the cores. Default: 1",
    )


def share_cores(args: argparse.Namespace, n_inputs: int) -> int:
    """Return how many inputs are worked on at a time, having given each its share of the cores."""
    at_a_time: int = min(args.jobs, n_inputs)
    if at_a_time > 1 and args.threads is None:
        args.threads = max(cpu.n_cores() // at_a_time, 1)
    return at_a_time


def add_limits(parser: argparse.ArgumentParser, *, memory: bool = False, time: bool = False) -> None:
    """Add the ceilings on untrusted input, and those on memory and time."""
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-pixels",
        metavar="N",
        type=whole_number(1, 2**40),
        help="refuse images with more than N pixels (width times height). Default: see docs/format.md",
    )
    if memory:
        group.add_argument(
            "--max-memory",
            metavar="N[M|G]",
            type=memory_bytes,
            help="refuse files whose decoding or encoding would hold more than N bytes, MiB (M) or GiB (G), counted "
            "before a model is run; models, and the work on a tile, come to that. Default: 4G",
        )
    if time:
        group.add_argument(
            "--max-seconds",
            metavar="S",
            type=seconds,
            help="give up on a file that takes longer than S seconds. Default: no limit",
        )


def add_messages(parser: argparse.ArgumentParser) -> None:
    """Add what is said on standard error."""
    group = parser.add_argument_group("messages, on standard error")
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: everything")
    group.add_argument("--debug", action="store_true", help="show the traceback of every error")


def limits_from(args: argparse.Namespace) -> Limits:
    """Return the default limits with what the command line changes."""
    from dataclasses import replace

    from ..limits import DEFAULT_LIMITS

    given = {
        "max_pixels": args.max_pixels,
        "max_memory_bytes": getattr(args, "max_memory", None),
        "max_seconds": getattr(args, "max_seconds", None),
    }
    return replace(DEFAULT_LIMITS, **{name: value for name, value in given.items() if value is not None})


def codec_from(
    args: argparse.Namespace, limits: Limits, *, bundle: str | Path | None = None, capture: bool = True
) -> Codec:
    """Return the codec that the model and device options describe.

    Args:
        args: with those options.
        limits: of the codec.
        bundle: a bundle's folder instead of ``--bundle``.
        capture: as for `rdeic_rt.load`.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        BackendError: the backend cannot run here.
    """
    from ..codec import load
    from ..tiles import DEFAULT_TILE_PX

    return load(
        bundle or args.bundle,
        backend=args.backend,
        precision=args.precision,
        threads=args.threads,
        verify=args.verify,
        limits=limits,
        tile_px=args.tile or DEFAULT_TILE_PX,
        max_vram=args.max_vram,
        capture=capture,
    )


def rate(text: str) -> float | str:
    """Return the value of `--rate`: an index, a fraction between two, or a label."""
    try:
        return whole_number(0, 255)(text)
    except argparse.ArgumentTypeError:
        pass
    try:
        value = _number(text)
    except argparse.ArgumentTypeError:
        return text
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 255")
    return value


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """Return an argparse type for integers from `lowest` to `highest`, decimal or with a 0x prefix."""

    def parse(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{value} is not between {lowest} and {highest}")
        return value

    return parse


def bits_per_pixel(text: str) -> float:
    """Return the value of `--target-bpp`: a number over 0, at most 48."""
    value = _number(text)
    if not 0.0 < value <= 48.0:
        raise argparse.ArgumentTypeError(f"{text} is not over 0 and at most 48")
    return value


def file_bytes(text: str) -> int:
    """Return the value of `--target-size`, like that of `--max-vram`."""
    try:
        return memory_bytes(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes over 0, like 4096 or 4k") from None


def memory_bytes(text: str) -> int:
    """Return the value of `--max-vram`: bytes, or KiB, MiB or GiB with the suffix K, M or G."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNIT_BYTES else (text, "")
    try:
        value = float(number) * _UNIT_BYTES[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, like 500M or 2G") from None
    if not 1 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 byte and 2^63")
    return int(value)


def seconds(text: str) -> float:
    """Return the value of `--max-seconds`: a number over 0, at most a million."""
    value = _number(text)
    if not 0.0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not over 0 and at most 1000000")
    return value


def sharpness(text: str) -> float:
    """Return the value of `--sharpness`: a number from 0 to 10 (the useful ones lie below 2)."""
    value = _number(text)
    if not 0.0 <= value <= 10.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 10")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
