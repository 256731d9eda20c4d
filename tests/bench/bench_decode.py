"""Decode time of the runtime against the same weights in PyTorch eager, stage by stage, in one run.

    python tests/bench/bench_decode.py [--backend cpu,openvino,openvino:fp32] [--size 768x512] [--runs 7] [--threads 2]
    python tests/bench/bench_decode.py --backend cpu,cpu:int8,openvino,openvino:int8

Also prints entropy decoding on its own (ms and symbols/s), the PSNR of each further backend against the first, the
whole process from start to written image, and its peak memory. The photo is a test photo resized to the asked size.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import rdeic_rt
from rdeic_eval.psnr import psnr_db
from rdeic_export.fold import graphs
from rdeic_export.modules import samplers
from rdeic_export.weights import recipe as recipes
from rdeic_rt import container
from rdeic_rt.codec import Codec

ROOT = Path(__file__).parents[2]
# The process says itself what it took: rusage of a child counts the memory of the parent it was forked from.
PROCESS = """
import sys
from rdeic_rt.cli.main import main
from rdeic_rt.cli.measure import peak_rss_bytes
status = main(sys.argv[1:])
print(peak_rss_bytes() / 1e6)
sys.exit(status)
"""


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--recipe", type=Path, default=ROOT / "training/weights/tiny-2/recipe.toml", help="the bundle's weights"
    )
    p.add_argument("--bundle", default="tiny-2", help="the bundle made of them")
    p.add_argument(
        "--backend",
        default="cpu",
        help="backends with commas, each with an optional :PRECISION; the first is 'the' runtime",
    )
    p.add_argument("--size", default="768x512", help="width x height of the photo")
    p.add_argument("--runs", type=int, default=7, help="counted runs of each side, after one warm-up")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both sides")
    args = p.parse_args()
    width, height = map(int, args.size.split("x"))
    photo = np.asarray(Image.open(ROOT / "tests/data/photos/coffee.jpg").convert("RGB").resize((width, height)))
    torch.set_num_threads(args.threads)
    codecs = {}
    for side in args.backend.split(","):
        name, _, precision = side.partition(":")
        codecs[side] = rdeic_rt.load(args.bundle, backend=name, precision=precision or "auto", threads=args.threads)
    names = ("rdeic-rt", "onnxruntime", "torch", "numpy", "constriction")
    print(", ".join(f"{name} {version(name)}" for name in names))
    for side, codec in codecs.items():
        print(
            f"{side}: {codec.backend}, " + ", ".join(f"{name} {value}" for name, value in codec.description().items())
        )
    print(f"{platform.machine()}, {args.threads} threads, {args.size}, median of {args.runs} (min-max)\n")
    chosen = recipes.load(args.recipe)
    for index, rate in enumerate(chosen.rates):
        first = next(iter(codecs))
        data = codecs[first].encode(photo, rate=index)
        print(f"rate {index} ({rate.label}), L = {rate.n_steps}, {len(data)} bytes")
        eager = eager_decode(chosen, rate, codecs[first], data)
        times = alternate([*(partial(codec.decode, data) for codec in codecs.values()), eager], args.runs)
        for side, seconds in zip([*codecs, "PyTorch eager"], times, strict=True):
            report(f"{side}, warm decode", seconds)
        entropy = report_entropy(codecs[first], data, args.runs)
        eager_s = statistics.median(times[-1])
        for side, seconds in zip(codecs, times[:-1], strict=True):
            ours_s = statistics.median(seconds)
            after = (eager_s - entropy) / (ours_s - entropy)
            print(f"  ratio eager / {side:13s} {eager_s / ours_s:.2f}, after entropy decoding {after:.2f}")
        reference = codecs[first].decode(data)
        for side, codec in list(codecs.items())[1:]:
            print(f"  PSNR {side} against {first}: {psnr_db(codec.decode(data), reference):.1f} dB")
        for side in codecs:
            report_process(data, args.bundle, side, args.runs)


def eager_decode(
    chosen: recipes.Recipe, rate: recipes.RateRecipe, codec: Codec, data: bytes
) -> Callable[[], np.ndarray]:
    """Return the whole decode with the same weights in PyTorch; entropy decoding is the runtime's on both sides."""
    model = recipes.build_model(chosen, rate)
    table = samplers.ddpm(chosen.config.diffusion, rate.n_steps)
    header = container.parse(data).header
    height, width = header.size.height, header.size.width
    level = None
    if codec.bundle.levels is not None:
        rows = graphs.level_tables(model, codec.bundle.levels.count)["synthesis"]
        level = torch.from_numpy(rows[header.rate])[None]

    @torch.inference_mode()
    def decode() -> np.ndarray:
        y_hat = torch.from_numpy(codec.read_latents(data).tensors["y_hat"])
        z_c, hint = model.codec.synthesise(y_hat, level)
        z_n = table.abar_start**0.5 * z_c + (1 - table.abar_start) ** 0.5 * torch.randn_like(z_c)
        image = model.vae.decode(model.denoise(z_n, hint, table))
        pixels = ((image + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        return pixels[0].permute(1, 2, 0)[:height, :width].contiguous().numpy()

    return decode


def report_entropy(codec: Codec, data: bytes, runs: int) -> float:
    """Print entropy decoding alone, in ms and in symbols of y per second; return its seconds."""
    y_hat = codec.read_latents(data).tensors["y_hat"]
    seconds = [timed(lambda: codec.read_latents(data)) for _ in range(runs)]
    report("entropy decode", seconds)
    print(f"  symbols                     {y_hat.size} ({y_hat.size / statistics.median(seconds) / 1e6:.2f} M/s)")
    return statistics.median(seconds)


def report_process(data: bytes, bundle: str, side: str, runs: int) -> None:
    """Print wall time and peak memory of ``rdeic-rt decode`` as a whole process."""
    name, _, precision = side.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photo.rdc"
        source.write_bytes(data)
        command = [sys.executable, "-c", PROCESS, "decode", "-q", str(source), "-o", str(Path(folder) / "photo.png")]
        command += ["--bundle", bundle, "--backend", name, "--precision", precision or "auto"]
        subprocess.run(command, check=True, capture_output=True)
        seconds, peaks = [], []
        for _ in range(runs):
            start = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds.append(time.perf_counter() - start)
            peaks.append(float(done.stdout))
    report(f"{side}, whole process", seconds)
    print(f"  peak memory                 {statistics.median(peaks):.0f} MB")


def alternate(functions: Sequence[Callable[[], object]], runs: int) -> list[list[float]]:
    """Time them in turn, after one warm-up of each, so that a drift of the machine's speed meets all."""
    for function in functions:
        function()
    rounds = [[timed(function) for function in functions] for _ in range(runs)]
    return [list(seconds) for seconds in zip(*rounds, strict=True)]


def timed(function: Callable[[], object]) -> float:
    """Return the seconds one call takes, once the other side's idle threads have stopped spinning."""
    time.sleep(0.1)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(what: str, seconds: list[float]) -> None:
    """Print one line of the table, in ms."""
    ms = [1000 * s for s in seconds]
    print(f"  {what:27s} {statistics.median(ms):7.1f} ms ({min(ms):.1f}-{max(ms):.1f})")


if __name__ == "__main__":
    main()
