"""What the sharpness lambda_s does: high-frequency energy, PSNR and MS-SSIM from 0 to 1.5, and a sheet to look at.

    python -m tests.bench.sharpness PHOTOS [--bundle B] [--limit N] [--sheet F] [--crop-px N]

The high-frequency energy (`tests.images`) is relative to the photo's own: 1 means as sharp as the photo.
The last column counts the photos on which it is higher than at the lambda_s before. PHOTOS is a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tests.images import high_frequency_energy

import rdeic_rt
from rdeic_eval import metrics
from rdeic_eval.psnr import psnr_db
from rdeic_rt import DecodeOptions
from rdeic_rt.cli.eval import find_photos

SHARPNESS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SHOWN = (0.0, 0.5, 1.0, 1.5)
TEXT_PX = 14


def main() -> None:
    """Print one row per rate and lambda_s: means over all photos."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("photos", help="folder, or one photo")
    p.add_argument("--bundle", help="bundle to measure (default: the embedded one)")
    p.add_argument("--limit", type=int, help="only the first N photos")
    p.add_argument("--sheet", type=Path, help="write a picture: the first photos at some values, a row for each")
    p.add_argument("--crop-px", type=int, default=240, help="side of the part that the sheet shows")
    args = p.parse_args()
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in find_photos([args.photos])[: args.limit]]
    codec = rdeic_rt.load(args.bundle)
    print("| rate | lambda_s | high-frequency energy | PSNR dB | MS-SSIM | growing |\n|---|---|---|---|---|---|")
    for rate in codec.bundle.rates:
        files = [codec.encode(photo, rate=rate.index) for photo in photos]
        energies: list[list[float]] = []
        for sharpness in SHARPNESS:
            decoded = [codec.decode(data, DecodeOptions(sharpness=sharpness)) for data in files]
            pairs = list(zip(photos, decoded, strict=True))
            energies.append([high_frequency_energy(d) / high_frequency_energy(photo) for photo, d in pairs])
            psnr = np.mean([psnr_db(*pair) for pair in pairs])
            similarity = np.mean([metrics.ms_ssim(*pair) for pair in pairs])
            grown = [a < b for a, b in zip(energies[-2], energies[-1], strict=True)] if len(energies) > 1 else []
            share = f"{sum(grown)} of {len(grown)}" if grown else ""
            row = f"{rate.index} | {sharpness} | {np.mean(energies[-1]):.3f} | {psnr:.2f} | {similarity:.4f} | {share}"
            print(f"| {row} |", flush=True)
    if args.sheet:
        sheet(codec, photos[:3], args.crop_px).save(args.sheet)


def sheet(codec: rdeic_rt.Codec, photos: list[NDArray[np.uint8]], side_px: int) -> Image.Image:
    """Return the middle of each photo, decoded with the values of ``SHOWN``, a row per photo, the photo itself last."""
    page = Image.new("RGB", ((len(SHOWN) + 1) * (side_px + 4), len(photos) * (side_px + TEXT_PX + 8)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=TEXT_PX)
    for row, photo in enumerate(photos):
        data = codec.encode(photo)
        top, left = ((side - side_px) // 2 for side in photo.shape[:2])
        pictures = {f"lambda_s = {s:g}": codec.decode(data, DecodeOptions(sharpness=s)) for s in SHOWN} | {
            "photo": photo
        }
        for column, (text, picture) in enumerate(pictures.items()):
            x, y = column * (side_px + 4), row * (side_px + TEXT_PX + 8)
            pen.text((x, y), text, fill="black", font=font)
            page.paste(Image.fromarray(picture[top : top + side_px, left : left + side_px]), (x, y + TEXT_PX + 4))
    return page


if __name__ == "__main__":
    main()
