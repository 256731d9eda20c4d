"""Where the embedded model fails, for its model card: details of the test photos and a printed page, at every rate.

    python tests/bench/failure_modes.py --out failure_modes.png [--bundle B]

Each photo is coded whole; the sheet shows a detail of it, enlarged twice, a row for each, the original first.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import rdeic_rt

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
SIDE_PX, ENLARGED = 96, 2
TEXT_PX, GAP_PX = 13, 4
# What is shown, the photo, and the upper left corner of the detail.
DETAILS = (
    ("a face", "astronaut.jpg", (120, 60)),
    ("lettering", "astronaut.jpg", (75, 310)),
    ("whiskers and fur", "chelsea.jpg", (120, 200)),
    ("a lattice", "rocket.jpg", (0, 60)),
    ("wood grain", "coffee.jpg", (400, 60)),
)
PAGE = "Where a detail has to be evidence, as in documents, medicine and surveillance, use another codec. 0123456789 "


def main() -> None:
    """Write the sheet."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="image file")
    p.add_argument("--bundle", help="bundle to show (default: the embedded one)")
    args = p.parse_args()
    codec = rdeic_rt.load(args.bundle)
    sources = {name: Image.open(PHOTOS / name).convert("RGB") for _, name, _ in DETAILS} | {"": printed_page()}
    rows = [*DETAILS, ("a printed page", "", (40, 40))]
    side = SIDE_PX * ENLARGED
    columns = 1 + len(codec.bundle.rates)
    sheet = Image.new("RGB", (columns * (side + GAP_PX), len(rows) * (side + TEXT_PX + 2 * GAP_PX)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TEXT_PX)
    for row, (title, name, (left, top)) in enumerate(rows):
        photo = sources[name]
        images = [(title, photo)]
        for rate in codec.bundle.rates:
            data = codec.encode(photo, rate=rate.index)
            bpp = 8 * len(data) / (photo.width * photo.height)
            images.append((f"rate {rate.index}, {bpp:.3f} bpp", Image.fromarray(codec.decode(data))))
        for column, (text, image) in enumerate(images):
            detail = image.crop((left, top, left + SIDE_PX, top + SIDE_PX))
            x, y = column * (side + GAP_PX), row * (side + TEXT_PX + 2 * GAP_PX)
            pen.text((x, y), text, fill="black", font=font)
            sheet.paste(detail.resize((side, side), Image.Resampling.NEAREST), (x, y + TEXT_PX + GAP_PX))
    sheet.save(args.out)


def printed_page() -> Image.Image:
    """Return 320x320 pixels of black text on white paper, with a little noise."""
    page = Image.new("L", (320, 320), 245)
    lines = textwrap.fill(PAGE * 8, 40)
    ImageDraw.Draw(page).text((10, 10), lines, fill=20, font=ImageFont.load_default(size=14), spacing=4)
    noise = np.random.default_rng(0).normal(0, 2, (320, 320))
    return Image.fromarray((np.asarray(page) + noise).clip(0, 255).astype(np.uint8)).convert("RGB")


if __name__ == "__main__":
    main()
