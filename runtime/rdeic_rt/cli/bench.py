"""`rdeic-rt bench`: how long each stage takes here, and how much memory."""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import RdeicError
from . import chart, options
from .console import Console, write_output
from .doctor import package_versions, system_facts
from .failures import describe, exit_code
from .outputs import UsageError, check_reports

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..codec import Codec
    from ..limits import Limits

_DEFAULT_SIZE = (768, 512)
_MB = 1e6


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb and its options."""
    parser = options.add_verb(
        commands,
        "bench",
        arguments="",
        summary="measure how long encoding and decoding take here",
        description="""\
Encode and decode one image again and again, and show the time of the whole and of
each stage (median, fastest and slowest), how long the first decode takes, and the
most memory that was used.

A backend that records the work on the GPU and replays it has no stages any more:
the whole is measured replayed, and the stages in a second codec that records nothing.""",
        epilog="""\
examples:
  rdeic-rt bench                              a drawn image of 768x512
  rdeic-rt bench --photo me.jpg --runs 20     a photo, in its own size
  rdeic-rt bench --json run.json --plot run.svg
  nsys profile -t cuda,nvtx rdeic-rt bench    see docs/profiling.md""",
    )
    group = parser.add_argument_group("image")
    group.add_argument(
        "--photo", metavar="FILE", help="an image to use, or '-' for standard input. Default: one is drawn"
    )
    group.add_argument(
        "--size",
        metavar="WxH",
        type=image_size,
        help="width and height in pixels; a photo is scaled to it. Default: the photo's own, or 768x512",
    )
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--runs", metavar="N", type=options.whole_number(1, 100_000), default=7, help="counted runs. Default: 7"
    )
    group.add_argument(
        "--nvtx", action="store_true", help="mark every stage and step as an NVTX range, for Nsight Systems"
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", metavar="F", help="also write everything as JSON to a file, or '-' to standard output, then alone"
    )
    group.add_argument("--plot", metavar="F", help="also draw the stages of decoding: a .png, .svg or .pdf file")
    model = options.add_model(parser)
    options.add_rate(model)
    options.add_decoding(model)
    options.add_device(parser)
    options.add_limits(parser)
    options.add_messages(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure, and write the result to standard output; return the exit code."""
    if args.plot is not None:
        chart.check(args.plot)
    if args.nvtx and importlib.util.find_spec("nvtx") is None:
        raise UsageError("--nvtx needs nvtx, which is not installed. Install it with `pip install 'rdeic-rt[nvtx]'`")
    check_reports({"--json": args.json, "--plot": args.plot}, [] if args.photo is None else [args.photo])
    limits = options.limits_from(args)
    try:
        image = _image(args, limits)
    except (RdeicError, OSError) as error:
        console.error(describe(error, args.photo), error)
        return exit_code(error)
    began = time.perf_counter()
    codec = options.codec_from(args, limits)
    load_ms = 1e3 * (time.perf_counter() - began)
    try:
        rate = codec.bundle.choose_rate(args.rate)
        steps = codec.bundle.n_steps(rate, args.steps)
    except ValueError as error:
        raise UsageError(str(error)) from None
    asked = rate.index if args.rate is None else args.rate  # which may lie between two indices
    times = _measure(codec, image, asked, args, limits, console)
    result = {
        "system": system_facts(),
        "versions": package_versions(),
        "model": {
            "bundle": codec.bundle.name,
            "rate": asked,
            "label": rate.label,
            "steps": steps,
            "sharpness": args.sharpness,
        },
        "backend": {"name": codec.backend, "precision": args.precision, **codec.description()},
        "skipped_backends": codec.skipped_backends,
        "runs": args.runs,
        **times,
    }
    result["ms"]["load"] = load_ms
    result["image"] = {"photo": args.photo, "width": image.shape[1], "height": image.shape[0], **result["image"]}
    _write(result, args)
    return 0


def _measure(
    codec: Codec, image: NDArray[np.uint8], rate: float, args: argparse.Namespace, limits: Limits, console: Console
) -> dict[str, Any]:
    """Return times in ms, memory in MB and the size of the file."""
    from ..decode_options import DecodeOptions
    from . import measure

    decoding = DecodeOptions(sharpness=args.sharpness, seed=args.seed, steps=args.steps)
    progress = _Progress(console, 4 * args.runs)
    data = codec.encode(image, rate)
    began = time.perf_counter()
    codec.decode(data, decoding)
    first_ms = 1e3 * (time.perf_counter() - began)
    decode = measure.decode_ms(codec, data, decoding, args.runs, nvtx=args.nvtx, done=progress.step)
    peak_rss, peak_device = measure.peak_rss_bytes(), codec.peak_device_bytes()
    recordings = codec.recordings()
    encode = measure.encode_ms(codec, image, rate, args.runs, progress.step)
    unrecorded = partial(options.codec_from, args, limits, capture=False)
    stages = {
        "decode": measure.decode_stages(
            codec, unrecorded, data, decoding, args.runs, nvtx=args.nvtx, done=progress.step
        ),
        "encode": measure.encode_stages(codec, image, rate, args.runs, nvtx=args.nvtx, done=progress.step),
    }
    console.clear()
    return {
        "image": {"bytes": len(data), "bpp": 8 * len(data) / (image.shape[0] * image.shape[1])},
        "ms": {
            "first_decode": first_ms,
            "decode": asdict(decode),
            "encode": asdict(encode),
            "stages": {verb: asdict(found)["ms"] for verb, found in stages.items()},
        },
        "recorded": stages["decode"].one_by_one,
        "recordings": None if recordings is None else asdict(recordings),
        "memory_mb": {
            "peak_rss": None if peak_rss is None else peak_rss / _MB,
            "peak_device": None if peak_device is None else peak_device / _MB,
        },
    }


