"""Lay out the demo as a static site: python web/build_site.py SITE

The site needs no server but one of files, and works at any path of it. It holds

    index.html, ...            web/demo, and what it shares with the viewer of `rdeic-rt serve`
    service-worker-files.js    the files that the service worker keeps, and their version
    modules/rdeic-web/         the package, as `npm run build` in web/rdeic-web makes it
    modules/onnxruntime-web/   the parts of onnxruntime-web that it loads
    bundles/                   the embedded bundles without what only encodes, packed by gzip, and index.json
    samples/                   photos of tests/data/photos, encoded with each bundle and rate, and with other codecs

`rdeic-rt serve --web-modules SITE` uses its modules/. The package must be built before (docs/web.md).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import rdeic_rt
from rdeic_rt import Codec
from rdeic_rt.errors import ImageError
from rdeic_rt.manifest import Bundle
from rdeic_rt.serve import compare

WEB = Path(__file__).resolve().parent
ROOT = WEB.parent
BUNDLES = ("tiny-2", "diffo-tiny")
PHOTOS = ROOT / "tests" / "data" / "photos"
SHARED = ROOT / "runtime" / "rdeic_rt" / "serve" / "viewer"
SHARED_FILES = ("comparison.css", "comparison.js", "here.js")
PACKAGE = WEB / "rdeic-web" / "build"
RUNTIME = WEB / "rdeic-web" / "node_modules" / "onnxruntime-web"
# What onnxruntime-web loads for its WebAssembly kernels; those for WebGPU need a policy with 'unsafe-eval'.
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SUFFIXES = {"jpeg": "jpg", "webp": "webp", "avif": "avif"}


def main(arguments: list[str] | None = None) -> int:
    """Write the site; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, metavar="SITE", help="a new folder, or one that this program wrote before")
    args = parser.parse_args(arguments)
    for needed in (PACKAGE / "wasm" / "rdeic.wasm", RUNTIME / "package.json"):
        if not needed.is_file():
            print(f"build_site.py: there is no {needed}: build the package first (docs/web.md)", file=sys.stderr)
            return 1
    site: Path = args.site
    marker = site / "service-worker-files.js"
    if site.exists() and any(site.iterdir()) and not marker.is_file():
        print(f"build_site.py: {site} is not empty, and no site that was written before", file=sys.stderr)
        return 1
    shutil.rmtree(site, ignore_errors=True)
    write(site)
    for name, raw, zipped in sizes(site):
        print(f"{name:28} {raw:>12,} bytes {zipped:>12,} gzip")
    return 0


def write(site: Path, photos: Collection[str] | None = None) -> None:
    """Write a site into a folder that is not there yet; ``photos``: names of those for samples, all by default."""
    shutil.copytree(WEB / "demo", site)
    for name in SHARED_FILES:
        shutil.copy(SHARED / name, site)
    modules = site / "modules"
    shutil.copytree(PACKAGE, modules / "rdeic-web", ignore=shutil.ignore_patterns("*.d.ts", "README.md"))
    (modules / "onnxruntime-web" / "dist").mkdir(parents=True)
    for name in ("package.json", *(f"dist/{name}" for name in RUNTIME_FILES)):
        shutil.copy(RUNTIME / name, modules / "onnxruntime-web" / name)
    codecs = [rdeic_rt.load(ROOT / "engines" / name, backend="cpu") for name in BUNDLES]
    _write_bundles(site / "bundles", [codec.bundle for codec in codecs])
    _write_samples(site / "samples", codecs, photos)
    _write_list(site)


