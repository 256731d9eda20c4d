"""Compare librdeic with the Python runtime: symbols identical, pixels within 1 level, errors of the same class.

    python -m tests.conformance.parity build/tests/cpp/parity            what ctest runs
    python -m tests.conformance.parity build/tests/cpp/parity --photos DIR --bundle engines/tiny-2 --count 200
    python -m tests.conformance.parity tests/web/parity.mjs --precision fp32 --graphs 0     the web package, in node

Files compared: the golden files, and their previews; crops of photos, freshly encoded at every rate of the bundle, and
with a bundle that has levels at some of these too; images that are decoded in tiles; and damaged files, made here
from golden ones: cut, flipped and overwritten, with the old checksum and with one that fits. Then damaged and hostile
bundles (`damaged_bundles`), with golden files; and graphs, hostile and randomly changed, of which both must accept the
same and find the same weights in them.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import rdeic_rt
from rdeic_rt import container, errors, onnx_walk
from rdeic_rt.codec import Codec
from rdeic_rt.entropy.static_prior import StaticPrior

from ..damage import CRC_BYTES, flipped, header_bytes, resealed
from ..runtime.families import micro_diffo
from . import damaged_bundles, hostile_graphs
from .latents import RESULTS, expected

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/v1"
LEVELS = ROOT / "tests/golden/v1-levels"


def main() -> None:
    """Compare; print counts, and end with status 1 where anything differs."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parity", type=Path, help="the program built from parity.cc")
    p.add_argument(
        "--bundle",
        type=Path,
        nargs="+",
        default=[ROOT / "engines/tiny-2", ROOT / "engines/diffo-tiny"],
        help="for freshly encoded photos",
    )
    p.add_argument("--photos", type=Path, default=ROOT / "tests/data/photos", help="folder of images")
    p.add_argument("--count", type=int, default=4, help="crops of photos, each at every rate")
    p.add_argument("--side", type=int, default=256, help="largest side of a crop")
    p.add_argument("--damaged", type=int, default=600, help="random damaged files, besides cuts at every length")
    p.add_argument("--bundles", type=int, default=48, help="random damaged bundles, besides those of a known kind")
    p.add_argument("--graphs", type=int, default=4000, help="randomly changed graphs; 0: none, and no hostile ones")
    p.add_argument("--precision", default="auto", help="of Python's graphs, for freshly encoded photos")
    args = p.parse_args()
    differing = 0
    golden = [path.read_bytes() for path in sorted(GOLDEN.glob("*.rdc"))]
    codec = rdeic_rt.load(GOLDEN / "bundle", backend="cpu", threads=1)
    differing += compare(args.parity, codec, golden, "pixels", what="golden files")
    differing += compare(args.parity, codec, golden, "preview", what="golden files, previews")
    differing += compare(args.parity, codec, list(damaged(golden, args.damaged)), "latents", what="damaged files")
    for bundle in args.bundle:
        fresh = rdeic_rt.load(bundle, backend="cpu", precision=args.precision)
        files = list(encoded(fresh, args.photos, args.count, args.side))
        differing += compare(args.parity, fresh, files, "pixels", what=f"fresh photos, {bundle.name}")
    tiled = rdeic_rt.load(GOLDEN / "bundle", backend="cpu", threads=1, tile_px=256)
    photo = np.asarray(Image.open(ROOT / "tests/data/photos/astronaut.jpg").convert("RGB"))
    large = [tiled.encode(np.ascontiguousarray(photo[:h, :w])) for h, w in ((300, 440), (64, 500), (430, 90))]
    differing += compare(args.parity, tiled, large, "pixels", what="images in tiles", tile_px=256)
    differing += compare_levels(args.parity, args.photos, args.count, args.side)
    with tempfile.TemporaryDirectory() as folder:
        for kind, some in bundles(GOLDEN / "bundle", Path(folder).resolve(), args.bundles).items():
            differing += compare_bundles(args.parity, some, golden[0], what=f"bundles: {kind}")
        for number in (0, 37, 128):
            data = (LEVELS / f"coffee_r{number}.rdc").read_bytes()
            some = damaged_bundles.levels(LEVELS / "bundle", Path(folder).resolve() / str(number))
            differing += compare_bundles(args.parity, some, data, what=f"bundles: levels, a file at {number}")
        some = damaged_bundles.damage(LEVELS / "bundle", Path(folder).resolve() / "levels", args.bundles)
        differing += compare_bundles(args.parity, some, data, what="bundles: levels, damage")
        for in_context in (False, True):
            differing += compare_indices(args.parity, Path(folder).resolve() / f"diffo-{in_context}", args, in_context)
    if args.graphs:
        differing += compare_graphs(args.parity, list(changed_graphs(args.graphs)))
    sys.exit(1 if differing else 0)