def _image(args: argparse.Namespace, limits: Limits) -> NDArray[np.uint8]:
    from .. import pixels
    from ..limits import Size
    from . import measure

    if args.photo is None:
        width, height = args.size or _DEFAULT_SIZE
        size = Size(height=height, width=width)
        limits.check_size(size)
        return measure.drawn_image(size)
    image, _ = pixels.read_image(args.photo, limits)
    if args.size is None:
        return image
    from PIL import Image

    width, height = args.size
    limits.check_size(Size(height=height, width=width))
    return pixels.as_rgb(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


class _Progress:
    """Counts runs for the bar."""

    def __init__(self, console: Console, runs: int) -> None:
        self._console, self._runs, self._done = console, runs, 0

    def step(self) -> None:
        """Count one."""
        self._done += 1
        self._console.progress(self._done, self._runs, "bench")


def _write(result: dict[str, Any], args: argparse.Namespace) -> None:
    from .. import files
    from .measure import Spread

    if args.json is not None:
        files.atomic_write(args.json, (json.dumps(result, indent=2) + "\n").encode())
    if args.json != files.STREAM:
        write_output(_text(result))
    if args.plot is not None:
        ms = result["ms"]
        stages = {name: Spread(**spread) for name, spread in ms["stages"]["decode"].items()}
        chart.write(args.plot, stages, Spread(**ms["decode"]), _title(result))


def _title(result: dict[str, Any]) -> str:
    model, backend, image = result["model"], result["backend"], result["image"]
    facts = ", ".join(f"{name} {value}" for name, value in backend.items() if name not in ("name", "precision"))
    return (
        f"{model['bundle']}, rate {model['rate']}, L = {model['steps']}, {image['width']}x{image['height']}, "
        f"{backend['name']} ({facts})"
    )


def _text(result: dict[str, Any]) -> str:
    system, image, ms, memory = (result[part] for part in ("system", "image", "ms", "memory_mb"))
    lines = [
        f"rdeic-rt {result['versions']['rdeic-rt']}, Python {system['python']}, {system['platform']}, {system['cpu']}, "
        f"{system['cores']} cores",
        _title(result),
        f"{'a drawn image' if image['photo'] is None else image['photo']}, {image['bytes']} bytes, "
        f"{image['bpp']:.4f} bpp; sharpness {result['model']['sharpness']:g}",
        "",
        f"{'ms, ' + str(result['runs']) + ' runs':26s} {'median':>9s} {'min':>9s} {'max':>9s}",
    ]
    for verb in ("decode", "encode"):
        lines.append(_row(verb + (", replayed" if verb == "decode" and result["recorded"] else ""), ms[verb]))
        lines += [
            _row("  " * (1 + name.count(".")) + name.rpartition(".")[2], spread)
            for name, spread in ms["stages"][verb].items()
        ]
    lines += ["", f"cold: load {ms['load']:.1f} ms, first decode {ms['first_decode']:.1f} ms"]
    if result["recordings"] is not None:
        found = result["recordings"]
        lines.append("; ".join([f"recorded as CUDA graphs: {found['kept']}", *map(_given_up, found["given_up"])]))
    if memory["peak_rss"] is not None:
        lines.append(f"peak memory of the process: {memory['peak_rss']:.0f} MB")
    if memory["peak_device"] is not None:
        lines.append(f"peak memory of the device: {memory['peak_device']:.0f} MB")
    return "\n".join(lines) + "\n"


def _given_up(why: str) -> str:
    return f"given up: {why}"


def _row(name: str, spread: dict[str, float]) -> str:
    return f"{name:26s} {spread['median']:9.1f} {spread['min']:9.1f} {spread['max']:9.1f}"


def image_size(text: str) -> tuple[int, int]:
    """Return the value of `--size`: width and height."""
    side = options.whole_number(1, 65_535)
    width, cross, height = text.lower().partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, like 768x512")
    return side(width), side(height)
