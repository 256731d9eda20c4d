"""Files a second through Ray Data, beside `decode_many` in this process: what Ray costs, in one run.

    python tests/bench/bench_fleet.py [--files 64] [--size 256x256] [--bundle B]

Both decode the same files, with one thread and one worker, to PNG in memory. What files take in a Ray worker is told
apart from what the job takes, in which workers start, and that from Ray's own start.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from io import BytesIO
from pathlib import Path

import rdeic_rt
from rdeic_rt import fleet
from rdeic_rt.cli import cpu, measure
from rdeic_rt.limits import Size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny-2")
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--size", default="256x256")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        codec = rdeic_rt.load(args.bundle, backend="cpu", threads=1)
        data = codec.encode(measure.drawn_image(Size(height, width)))
        paths = [Path(folder) / "in" / f"{n:05d}.rdc" for n in range(args.files)]
        paths[0].parent.mkdir()
        for path in paths:
            path.write_bytes(data)
        codec.decode(data)
        began = time.perf_counter(), time.process_time()
        _plain_loop(codec, paths)
        alone, alone_cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        started, ran, seconds = _with_ray(args.bundle, paths, Path(folder) / "out")
    load = os.getloadavg()[0]
    print(f"{cpu.summary()}, {os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}")
    print(f"{args.bundle}, {args.files} files of {args.size}, {len(data)} bytes each, 1 worker with 1 thread")
    print("| | s | files/s |\n|---|---|---|")
    print(f"| decode_many, PNG | {alone:.1f} (CPU {alone_cpu:.1f}) | {args.files / alone:.2f} |")
    print(f"| a worker's own time for the files | {seconds:.1f} | {args.files / seconds:.2f} |")
    print(f"| Ray: the job, workers' start in it | {ran:.1f} | {args.files / ran:.2f} |")
    print(f"| Ray: its own start | {started:.1f} | |")
    print(
        f"overhead of a job: {ran - seconds:.1f} s beside the files' own time; ratio to decode_many {ran / alone:.2f}"
    )


def _plain_loop(codec: rdeic_rt.Codec, paths: list[Path]) -> None:
    for _, image in codec.decode_many(paths):
        rdeic_rt.write_image(BytesIO(), image)


def _with_ray(bundle: str, paths: list[Path], output: Path) -> tuple[float, float, float]:
    """Return the seconds of Ray's start and of a job, and the sum of those that its files took."""
    job = fleet.on_ray_half("job")
    on_ray = fleet.on_ray_half("on_ray")
    began = time.perf_counter()
    on_ray.start("local", quiet=True)
    started = time.perf_counter() - began
    options = fleet.Decoding(fleet.Model(bundle, backend="cpu"))
    began = time.perf_counter()
    summary = job.run(job.Job(options, [str(paths[0].parent)], output, form=job.PARQUET, pool=fleet.Pool(1)))
    ran = time.perf_counter() - began
    if summary.errors or summary.n_files != len(paths):
        raise SystemExit(f"{summary}")
    import pyarrow.parquet as pq

    return started, ran, sum(pq.read_table(summary.report).column("seconds").to_pylist())


if __name__ == "__main__":
    main()
