"""What the runtime promises of its reliability, in numbers: one line each, and status 1 where one is broken.

    python -m tests.conformance.promises --short                  # some minutes: what CI runs
    python -m tests.conformance.promises --only decodes kills
    python -m tests.conformance.promises --parity BUILD/tests/cpp/parity --fuzzers FUZZ/tests/fuzz --aarch64 FOLDER

- **files**: changed files end in an error of ours or in an image, in bounded memory.
- **fuzzers**: so do the C++ fuzzers' inputs, where they are built (``-DRDEIC_BUILD_FUZZERS=ON``).
- **CPUs**: golden and fresh files have the same latents on emulated CPUs, in librdeic on x86-64 without AVX-512 and
  without AVX, and in both runtimes on aarch64 with and without products of bytes. ``--aarch64`` names the folder that
  aarch64.sh makes.
- **decodes**: memory does not grow with the number of decodes, and threads do not disturb each other.
- **kills**: a process that is killed while it writes leaves no image that is not whole.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

import rdeic_rt
from rdeic_rt import RdeicError, container
from rdeic_rt.cli import cpu

from ..damage import flipped, resealed
from ..fuzz import corpus
from .latents import expected

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "v1"
PHOTOS = ROOT / "tests" / "data" / "photos"
LEVELS = ROOT / "tests" / "golden" / "v1-levels"
ENGINES = ROOT / "engines"
X86 = ("Haswell", "Nehalem")  # AVX2 without AVX-512, and SSE4 without AVX
AARCH64 = ("cortex-a72", "neoverse-n1")  # without products of bytes, and with them
GROWTH_LIMIT_MB = 48.0  # of resident memory, once everything is loaded
# Of the fuzzers' runs; those of the last take ten thousand times as long as those of the first.
SHARES = {"container": 0.4, "onnx_walk": 0.3, "coder": 0.2, "bundle": 0.09, "arrays": 0.007, "decode": 0.003}
FUZZER_LIMITS = ("-rss_limit_mb=2048", "-malloc_limit_mb=512", "-timeout=20")
SIDE_PX = 96  # of the images that are decoded again and again
THREADS = 8


@dataclass(frozen=True)
class Found:
    """What became of one promise.

    Attributes:
        kept: None if it could not be looked at here.
        what: figures, or why it could not.
    """

    kept: bool | None
    what: str


def main() -> None:
    """Look at every promise."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--short", action="store_true", help="a fiftieth of everything")
    p.add_argument("--parity", type=Path, help="the program built from parity.cc")
    p.add_argument("--fuzzers", type=Path, help="folder of the fuzzers, built with libFuzzer")
    p.add_argument("--aarch64", type=Path, help="folder that tests/conformance/aarch64.sh made")
    p.add_argument("--only", nargs="+", metavar="NAME", help="promises to look at, by the first word of their lines")
    args = p.parse_args()
    scale = 50 if args.short else 1
    promises: dict[str, Callable[[], Found]] = {
        "files": lambda: files(100_000 // scale),
        "fuzzers": lambda: fuzzers(args.fuzzers, 10_000_000 // scale),
        **{name: partial(on_x86, name, args.parity) for name in X86},
        **{name: partial(on_aarch64, name, args.aarch64) for name in AARCH64},
        "decodes": lambda: decodes(1_500 // min(scale, 10)),
        "threads": lambda: threads(400 // min(scale, 10)),
        "kills": lambda: kills(200 // min(scale, 10)),
    }
    unknown = set(args.only or ()) - set(promises)
    if unknown:
        p.error(f"no such promise: {', '.join(sorted(unknown))}; there are {', '.join(promises)}")
    versions = f"rdeic-rt {rdeic_rt.__version__}, Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in ("numpy", "onnxruntime")
    )
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu.summary()}, {versions}", flush=True)
    broken = False
    for name, look in promises.items():
        if args.only and name not in args.only:
            continue
        began = time.monotonic()
        found = look()
        state = {True: "kept", False: "BROKEN", None: "not run"}[found.kept]
        print(f"{name:12s} {state:8s} {time.monotonic() - began:6.0f} s  {found.what}", flush=True)
        broken |= found.kept is False
    sys.exit(1 if broken else 0)


def files(count: int) -> Found:
    """Read changed files: everything but an `RdeicError` or latents is a fault."""
    codec = rdeic_rt.load(GOLDEN / "bundle", backend="cpu", threads=1)
    seeds = [path.read_bytes() for path in sorted(GOLDEN.glob("*.rdc"))]
    seeds = [min(seeds, key=len), *(codec.encode(image, rate) for image in crops(3) for rate in (0, 1))]
    ends: Counter[str] = Counter()
    before = 0.0
    for number, data in enumerate(changed(seeds, count)):
        try:
            codec.read_latents(data)
            ends["latents"] += 1
        except RdeicError as error:
            ends[type(error).__name__] += 1
        except Exception as error:
            return Found(False, f"{type(error).__name__}: {error}; file {data.hex()}")
        if number == count // 10:
            before = resident_mb()
    growth = resident_mb() - before
    said = ", ".join(f"{name} {n}" for name, n in ends.most_common())
    return Found(growth < GROWTH_LIMIT_MB, f"{count} files: {said}; memory grew by {growth:.1f} MB")


def changed(seeds: Sequence[bytes], count: int) -> Iterator[bytes]:
    """Yield files that are cut, flipped, spliced, or have other headers, mostly with a checksum that fits."""
    rng = random.Random(7)
    parsed = [container.parse(data) for data in seeds]
    for _ in range(count):
        which = rng.randrange(len(seeds))
        data, file = seeds[which], parsed[which]
        kind = rng.randrange(6)
        if kind == 0:
            yield data[: rng.randrange(len(data))]
        elif kind == 1:
            yield flipped(data, rng.randrange(8 * len(data)))
        elif kind == 2:
            for _ in range(rng.randint(1, 8)):
                data = flipped(data, rng.randrange(8 * len(data)))
            yield resealed(data)
        elif kind == 3:
            other = rng.choice(parsed)
            yield container.pack(file.header, rng.choice((file.z, other.z)), other.y)
        elif kind == 4:
            size = rdeic_rt.Size(height=rng.choice((1, 63, 64, 65, 400)), width=rng.choice((1, 64, 129, 500)))
            yield container.pack(
                replace(file.header, size=size, rate=rng.randrange(3), z_is_plain=rng.random() < 0.5), file.z, file.y
            )
        else:
            start = rng.randrange(len(data))
            end = start + rng.randrange(16)
            yield resealed(data[:start] + rng.randbytes(rng.randrange(16)) + data[end:] + bytes(8))


def fuzzers(folder: Path | None, count: int) -> Found:
    """Run every fuzzer on its corpus with capped memory."""
    if folder is None:
        return Found(None, "needs --fuzzers, built by clang with -DRDEIC_BUILD_FUZZERS=ON (tests/fuzz/CMakeLists.txt)")
    total, said = 0, []
    for name, share in SHARES.items():
        with tempfile.TemporaryDirectory() as found, tempfile.TemporaryDirectory() as unpacked:
            corpus.unpack(name, Path(unpacked))
            options = [f"-runs={round(share * count)}", "-print_final_stats=1", f"-artifact_prefix={found}/"]
            folders = [found, unpacked, str(corpus.CORPUS / name)]
            command = [str(folder / f"{name}_fuzzer"), *FUZZER_LIMITS, *options, *folders]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)$", done.stderr, re.MULTILINE))
        if done.returncode:
            said_last = re.findall(r"^(?:SUMMARY|Base64): .*$", done.stderr, re.MULTILINE) or [done.stderr[-500:]]
            return Found(False, f"{name}: {' '.join(said_last)}")
        total += int(stats["number_of_executed_units"])
        said.append(f"{name} {stats['number_of_executed_units']} in {stats['peak_rss_mb']} MB")
    return Found(total >= count, f"{total} runs, none of another end than an error of ours: {', '.join(said)}")


def on_x86(cpu: str, parity: Path | None) -> Found:
    """Compare latents that librdeic reads on an emulated x86-64 with Python's here."""
    qemu = shutil.which("qemu-x86_64")
    if parity is None or qemu is None:
        return Found(None, "needs --parity and qemu-x86_64 (Debian's qemu-user)")
    return same_latents({"librdeic": ([qemu, "-cpu", cpu, str(parity)], ["latents"])})


def on_aarch64(cpu: str, folder: Path | None) -> Found:
    """Compare latents that both runtimes read on an emulated aarch64 with Python's here."""
    qemu = shutil.which("qemu-aarch64")
    if folder is None or qemu is None:
        return Found(None, "needs qemu-aarch64 (Debian's qemu-user) and the folder that aarch64.sh makes")
    root = folder.resolve() / "root"
    emulator = [qemu, "-cpu", cpu, "-L", str(root)]
    python = f"PYTHONHOME={root / 'usr'},PYTHONPATH={folder.resolve() / 'site'}:{ROOT / 'runtime'}:{ROOT}"
    return same_latents(
        {
            "librdeic": ([*emulator, str(folder / "build/tests/cpp/parity")], ["latents"]),
            "Python": ([*emulator, "-E", python, str(root / "usr/bin/python3"), "-m", "tests.conformance.latents"], []),
        }
    )


def same_latents(programs: dict[str, tuple[list[str], list[str]]]) -> Found:
    """Compare what programs make of golden and fresh files with what Python makes of them here.

    Args:
        programs: by a name, what comes before and after the bundle's folder in the command. The command prints what
            parity.cc does in its mode ``latents``; of what it says on stderr, a line that begins with the name tells
            more, and others are qemu's.
    """
    count, said = 0, set()
    for codec, found in bundles():
        lines = "".join(data.hex() + "\n" for data in found)
        wanted = [" ".join(map(str, expected(codec, data))).strip() for data in found]
        count += len(found)
        for name, (before, after) in programs.items():
            command = [*before, str(codec.bundle.folder), *after]
            done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                return Found(
                    False, f"{name}, {codec.bundle.folder}: status {done.returncode}: {done.stderr.strip()[-200:]}"
                )
            got = [line.strip() for line in done.stdout.splitlines()]
            if got != wanted:
                differing = sum(a != b for a, b in zip(got, wanted, strict=False)) + abs(len(got) - len(wanted))
                return Found(False, f"{name}, {codec.bundle.folder}: {differing} of {len(wanted)} files differ")
            said.add(next((line for line in done.stderr.splitlines() if line.startswith(name)), name))
    return Found(True, f"{count} files have the latents that Python reads here: {'; '.join(sorted(said))}")


def bundles() -> Iterator[tuple[rdeic_rt.Codec, list[bytes]]]:
    """Yield golden bundles, with golden files and fresh ones, and the embedded ones, with fresh ones."""
    for folder in (GOLDEN / "bundle", LEVELS / "bundle", *(ENGINES / name for name in ("tiny-2", "diffo-tiny"))):
        codec = rdeic_rt.load(folder, backend="cpu", threads=1)
        golden = [path.read_bytes() for path in sorted(folder.parent.glob("*.rdc"))]
        yield codec, golden + [codec.encode(image, rate.index) for image in crops(4) for rate in codec.bundle.rates]


def decodes(count: int) -> Found:
    """Decode images of several sizes again and again."""
    codec = rdeic_rt.load(backend="cpu", threads=1)
    found = [codec.encode(image[: SIDE_PX - 9 * n], n % 2) for n, image in enumerate(crops(4))]
    for data in found * 3:
        codec.decode(data)
    before = resident_mb()
    for number in range(count):
        codec.decode(found[number % len(found)])
    growth = resident_mb() - before
    return Found(growth < GROWTH_LIMIT_MB, f"{count} decodes: memory grew by {growth:.1f} MB")


def threads(count: int) -> Found:
    """Encode, decode and preview in many threads at once, and compare with what one thread does."""
    codec = rdeic_rt.load(backend="cpu", threads=1)
    photos = crops(4)
    found = [codec.encode(image, n % 2) for n, image in enumerate(photos)]
    works: list[Callable[[int], bytes]] = [
        lambda n: codec.decode(found[n]).tobytes(),
        lambda n: codec.preview(found[n]).tobytes(),
        lambda n: codec.encode(photos[n], n % 2),
    ]
    wanted = [[work(n) for n in range(len(found))] for work in works]

    def one(number: int) -> bool:
        work, n = number % len(works), number // len(works) % len(found)
        return works[work](n) == wanted[work][n]

    with ThreadPoolExecutor(THREADS) as pool:
        same = sum(pool.map(one, range(count)))
    return Found(same == count, f"{same} of {count} calls in {THREADS} threads are equal to those in one")


def kills(count: int) -> Found:
    """Kill `rdeic-rt decode` at random times, and read what is there."""
    rng = random.Random(3)
    whole = absent = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codec = rdeic_rt.load(GOLDEN / "bundle", backend="cpu", threads=1)
        for number, image in enumerate(crops(4)):
            (folder / f"{number}.rdc").write_bytes(codec.encode(image))
        inputs = [str(path) for path in sorted(folder.glob("*.rdc"))]
        command = [sys.executable, "-m", "rdeic_rt", "decode", "--bundle", str(GOLDEN / "bundle"), *inputs, "-q", "-o"]
        began = time.monotonic()
        subprocess.run([*command, str(folder / "first")], check=True)
        seconds = time.monotonic() - began
        for number in range(count):
            target = folder / str(number)
            process = subprocess.Popen([*command, str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.3, 1.1) * seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
            for path in inputs:
                image_path = target / Path(path).with_suffix(".png").name
                if not image_path.exists():
                    absent += 1
                    continue
                try:
                    Image.open(io.BytesIO(image_path.read_bytes())).load()
                except OSError as error:
                    return Found(False, f"{image_path.name}: {error}")
                whole += 1
            shutil.rmtree(target, ignore_errors=True)
    return Found(True, f"{count} processes killed: {whole} images whole, {absent} not there, none in part")


def crops(count: int) -> list[np.ndarray]:
    """Return squares from test photos."""
    paths = sorted(PHOTOS.glob("*.jpg"))
    found = []
    for number in range(count):
        photo = np.asarray(Image.open(paths[number % len(paths)]).convert("RGB"))
        found.append(np.ascontiguousarray(photo[40 : 40 + SIDE_PX, 60 : 60 + SIDE_PX]))
    return found


def resident_mb() -> float:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


if __name__ == "__main__":
    main()