def compare_levels(parity: Path, photos: Path, count: int, side: int) -> int:
    """Return how many files of a bundle with levels the two decode differently, whole, as previews and in tiles."""
    codec = rdeic_rt.load(LEVELS / "bundle", backend="cpu", threads=1)
    golden = [path.read_bytes() for path in sorted(LEVELS.glob("*.rdc"))]
    fresh = list(encoded(codec, photos, count, side))
    n_levels = codec.bundle.levels.count if codec.bundle.levels else 0
    files = golden + fresh + [at_level(golden[0], n) for n in (0, 1, 50, 99, 100, 101, n_levels - 1, n_levels, 255)]
    photo = np.asarray(Image.open(ROOT / "tests/data/photos/astronaut.jpg").convert("RGB"))
    tiled = rdeic_rt.load(LEVELS / "bundle", backend="cpu", threads=1, tile_px=256)
    large = [tiled.encode(np.ascontiguousarray(photo[:300, :440]), rate=rate) for rate in (0.0, 0.63, 1.0)]
    large.append(at_level(large[-1], n_levels - 1))
    return (
        compare(parity, codec, files, "pixels", what="levels")
        + compare(parity, codec, files, "preview", what="levels, previews")
        + compare(parity, codec, list(damaged(golden[:1], 200)), "latents", what="levels, damaged files")
        + compare(parity, tiled, large, "pixels", what="levels in tiles", tile_px=256)
        + compare(parity, tiled, large, "preview", what="levels in tiles, previews", tile_px=256)
    )


def compare_indices(parity: Path, folder: Path, args: argparse.Namespace, in_context: bool) -> int:
    """Return how many files of a bundle that codes indices alone the two decode differently, and its bundles too.

    With ``in_context`` it has a context model, which files are coded with even where a fixed width is shorter.
    """
    micro_diffo.write(folder / "bundle", in_context=in_context)
    codec = rdeic_rt.load(folder / "bundle", backend="cpu", threads=1)
    tiled = rdeic_rt.load(folder / "bundle", backend="cpu", threads=1, tile_px=256)
    files = list(encoded(codec, args.photos, args.count, args.side))
    photo = np.asarray(Image.open(ROOT / "tests/data/photos/astronaut.jpg").convert("RGB"))
    files += [codec.encode(photo[:h, :w], fixed_size=fixed) for h, w in ((1, 1), (70, 65)) for fixed in (False, True)]
    large = [tiled.encode(np.ascontiguousarray(photo[:h, :w])) for h, w in ((300, 440), (64, 500), (430, 90))]
    if in_context:
        files += [range_coded(codec, data) for data in files]
        large = [range_coded(tiled, data) for data in large]
    made = damaged_bundles.damage(folder / "bundle", folder / "damaged", args.bundles)
    what = "indices in context" if in_context else "indices alone"
    return (
        compare(parity, codec, files, "pixels", what=what)
        + compare(parity, codec, files, "preview", what=f"{what}, previews")
        + compare(parity, codec, list(damaged(files[-2:], args.damaged)), "latents", what=f"{what}, damaged files")
        + compare(parity, tiled, large, "pixels", what=f"{what} in tiles", tile_px=256)
        + compare_bundles(parity, made, files[-1], what=f"bundles: {what}, damage")
    )


def range_coded(codec: Codec, data: bytes) -> bytes:
    """Return a file of indices without a fixed width."""
    file = container.parse(data)
    indices = codec.read_latents(data).tensors["vq_indices"][0].astype(np.int32)
    model = StaticPrior.load(micro_diffo.entropy_arrays(in_context=True), threads=1)
    return container.pack(replace(file.header, z_is_plain=False), model.indices.range_coded(indices), b"")


