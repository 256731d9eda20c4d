"""Throughput of `decode_many` by the number of its workers, with a simulated GPU.

    python tests/bench/bench_workers.py [--bundle B] [--gpu-ms 12] [--workers 1,2,4] [--size 768x512] [--seconds 10]

Everything up to the networks is real: reading, entropy decoding and noise, each worker with one thread of a graph run.
The work of the GPU is replaced by a wait of the given milliseconds, in which other threads run, as they do during real
GPU work.
"Cores used" is the CPU time per second of wall time; it is lower if other processes compete for the cores.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import rdeic_rt
from rdeic_rt.cli import cpu, measure
from rdeic_rt.codec import Codec
from rdeic_rt.limits import Size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle")
    parser.add_argument("--gpu-ms", type=float, default=12.0)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--size", default="768x512")
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    codec = rdeic_rt.load(args.bundle, backend="cpu", threads=1)
    data = codec.encode(measure.drawn_image(Size(height, width)))
    codec.decode(data)
    _simulate(codec, args.gpu_ms)
    cores = len(os.sched_getaffinity(0))
    print(f"{cpu.model_name()}, {cores} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    print(f"{codec.bundle.name}, {args.size}, {len(data)} bytes; a GPU of {args.gpu_ms:g} ms is simulated")
    print("| workers | images/s | GPU busy | cores used |\n|---|---|---|---|")
    for workers in map(int, args.workers.split(",")):
        rate, used = _images_per_second(codec, data, workers, args.seconds)
        print(f"| {workers} | {rate:.1f} | {100 * rate * args.gpu_ms / 1e3:.0f} % | {used:.2f} |", flush=True)


def _simulate(codec: Codec, gpu_ms: float) -> None:
    """Replace the networks of a decode by a wait."""

    class There:
        @staticmethod
        def crop(image: Any, size: Size) -> Any:
            return image

    def reconstructed(ready: Any) -> Any:
        time.sleep(gpu_ms / 1e3)
        return There, np.zeros(1, np.uint8), ready.size

    codec._reconstructed = reconstructed  # type: ignore[method-assign]


def _images_per_second(codec: Codec, data: bytes, workers: int, seconds: float) -> tuple[float, float]:
    """Return images per second, and CPU seconds per second of wall time."""
    began, cpu_began = time.perf_counter(), time.process_time()

    def sources() -> Iterator[bytes]:
        return itertools.takewhile(lambda _: time.perf_counter() - began < seconds, itertools.repeat(data))

    done = sum(1 for _ in codec.decode_many(sources(), workers=workers))
    took = time.perf_counter() - began
    return done / took, (time.process_time() - cpu_began) / took


if __name__ == "__main__":
    main()
