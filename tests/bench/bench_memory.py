"""Peak memory and time of encoding and decoding by size and tile, each in a process of its own.

    python tests/bench/bench_memory.py [--sizes 768x512,4000x3000] [--tiles 512,1024] [--backend cpu] [--bundle B]

Beside the peak stands what the image itself takes (3 bytes a pixel), which the process holds once as the source or
the result, and again padded. The photo is a test photo resized to the asked size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
WORK = """
import json, pathlib, sys, time
import numpy as np
import rdeic_rt
from rdeic_rt.cli.measure import peak_rss_bytes

verb, photo, file, options = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), json.loads(sys.argv[4])
codec = rdeic_rt.load(options.pop("bundle"), **options)
start = time.perf_counter()
if verb == "encode":
    file.write_bytes(codec.encode(np.load(photo)))
else:
    codec.decode(file.read_bytes())
print(json.dumps([time.perf_counter() - start, peak_rss_bytes() / 1e6]))
"""


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", default="768x512,1536x1024,4000x3000", help="width x height, several with commas")
    p.add_argument("--tiles", default="1024", help="tile_px, several with commas")
    p.add_argument("--backend", default="cpu", help="as for rdeic-rt")
    p.add_argument("--bundle", help="folder or name; default: the embedded one")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of a graph")
    args = p.parse_args()
    print(f"rdeic-rt {version('rdeic-rt')}, backend {args.backend}, {platform.machine()}, {args.threads} threads\n")
    print("| size | tile_px | image MB | encode s | encode peak MB | decode s | decode peak MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes.split(","):
            width, height = map(int, size.split("x"))
            photo, file = Path(folder) / "photo.npy", Path(folder) / "photo.rdc"
            save_photo(photo, width, height)
            for tile_px in map(int, args.tiles.split(",")):
                options = {
                    "bundle": args.bundle,
                    "backend": args.backend,
                    "threads": args.threads,
                    "tile_px": tile_px,
                }
                figures = [measured(verb, photo, file, options) for verb in ("encode", "decode")]
                cells = " | ".join(f"{seconds:.1f} | {peak_mb:.0f}" for seconds, peak_mb in figures)
                print(f"| {size} | {tile_px} | {3 * width * height / 1e6:.0f} | {cells} |", flush=True)


def save_photo(path: Path, width: int, height: int) -> None:
    """Write the test photo as an array, so that reading it costs the measured process nothing but its size."""
    with Image.open(ROOT / "tests/data/photos/coffee.jpg") as photo:
        np.save(path, np.asarray(photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)))


def measured(verb: str, photo: Path, file: Path, options: dict[str, object]) -> tuple[float, float]:
    """Return seconds and peak MB of one verb in a fresh process; the time includes loading graphs."""
    command = [sys.executable, "-c", WORK, verb, str(photo), str(file), json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak_mb = json.loads(done.stdout)
    return seconds, peak_mb


if __name__ == "__main__":
    main()
