"""Whether a change made anything slower: this checkout against another one, in turns, in fresh processes.

    git worktree add ../before COMMIT
    python tests/bench/bench_revisions.py --before ../before [--rounds 7] [--backend cpu]

Each process imports the package, loads the checkout's own embedded bundle, and sends a photo of 768x512 through it.
What is printed is the median over all rounds of after / before: 1.03 is 3 % slower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from rdeic_rt.cli import cpu

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "tests/data/photos/coffee.jpg"
SIZE = (768, 512)
CHILD = """
import json, sys, time
began = time.perf_counter()
import rdeic_rt
imported = time.perf_counter()
import numpy as np
from PIL import Image
image = np.asarray(Image.open(sys.argv[1]).convert("RGB").resize((int(sys.argv[2]), int(sys.argv[3]))))
data = rdeic_rt.load(backend=sys.argv[4], threads=2).encode(image)
start = time.perf_counter()
codec = rdeic_rt.load(backend=sys.argv[4], threads=2)
codec.decode(data)
first = time.perf_counter()

def best(run):
    times = []
    for _ in range(int(sys.argv[5])):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)

codec.encode(image)
times = {"import": imported - began, "load and first decode": first - start}
times |= {"decode": best(lambda: codec.decode(data)), "encode": best(lambda: codec.encode(image))}
print(json.dumps(times))
"""


def measured(checkout: Path, backend: str, runs: int) -> dict[str, float]:
    """Return the seconds that each case takes in one process of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "runtime")}
    arguments = [sys.executable, "-c", CHILD, str(PHOTO), *map(str, SIZE), backend, str(runs)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment).stdout
    return dict(json.loads(printed))


def main() -> None:
    """Measure both in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="folder of the checkout to compare with")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each. Default: 7")
    parser.add_argument("--runs", type=int, default=5, help="warm runs in a process, the fastest counts. Default: 5")
    parser.add_argument("--backend", default="cpu", help="Default: cpu")
    args = parser.parse_args()
    rounds = []
    for number in range(args.rounds):
        order = (args.before, ROOT) if number % 2 else (ROOT, args.before)
        times = {checkout: measured(checkout, args.backend, args.runs) for checkout in order}
        rounds.append((times[args.before], times[ROOT]))
    print(f"{cpu.summary()}; {SIZE[0]}x{SIZE[1]}, backend {args.backend}, {args.rounds} rounds")
    print(f"{'':24} {'before ms':>10} {'after ms':>10} {'ratio':>7}")
    for case in rounds[0][0]:
        before, after = ([times[case] for times in side] for side in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
        print(f"{case:24} {1e3 * min(before):10.1f} {1e3 * min(after):10.1f} {ratio:7.3f}")


if __name__ == "__main__":
    main()