def at_level(data: bytes, level: int) -> bytes:
    """Return the file with another level in its header."""
    file = container.parse(data)
    return container.pack(replace(file.header, rate=level), file.z, file.y)


def compare(
    parity: Path,
    codec: Codec,
    files: Sequence[bytes],
    mode: Literal["latents", "pixels", "preview"],
    *,
    what: str,
    tile_px: int = 1024,
) -> int:
    """Return how many files the two decode differently, and print what was found."""
    command = [str(parity), str(codec.bundle.folder), mode, str(tile_px)]
    pixels, decode = mode != "latents", codec.preview if mode == "preview" else codec.decode
    lines = "".join(data.hex() + "\n" for data in files)
    printed = subprocess.run(command, input=lines, check=True, capture_output=True, text=True).stdout.splitlines()
    outcomes: Counter[int] = Counter()
    differing, largest, unequal, total = 0, 0, 0, 0
    for data, line in zip(files, printed, strict=True):
        found = line.split()
        result, digest = expected(codec, data)
        outcomes[result] += 1
        same = int(found[0]) == result and found[1:2] == ([digest] if digest else [])
        if same and pixels and digest:
            mine, theirs = decode(data).astype(int).ravel(), np.frombuffer(bytes.fromhex(found[2]), np.uint8)
            same = mine.size == theirs.size and int(np.abs(mine - theirs).max()) <= 1
            largest = max(largest, int(np.abs(mine - theirs).max()))
            unequal, total = unequal + int((mine != theirs).sum()), total + mine.size
        if not same:
            differing += 1
            print(f"{what}: expected {result} {digest}, got {found[:2]}: {data[:200].hex()}")
    summary = ", ".join(f"{count} of result {result}" for result, count in sorted(outcomes.items()))
    print(f"{what}: {len(files)} compared, {differing} differ ({summary})", end="")
    print(f"; pixels differ by {largest} at most, {unequal} of {total}" if pixels else "")
    return differing


def bundles(source: Path, folder: Path, count: int) -> dict[str, Iterator[tuple[str, Path]]]:
    """Return damaged and hostile bundles by kind, each with its name; they are made as they are taken."""
    return {
        "hostile graphs": damaged_bundles.graphs(source, folder),
        "contradictions": damaged_bundles.contradictions(source, folder),
        "damage": damaged_bundles.damage(source, folder, count),
    }


def compare_bundles(parity: Path, made: Iterator[tuple[str, Path]], data: bytes, *, what: str) -> int:
    """Return how many bundles the two make something else of when they decode a file, and print what was found."""
    named = list(made)
    lines = "".join(f"{str(folder).encode().hex()} {data.hex()}\n" for _, folder in named)
    run = subprocess.run([str(parity), "bundles"], input=lines, check=True, capture_output=True, text=True)
    outcomes: Counter[int] = Counter()
    differing = 0
    for (name, folder), line in zip(named, run.stdout.splitlines(), strict=True):
        found, message = int(line.split()[0]), ""
        try:
            rdeic_rt.load(folder, backend="cpu", threads=1).decode(data)
            result = 0
        except errors.RdeicError as error:
            result, message = RESULTS[type(error)], str(error)
        outcomes[result] += 1
        if found != result:
            differing += 1
            print(f"{what}: {name}: expected {result}, got {found} ({message})")
    summary = ", ".join(f"{count} of result {result}" for result, count in sorted(outcomes.items()))
    print(f"{what}: {len(named)} compared, {differing} differ ({summary})")
    return differing


