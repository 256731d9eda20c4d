"""The full-size model, random weights: whole decodes by the backends and by the same modules in PyTorch, in one run.

    python export/build_engines.py --random-weights sd21 --steps 2,5 --library onnx --precision fp32
    python tests/bench/bench_full_size.py                                        # this CPU: cpu, openvino, eager-fp32
    python tests/bench/bench_full_size.py --sides tensorrt,cuda,eager-fp32,eager-fp16,compile-fp16     # a GPU

Each side runs in a process of its own, so that memory is its own too. Printed are the medians of the whole decode and
of its stages (for PyTorch: of the same parts), peak memory, the time that the arithmetic alone would take on this
device, and how far each side's picture is from the last one's.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flops
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import rdeic_rt
from rdeic_eval.psnr import psnr_db
from rdeic_export.fold import graphs
from rdeic_export.modules import samplers
from rdeic_export.modules.config import SD21
from rdeic_export.modules.model import RdeicModel
from rdeic_export.weights import recipe
from rdeic_rt import container, families, noise, timing

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).parents[2]
STAGES = ("entropy", "synthesis", "denoise", "vae")


def main() -> None:
    """Print the table."""
    args = parse()
    if args.only:
        print(json.dumps(SIDES.get(args.only, backend_side)(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        encode(args)
        flops = in_own_process("flops", args)
        print_header(args, flops)
        print_table({side: in_own_process(side, args) for side in args.sides.split(",")}, flops["decode"], args)


def parse() -> argparse.Namespace:
    """Return the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=ROOT / "engines/sd21-random", help="the random-weight bundle")
    p.add_argument("--sides", default="cpu,openvino,eager-fp32", help="what to measure; ratios are to the last one")
    p.add_argument("--precision", default="auto", help="of the backends: auto, fp32, fp16 or int8")
    p.add_argument("--size", default="768x512", help="width x height")
    p.add_argument("--steps", type=int, default=2, help="denoising steps")
    p.add_argument("--runs", type=int, default=3, help="counted runs of each side, after one warm-up")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of every side")
    p.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--only", help=argparse.SUPPRESS)
    return p.parse_args()


def encode(args: argparse.Namespace) -> None:
    """Write the file that every side decodes."""
    width, height = map(int, args.size.split("x"))
    photo = Image.open(ROOT / "tests/data/photos/coffee.jpg").convert("RGB").resize((width, height))
    codec = rdeic_rt.load(args.bundle, backend="cpu", threads=args.threads)
    rates = [rate.index for rate in codec.bundle.rates if codec.bundle.n_steps(rate) == args.steps]
    (args.folder / "photo.rdc").write_bytes(codec.encode(np.asarray(photo), rate=rates[0]))


