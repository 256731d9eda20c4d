"""bpp, PSNR and MS-SSIM of every rate beside JPEG and WebP, each at the nearest size at or above ours.

    python tests/bench/rate_distortion.py PHOTOS [--bundle B] [--limit N]

Sizes are whole files over source pixels. Where a codec cannot go as low as ours, its smallest file stands, and the
table says how many times that happened. PHOTOS is a folder.
"""

from __future__ import annotations

import argparse
import io
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_msssim import ms_ssim

import rdeic_rt

QUALITIES = range(0, 96)


def main() -> None:
    """Print one row per rate and codec: means over all photos."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("photos", type=Path)
    p.add_argument("--bundle", help="bundle to measure (default: the embedded one)")
    p.add_argument("--limit", type=int, help="only the first N photos")
    args = p.parse_args()
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(args.photos.iterdir())[: args.limit]]
    codec = rdeic_rt.load(args.bundle)
    names = ("rdeic-rt", "numpy", "onnxruntime", "pillow", "pytorch-msssim")
    print(", ".join(f"{name} {version(name)}" for name in names), "on", platform.platform())
    print(f"{len(photos)} photos from {args.photos.name}, bundle {codec.bundle.name}, backend {codec.backend}\n")
    print("| rate | codec | bpp | PSNR dB | MS-SSIM | above our size |\n|---|---|---|---|---|---|")
    for rate in codec.bundle.rates:
        ours = [(len(data := codec.encode(photo, rate=rate.index)), codec.decode(data)) for photo in photos]
        rows = {"rdeic-rt": ours}
        rows |= {
            name: [nearest(photo, size, encode) for photo, (size, _) in zip(photos, ours, strict=True)]
            for name, encode in CODECS.items()
        }
        for name, coded in rows.items():
            over = sum(size > 1.1 * own for (size, _), (own, _) in zip(coded, ours, strict=True))
            print(f"| {rate.index} ({rate.label}) | {name} | {row(photos, coded)} | {over} |")


def row(photos: list[NDArray[np.uint8]], coded: list[tuple[int, NDArray[np.uint8]]]) -> str:
    """Return mean bpp, PSNR and MS-SSIM as table cells."""
    bpp = np.mean([8 * size / (p.shape[0] * p.shape[1]) for p, (size, _) in zip(photos, coded, strict=True)])
    psnr = np.mean(
        [10 * np.log10(255**2 / np.square(p.astype(float) - d).mean()) for p, (_, d) in zip(photos, coded, strict=True)]
    )
    similarity = np.mean(
        [float(ms_ssim(tensor(p), tensor(d), data_range=255)) for p, (_, d) in zip(photos, coded, strict=True)]
    )
    return f"{bpp:.4f} | {psnr:.2f} | {similarity:.4f}"


def tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    """Return float [1, 3, H, W] of uint8 [H, W, 3]."""
    return torch.tensor(image.copy()).permute(2, 0, 1)[None].float()


def nearest(
    photo: NDArray[np.uint8], size_bytes: int, encode: Callable[[Image.Image, int], bytes]
) -> tuple[int, NDArray[np.uint8]]:
    """Return the smallest file of at least ``size_bytes``, and its picture; quality is searched by bisection."""
    image = Image.fromarray(photo)
    low, high = QUALITIES[0], QUALITIES[-1]
    while low < high:
        middle = (low + high) // 2
        if len(encode(image, middle)) >= size_bytes:
            high = middle
        else:
            low = middle + 1
    data = encode(image, low)
    return len(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Return a progressive JPEG with optimised Huffman tables."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, progressive=True, optimize=True)
    return buffer.getvalue()


def webp(image: Image.Image, quality: int) -> bytes:
    """Return a lossy WebP at the slowest, best method."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


CODECS = {"JPEG": jpeg, "WebP": webp}

if __name__ == "__main__":
    main()