def _write_bundles(folder: Path, bundles: list[Bundle]) -> None:
    """Pack what decoding needs, as many hosts do not compress it; index.json tells which bundle has which model."""
    index = []
    for bundle in bundles:
        uses = {role: {rate.graphs[role] for rate in bundle.rates} for role in bundle.rates[0].graphs}
        decoding = set().union(*(uses[role] for role in bundle.decoding_roles))
        encoding = {form.path for name in set(bundle.graphs) - decoding for form in bundle.graphs[name].values()}
        for name in ["bundle.json", *bundle.files]:
            if bundle.folder / name not in encoding:
                target = folder / bundle.name / f"{name}.gz"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(gzip.compress((bundle.folder / name).read_bytes(), mtime=0))
        index.append({"url": f"{bundle.name}/", "model_ids": sorted({rate.model_id.hex() for rate in bundle.rates})})
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _write_samples(folder: Path, codecs: list[Codec], photos: Collection[str] | None) -> None:
    """Encode each photo with each bundle and rate, and with other codecs at the size of each file."""
    folder.mkdir()
    samples = []
    for photo, credit in _photos():
        if photos is not None and photo.name not in photos:
            continue
        with Image.open(photo) as opened:
            image = np.asarray(opened.convert("RGB"))
        shutil.copy(photo, folder)
        files = []
        for codec in codecs:
            for rate in codec.bundle.rates:
                stem = f"{photo.stem}.{codec.bundle.name}.{rate.label}"
                data = codec.encode(image, rate.label)
                (folder / f"{stem}.rdc").write_bytes(data)
                others = {}
                for name in compare.available():
                    try:
                        other = compare.compare(image, name, len(data))
                    except ImageError:  # not even 8 x 8 pixels fit
                        continue
                    path = f"{stem}.{SUFFIXES[name]}"
                    (folder / path).write_bytes(other.data)
                    others[name] = {"file": path, "bytes": other.n_bytes, "scale": other.scale}
                label = f"{codec.bundle.name}, {rate.label}"
                files.append({"label": label, "file": f"{stem}.rdc", "bytes": len(data), "others": others})
        files.sort(key=lambda file: -int(file["bytes"]))  # type: ignore[call-overload]
        samples.append(
            {
                **credit,
                "original": photo.name,
                "bytes": photo.stat().st_size,
                "height": image.shape[0],
                "width": image.shape[1],
                "files": files,
            }
        )
    (folder / "index.json").write_text(json.dumps(samples, indent=1) + "\n", encoding="utf-8")


def _photos() -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield each photo, and what the table of their README.md says of it."""
    for line in (PHOTOS / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].endswith(".jpg`"):
            yield PHOTOS / cells[0].strip("`"), {"subject": cells[2], "credit": cells[3]}


def _write_list(site: Path) -> None:
    """List what the service worker fetches when it is installed, and what it keeps once it was fetched.

    Weights are no part of either: the package keeps them itself, with their hashes compared.
    """
    version = hashlib.sha256()
    names = []
    for path in sorted(path for path in site.rglob("*") if path.is_file() and path.name != "service-worker.js"):
        names.append(path.relative_to(site).as_posix())
        version.update(f"{names[-1]} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    runtime = [name for name in names if name.startswith("modules/onnxruntime-web/")]
    weights = [name for name in names if name.startswith("bundles/") and name != "bundles/index.json"]
    lists = {
        "version": version.hexdigest()[:16],
        "first": [name for name in names if name not in {*runtime, *weights}],
        "onUse": runtime,
    }
    text = f"self.SITE = {json.dumps(lists, indent=1)};\n"
    (site / "service-worker-files.js").write_text(text, encoding="utf-8")


def sizes(site: Path) -> Iterator[tuple[str, int, int]]:
    """Yield each part of a site, its bytes, and those that a server with gzip sends."""
    parts: dict[str, list[bytes]] = {}
    for path in sorted(path for path in site.rglob("*") if path.is_file()):
        folders = path.relative_to(site).parts[:-1]
        parts.setdefault("/".join(folders[:2]) or "page", []).append(path.read_bytes())
    for name, contents in parts.items():
        yield name, sum(map(len, contents)), sum(len(gzip.compress(content)) for content in contents)


if __name__ == "__main__":
    sys.exit(main())
