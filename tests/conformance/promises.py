"""What the runtime promises of its reliability, in numbers: one line each, and status 1 where one is broken.

    python -m tests.conformance.promises --short                     # some minutes: what CI runs
    python -m tests.conformance.promises --parity build/tests/cpp/parity --fuzzers build-fuzz/tests/fuzz

- **files**: changed files end in an error of ours or in an image, in bounded memory.
- **fuzzers**: so do the C++ fuzzers' inputs, where they are built (``-DRDEIC_BUILD_FUZZERS=ON``).
- **CPUs**: golden and fresh files have the same latents on emulated CPUs without AVX-512 and without AVX.
- **decodes**: memory does not grow with the number of decodes, and threads do not disturb each other.
- **kills**: a process that is killed while it writes leaves no image that is not whole.
"""

from __future__ import annotations

import argparse
import io
import os
import random
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
from pathlib import Path

import numpy as np
from PIL import Image

import rdeic_rt
from rdeic_rt import RdeicError, container
from rdeic_rt.cli import cpu

from ..damage import flipped, resealed
from ..fuzz import corpus
from .parity import expected

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "v1"
PHOTOS = ROOT / "tests" / "data" / "photos"
EMULATED = ("Haswell", "Nehalem")  # AVX2 without AVX-512, and SSE4 without AVX
GROWTH_LIMIT_MB = 48.0  # of resident memory, once everything is loaded
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
    args = p.parse_args()
    scale = 50 if args.short else 1
    promises: dict[str, Callable[[], Found]] = {
        "files": lambda: files(100_000 // scale),
        "fuzzers": lambda: fuzzers(args.fuzzers, 10_000_000 // scale),
        **{f"CPU {name}": lambda name=name: emulated(name, args.parity) for name in EMULATED},  # type: ignore[misc]
        "decodes": lambda: decodes(1_500 // min(scale, 10)),
        "threads": lambda: threads(400 // min(scale, 10)),
        "kills": lambda: kills(200 // min(scale, 10)),
    }
    print(cpu.summary(), flush=True)
    broken = False
    for name, look in promises.items():
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
    programs = sorted(folder.glob("*_fuzzer")) if folder is not None else []
    if not programs:
        return Found(None, "no fuzzers given: build with -DRDEIC_BUILD_FUZZERS=ON and clang, and name their folder")
    each = count // len(programs)
    for program in programs:
        target = program.name.removesuffix("_fuzzer")
        with tempfile.TemporaryDirectory() as found, tempfile.TemporaryDirectory() as unpacked:
            corpus.unpack(target, Path(unpacked))
            folders = [found, unpacked, str(corpus.CORPUS / target)]
            limits = [f"-runs={each}", "-rss_limit_mb=2048", "-timeout=20", f"-artifact_prefix={found}/"]
            done = subprocess.run([str(program), *limits, *folders], capture_output=True, text=True)
        if done.returncode:
            return Found(False, f"{program.name}: {done.stderr.strip().splitlines()[-1]}")
    return Found(True, f"{len(programs)} fuzzers, {each} runs each")


def emulated(name: str, parity: Path | None) -> Found:
    """Compare latents that librdeic reads on an emulated CPU with Python's here."""
    qemu = shutil.which("qemu-x86_64")
    if parity is None or qemu is None:
        return Found(None, "needs --parity and qemu-x86_64 (Debian's qemu-user)")
    codec = rdeic_rt.load(GOLDEN / "bundle", backend="cpu", threads=1)
    found = [path.read_bytes() for path in sorted(GOLDEN.glob("*.rdc"))]
    found += [codec.encode(image, rate) for image in crops(4) for rate in (0, 1)]
    lines = "".join(data.hex() + "\n" for data in found)
    command = [qemu, "-cpu", name, str(parity), str(codec.bundle.folder), "latents"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    if done.returncode:
        return Found(False, f"ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    wanted = [" ".join(map(str, expected(codec, data))) for data in found]
    return Found(done.stdout.splitlines() == wanted, f"latents of {len(found)} files compared with Python's here")


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
