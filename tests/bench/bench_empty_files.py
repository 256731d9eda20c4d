"""What decoding an empty file costs, by the image that it asks for: the table of docs/serving.md, "Bounds".

    python tests/bench/bench_empty_files.py

A file without symbols is as valid as any, and shorter than any. Each row is a process of its own, which computes on one
thread; CPU time is that of the decode, and the peak memory that of the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

from rdeic_rt.cli import cpu

ROWS = ((512, True), (2048, True), (8192, False))
WORK = """
import json, sys, time
import rdeic_rt
from rdeic_rt import container
from rdeic_rt.cli.measure import peak_rss_bytes

side, whole = json.loads(sys.argv[1])
codec = rdeic_rt.load(backend="cpu", threads=1)
rate = codec.bundle.choose_rate(None)
header = container.Header(size=rdeic_rt.Size(side, side), model_id=rate.model_id, rate=rate.number, z_is_plain=False)
data = container.pack(header, b"", b"")
began = time.process_time()
(codec.decode if whole else codec.read_latents)(data)
print(json.dumps([len(data), time.process_time() - began, peak_rss_bytes() / 1e6]))
"""


def main() -> None:
    """Print the table."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("rdeic-rt", "numpy", "onnxruntime"))
    print(f"{cpu.summary()}, {versions}\n\n| bytes | asks for | CPU s | peak memory |\n|---|---|---|---|")
    for side, whole in ROWS:
        done = subprocess.run([sys.executable, "-c", WORK, json.dumps([side, whole])], capture_output=True, check=True)
        n_bytes, seconds, peak_mb = json.loads(done.stdout)
        what = "whole" if whole else "latents only"
        print(f"| {n_bytes} | {side}x{side}, {what} | {seconds:.1f} | {peak_mb:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
