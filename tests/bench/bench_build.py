"""Time and memory of an engine build: seconds, and the most that all its processes hold at once (Linux).

    python tests/bench/bench_build.py --random-weights sd21 --steps 2       # the options of export/build_engines.py
    python tests/bench/bench_build.py --against ../older --bundle '/tmp/{side}/sd21' --precision fp16,int8

With ``--against``, which comes first, another checkout's build runs before this one's, with the same options, in which
``{side}`` stands for ``before`` or ``after``. Seconds of the CPU are those of all processes: they tell more than the
clock where the machine has other work.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run the builds, print a line for each and return the exit code of the last."""
    options = sys.argv[1:]
    checkouts = {"after": ROOT}
    if options[:1] == ["--against"]:
        checkouts = {"before": Path(options[1]).resolve(), **checkouts}
        options = options[2:]
    status = 0
    for side, checkout in checkouts.items():
        status = measured(side, checkout, [option.replace("{side}", side) for option in options])
    return status


def measured(side: str, checkout: Path, options: Sequence[str]) -> int:
    """Run one checkout's build, print what it took and return its exit code."""
    path = os.pathsep.join(str(checkout / folder) for folder in ("runtime", "export"))
    began, cpu_before, peak_kb = time.perf_counter(), cpu_seconds(), 0
    command = [sys.executable, str(checkout / "export/build_engines.py"), *options]
    build = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    while build.poll() is None:
        peak_kb = max(peak_kb, sum(map(resident_kb, family(build.pid))))
        time.sleep(0.5)
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu_before
    print(f"{side}: {seconds:.0f} s, {cpu:.0f} s of the CPU, peak of all processes {peak_kb / 1e6:.1f} GB", flush=True)
    return build.returncode


def cpu_seconds() -> float:
    """Return what the processes that have ended took of the CPU."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def family(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                yield from family(int(child))
        except OSError:
            pass  # it has just ended


def resident_kb(pid: int) -> int:
    """Return the memory a process has in RAM; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Rss:")), 0)


if __name__ == "__main__":
    sys.exit(main())