def in_own_process(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return what one side measured, or why it could not run."""
    command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(args.folder), "--only", side]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        return {"failed": (process.stderr.strip().splitlines() or ["no reason given"])[-1]}
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def backend_side(args: argparse.Namespace) -> dict[str, Any]:
    """Measure a backend of the runtime."""
    begin = time.perf_counter()
    codec = rdeic_rt.load(
        args.bundle, backend=args.only, precision=args.precision, threads=args.threads, verify=False, capture=True
    )
    data = (args.folder / "photo.rdc").read_bytes()
    image = codec.decode(data)
    result = {"first_s": time.perf_counter() - begin, "image": save(args, image), "device": str(codec.facts())}
    result["decode_s"] = [seconds(lambda: codec.decode(data)) for _ in range(args.runs)]
    staged = (
        rdeic_rt.load(
            args.bundle, backend=args.only, precision=args.precision, threads=args.threads, verify=False, capture=False
        )
        if codec.peak_device_bytes() is not None
        else codec
    )
    stages = []
    for _ in range(args.runs):
        with timing.collect() as times:
            staged.decode(data)
        stages.append(times.total_ms())
    result["stages_s"] = {stage: statistics.median(s[stage] for s in stages) / 1000 for stage in STAGES}
    return result | {"peak_bytes": peak_bytes(), "device_bytes": codec.peak_device_bytes()}


def torch_side(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the same modules in PyTorch, on the GPU if there is one; entropy decoding is the runtime's here too."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    how, _, precision = args.only.partition("-")
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    torch.set_num_threads(args.threads)
    begin = time.perf_counter()
    chosen = recipe.random("sd21", (args.steps,), half_weights=True)  # as the bundle stores them
    model = recipe.build_model(chosen, chosen.rates[0]).to(device, dtype)
    table = samplers.ddpm(chosen.config.diffusion, args.steps)
    codec = rdeic_rt.load(args.bundle, backend="cpu", verify=False)
    file = container.parse((args.folder / "photo.rdc").read_bytes())
    height, width = file.header.size.height, file.header.size.width
    decode_vae: Callable[[Tensor], Tensor] = model.vae.decode
    if how == "compile":
        for network in (model.unet, model.control):
            network.compile()
        decode_vae = torch.compile(decode_vae)
    stages: defaultdict[str, list[float]] = defaultdict(list)

    def timed(stage: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = function()
        if device == "cuda":
            torch.cuda.synchronize()
        stages[stage].append(time.perf_counter() - start)
        return result

    @torch.inference_mode()
    def decode() -> NDArray[np.uint8]:
        latents = timed("entropy", lambda: codec.read_latents((args.folder / "photo.rdc").read_bytes()))
        y_hat = torch.from_numpy(latents.tensors["y_hat"]).to(device, dtype)
        z_c, hint = timed("synthesis", lambda: model.codec.synthesise(y_hat))
        draws = [
            torch.from_numpy(noise.gaussian(tuple(z_c.shape), latents.crc, k)).to(z_c) for k in range(table.n_steps + 1)
        ]
        start = table.abar_start**0.5 * z_c + (1 - table.abar_start) ** 0.5 * draws[0]
        z_0 = timed("denoise", lambda: model.denoise(start, hint, table, draws[1:]))
        image = timed("vae", lambda: decode_vae(z_0))
        pixels = ((image.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        array: NDArray[np.uint8] = pixels[0].permute(1, 2, 0)[:height, :width].contiguous().cpu().numpy()
        return array

    image = decode()
    result = {"first_s": time.perf_counter() - begin, "image": save(args, image), "device": device}
    stages.clear()
    result["decode_s"] = [seconds(decode) for _ in range(args.runs)]
    result["stages_s"] = {stage: statistics.median(values) for stage, values in stages.items()}
    device_bytes = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return result | {"peak_bytes": peak_bytes(), "device_bytes": device_bytes}


def count_flops(args: argparse.Namespace) -> dict[str, Any]:
    """Return the operations of each graph and of a decode, and how many a second one large product does here."""
    import torch

    width, height = (-(-int(side) // 64) for side in args.size.split("x"))
    with torch.device("meta"):
        model = RdeicModel(SD21)
        folded = graphs.rate_graphs(model) | graphs.shared_graphs(model)
    sizes = {"batch": 1, "hz": height, "wz": width}
    family = families.family("rdeic")
    decoding = [role for role in family.roles if role not in family.encoding]
    counted = {role: flops.count(folded[role].module, folded[role].signature, sizes) for role in decoding}
    total = counted["synthesis"] + args.steps * (counted["control"] + counted["unet_step"]) + counted["vae_decoder"]
    device, dtype, side = ("cuda", torch.float16, 8192) if torch.cuda.is_available() else ("cpu", torch.float32, 4096)
    torch.set_num_threads(args.threads)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        (a @ b)[0, 0].item()  # waits

    product()
    ceiling = 2 * side**3 / min(seconds(product) for _ in range(5))
    return {"graphs": counted, "decode": total, "ceiling": ceiling, "product": f"{side}^3 in {dtype} on {device}"}


SIDES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "flops": count_flops,
    **{f"{how}-{precision}": torch_side for how in ("eager", "compile") for precision in ("fp32", "fp16", "bf16")},
}


def save(args: argparse.Namespace, image: NDArray[np.uint8]) -> str:
    """Keep a side's picture for the comparison; return the file."""
    path = args.folder / f"{args.only}.npy"
    np.save(path, image)
    return str(path)


def seconds(function: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_bytes() -> int:
    """Return the most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_header(args: argparse.Namespace, flops: dict[str, Any]) -> None:
    """Print what is measured, with versions, and how much arithmetic it is."""
    versions = []
    for name in ("rdeic-rt", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt-rtx", "tensorrt", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    print(", ".join(versions))
    size = (args.folder / "photo.rdc").stat().st_size
    print(f"{platform.machine()}, {args.threads} threads, {args.size}, L = {args.steps}, a file of {size} bytes")
    per_graph = ", ".join(f"{role} {count / 1e12:.3f}" for role, count in flops["graphs"].items())
    floor = flops["decode"] / flops["ceiling"]
    print(f"TFLOP: {per_graph}; one decode {flops['decode'] / 1e12:.2f}")
    print(
        f"Floor: {floor:.3f} s at {flops['ceiling'] / 1e12:.2f} TFLOP/s, measured in a product of {flops['product']}\n"
    )


def print_table(results: dict[str, dict[str, Any]], decode_flops: int, args: argparse.Namespace) -> None:
    """Print a row for each side."""
    last = next((r for r in reversed(results.values()) if "failed" not in r), None)
    print(
        "| side | decode s (min-max) | ratio | first s | "
        + " | ".join(STAGES)
        + " | peak GB | device GB | TFLOP/s | PSNR |"
    )
    print("|" + "---|" * (len(STAGES) + 8))
    for side, result in results.items():
        if last is None or "failed" in result:
            print(f"| {side} | not run: {result['failed']} |")
            continue
        decode = statistics.median(result["decode_s"])
        reference = statistics.median(last["decode_s"])
        psnr = psnr_db(np.load(result["image"]), np.load(last["image"]))
        device = f"{result['device_bytes'] / 1e9:.2f}" if result["device_bytes"] else ""
        cells = [
            side,
            f"{decode:.3f} ({min(result['decode_s']):.3f}-{max(result['decode_s']):.3f})",
            f"{reference / decode:.2f}",
            f"{result['first_s']:.1f}",
            *(f"{result['stages_s'][stage]:.3f}" for stage in STAGES),
            f"{result['peak_bytes'] / 1e9:.2f}",
            device,
            f"{decode_flops / decode / 1e12:.3f}",
            f"{psnr:.1f}",
        ]
        print("| " + " | ".join(cells) + " |")
    print("\nratio and PSNR (dB) are to the last side; first: load and first decode; peak: host memory of the process")


if __name__ == "__main__":
    main()