def compare_graphs(parity: Path, graphs: Sequence[bytes]) -> int:
    """Return of how many ONNX files the two do not find the same weights elsewhere, and print what was found."""
    lines = "".join(data.hex() + "\n" for data in graphs)
    run = subprocess.run([str(parity), "graphs"], input=lines, check=True, capture_output=True, text=True)
    outcomes: Counter[str] = Counter()
    differing = 0
    for data, line in zip(graphs, run.stdout.splitlines(), strict=True):
        try:
            weights = onnx_walk.external_weights(data, "graph")
            listing = "".join(
                f"{w.name}\n{w.location}\n{w.offset}\n{w.size_bytes}\n{''.join(f'{n},' for n in w.shape)}\n"
                for w in weights
            )
            expected, outcome = f"0 {listing.encode().hex()}", "accepted" if weights else "accepted without weights"
        except errors.BundleCorruptError:
            expected, outcome = "52", "refused"
        outcomes[outcome] += 1
        if line.strip() != expected.strip():
            differing += 1
            print(f"graphs: expected {expected[:80]}, got {line[:80]}: {data[:400].hex()}")
    summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"graphs: {len(graphs)} compared, {differing} differ ({summary})")
    return differing


def changed_graphs(count: int) -> Iterator[bytes]:
    """Yield the hostile graphs, and random changes to them that leave text in ASCII: names are shown as they are."""
    forms = list(hostile_graphs.files().values())
    yield from forms
    rng = random.Random(17)
    for _ in range(count):
        data = bytearray(rng.choice(forms) or b"\0")
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(data) + 1)
            if rng.random() < 0.6:
                data[start : start + 1] = bytes([rng.choice([0, 1, 2, 7, 13, 14, rng.randrange(128)])])
            elif rng.random() < 0.5:
                del data[start : start + rng.randint(1, 4)]
            else:
                data[start:start] = rng.choice(forms)[: rng.randint(0, 8)]
        yield bytes(data)


def encoded(codec: Codec, folder: Path, count: int, side: int) -> Iterator[bytes]:
    """Yield crops of photos as files, each at every rate, and where the bundle has levels at one between."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
    rng = random.Random(5)
    for number in range(count):
        photo = np.asarray(Image.open(photos[number % len(photos)]).convert("RGB"))
        crop = random_crop(rng, photo, side)
        for rate in codec.bundle.rates:
            yield codec.encode(crop, rate=rate.index)
        if codec.bundle.levels is not None:
            yield codec.encode(crop, rate=rng.uniform(0, len(codec.bundle.rates) - 1))


def random_crop(rng: random.Random, photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a piece of a photo, of any place and size up to `side` pixels along each side."""
    height, width = (rng.randint(1, min(side, n)) for n in photo.shape[:2])
    top, left = rng.randint(0, photo.shape[0] - height), rng.randint(0, photo.shape[1] - width)
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


def damaged(files: Sequence[bytes], count: int) -> Iterator[bytes]:
    """Yield every cut and header bit flip of two files, then random damage to all, mostly with a checksum that fits."""
    for data in files[:2]:
        yield from (data[:length] for length in range(len(data)))
        header_bits = 8 * header_bytes(data)
        yield from (flipped(data, bit) for bit in range(header_bits))
        yield from (resealed(flipped(data, bit)) for bit in range(header_bits))
        yield from (data + extra for extra in (b"\0", bytes(4), data))
    rng = random.Random(7)
    for number in range(count):
        data = files[number % len(files)]
        kind = number % 5
        if kind == 0:
            yield flipped(data, rng.randrange(8 * len(data)))
        elif kind == 1:
            yield resealed(flipped(data, rng.randrange(8 * (len(data) - CRC_BYTES))))
        elif kind == 2:
            yield with_sections(data, rng, cut=True)
        elif kind == 3:
            yield with_sections(data, rng, cut=False)
        else:
            yield resealed(overwritten(data, rng))


def overwritten(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with up to 8 of the sections' bytes replaced."""
    changed = bytearray(data)
    start = len(data) - CRC_BYTES - len(container.parse(data).y)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(start, len(data)) if start < len(data) else -1] = rng.randrange(256)
    return bytes(changed)


def with_sections(data: bytes, rng: random.Random, *, cut: bool) -> bytes:
    """Return a well-formed file whose sections are cut, or longer, or of random bytes."""
    file = container.parse(data)
    z, y = (
        part[: rng.randint(0, len(part))] if cut else rng.randbytes(rng.randint(0, 2 * len(part) + 8))
        for part in (file.z, file.y)
    )
    keep = rng.randrange(3)
    return container.pack(file.header, file.z if keep == 0 else z, file.y if keep == 1 else y)


if __name__ == "__main__":
    main()
