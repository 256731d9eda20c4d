"""Measure the 8-bit forms of a bundle: how near their images are to float32, and how long their graphs take.

    python tests/bench/bench_int8.py /data/val                                      # fidelity of both forms, and times
    python tests/bench/bench_int8.py /data/val --every 5 --methods max percentile mse entropy balanced

Fidelity is the PSNR between images decoded from the same files in float32 and in 8 bits, on ONNX Runtime: the form for
TensorRT and OpenVINO is run there too, slowly, with its Q and DQ computed one by one. Times are medians of runs that
alternate between float32 and 8 bits, so that whatever else the machine does slows both.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

import rdeic_rt
from rdeic_export.calibration import probe
from rdeic_export.forms import quantize, ranges
from rdeic_export.photos import photos_in
from rdeic_export.verify import fidelity
from rdeic_rt.backends.cpu.ort import OrtBackend
from rdeic_rt.backends.select import Selection
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.codec import Codec
from rdeic_rt.limits import DEFAULT_LIMITS
from rdeic_rt.manifest import GraphSpec

ROOT = Path(__file__).resolve().parents[2]


class ReplacedGraphs(OrtBackend):
    """The ``cpu`` backend with other files for some graphs."""

    def __init__(self, threads: int, files: Mapping[str, Path]) -> None:
        super().__init__(threads)
        self.files = files

    def load(self, spec: GraphSpec) -> Any:
        if spec.id in self.files:
            spec = dataclasses.replace(spec, file=OwnFile(self.files[spec.id]))
        return super().load(spec)


def codec_with(bundle: Path, files: Mapping[str, Path], threads: int) -> Codec:
    found = rdeic_rt.load(bundle, backend="cpu", precision="fp32").bundle
    backend = ReplacedGraphs(threads, files)
    selection = Selection(backend, backend, {})
    return Codec(found, selection, precision="fp32", threads=threads, limits=DEFAULT_LIMITS)


def quantised(args: argparse.Namespace, folder: Path, form: str, method: str) -> dict[str, Path]:
    measured = ranges.load(args.ranges)
    files = {}
    for name, view in probe.decoding_graphs(args.bundle).items():
        files[name] = folder / f"{name}.{form}.{method}.onnx"
        quantize.run(view.path, files[name], measured.graph(name), form=form, method=method)
    return files


def print_fidelity(args: argparse.Namespace, folder: Path, photos: list[Path], methods: list[str]) -> None:
    print(f"PSNR against float32 in dB, mean / least, on {len(photos)} photos")
    print("| form | method | " + " | ".join(f"rate {rate}" for rate in args.rates) + " |")
    print("|---|---|" + "---|" * len(args.rates))
    reference = codec_with(args.bundle, {}, args.threads)
    files = fidelity.encode(reference, photos, args.rates)
    expected = fidelity.decode(reference, files)
    for form in ranges.FORMS:
        for method in methods:
            candidate = codec_with(args.bundle, quantised(args, folder, form, method), args.threads)
            report = fidelity.compare(form, files, expected, fidelity.decode(candidate, files), 0.0)
            cells = [f"{rate.mean_db:.1f} / {rate.least_db:.1f}" for rate in report.rates.values()]
            print(f"| {form} | {method} | {' | '.join(cells)} |", flush=True)


def print_times(args: argparse.Namespace, folder: Path, photo: Path) -> None:
    size = (768, 512)
    image = np.asarray(Image.open(photo).convert("RGB").resize(size, Image.Resampling.LANCZOS))
    Image.fromarray(image).save(folder / "photo.png")
    runs = probe.record_inputs(args.bundle, [folder / "photo.png"], threads=args.threads)
    files = quantised(args, folder, "unsigned-cpu", quantize.DEFAULT_METHOD)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = args.threads, False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    print(f"milliseconds of one run at {size[0]}x{size[1]}, median (least) of {args.repeats}, {args.threads} threads")
    print("| graph | float32 | int8-cpu | ratio |")
    print("|---|---|---|---|")
    for name, view in probe.decoding_graphs(args.bundle).items():
        sessions = [
            ort.InferenceSession(p, options, providers=["CPUExecutionProvider"]) for p in (view.path, files[name])
        ]
        print_row(name, [timed(sessions, runs[name][0]) for _ in range(args.repeats + 1)][1:])
    codecs = [codec_with(args.bundle, chosen, args.threads) for chosen in ({}, files)]
    for rate in codecs[0].bundle.rates:
        latents = codecs[0].read_latents(codecs[0].encode(image, rate.index))
        times = []
        for _ in range(args.repeats + 1):
            times.append([clocked(partial(codec.decode, latents)) for codec in codecs])
        print_row(f"all after entropy decoding, rate {rate.index}", times[1:])


def timed(sessions: list[ort.InferenceSession], feeds: probe.Values) -> list[float]:
    return [clocked(partial(session.run, None, feeds)) for session in sessions]


def clocked(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - started)


def print_row(name: str, times: list[list[float]]) -> None:
    plain, small = (np.array(column) for column in zip(*times, strict=True))
    cells = [f"{np.median(x):.1f} ({x.min():.1f})" for x in (plain, small)]
    print(
        f"| {name} | {cells[0]} | {cells[1]} | {np.median(plain / small):.2f} ({plain.min() / small.min():.2f}) |",
        flush=True,
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("photos", type=Path, nargs="*", help="photos or folders for the fidelity; none to leave it out")
    p.add_argument("--bundle", type=Path, default=ROOT / "engines/tiny-2", help="folder (default: engines/tiny-2)")
    p.add_argument("--ranges", type=Path, default=ROOT / "calibration/ranges/tiny-2.json")
    p.add_argument("--methods", nargs="*", default=[quantize.DEFAULT_METHOD], choices=ranges.METHODS)
    p.add_argument("--every", type=int, default=1, help="take every n-th photo (default: 1)")
    p.add_argument("--repeats", type=int, default=11, help="runs that times are medians of; 0 to leave times out")
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    args.rates = [rate.index for rate in rdeic_rt.load(args.bundle, backend="cpu").bundle.rates]
    photos = [path for source in args.photos for path in photos_in(source)][:: args.every]
    print(f"ONNX Runtime {ort.__version__}, bundle {args.bundle.name}, ranges {args.ranges.name}")
    with tempfile.TemporaryDirectory() as folder:
        if photos:
            print_fidelity(args, Path(folder), photos, args.methods)
        if args.repeats:
            print_times(args, Path(folder), ROOT / "tests/data/photos/coffee.jpg")


if __name__ == "__main__":
    main()
