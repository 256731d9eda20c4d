"""What the parts of decoding are worth: steps, control net and denoising itself, by four judges, on the same files.

    python -m tests.bench.ablations PHOTOS [--bundle B] [--limit N] [--steps 1 2 5]

PHOTOS is a folder. *without control* is what the denoiser makes of z_c by itself (lambda_s = 0). The last columns count
the photos on which a row is better than the preview.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

import rdeic_rt
from rdeic_eval.metrics import Judge
from rdeic_rt import DecodeOptions
from rdeic_rt.cli.eval import find_photos

JUDGES = ("st_lpips", "resnet", "lite2")
SHOWN = ("psnr_db", *(f"distance_{name}" for name in JUDGES))


def main() -> None:
    """Print one row per rate and variant: means over all photos."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("photos", help="folder, or one photo")
    p.add_argument("--bundle", help="bundle to measure (default: the embedded one)")
    p.add_argument("--limit", type=int, help="only the first N photos")
    p.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5], help="numbers of steps to try")
    args = p.parse_args()
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in find_photos([args.photos])[: args.limit]]
    codec = rdeic_rt.load(args.bundle)
    judge = Judge(list(JUDGES))
    variants = {
        "preview": DecodeOptions(preview=True),
        **{f"L = {steps}": DecodeOptions(steps=steps) for steps in args.steps},
        "without control": DecodeOptions(sharpness=0.0),
    }
    scores: dict[tuple[int, str], list[list[float]]] = {}
    for photo in photos:
        reference = judge.reference(photo)
        for rate in codec.bundle.rates:
            data = codec.encode(photo, rate.index)
            for name, options in variants.items():
                found = judge.scores(codec.decode(data, options), reference)
                scores.setdefault((rate.index, name), []).append([float(found[metric] or 0) for metric in SHOWN])
    columns = ["rate", "", "PSNR dB", *JUDGES, *(f"{name}, better than preview" for name in JUDGES)]
    print(f"{len(photos)} photos\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for (rate_index, name), rows in sorted(scores.items()):
        table, preview = np.array(rows), np.array(scores[rate_index, "preview"])
        means = [f"{table[:, 0].mean():.2f}", *(f"{mean:.3f}" for mean in table[:, 1:].mean(0))]
        better = [str(count) for count in (table[:, 1:] < preview[:, 1:]).sum(0)]
        print(f"| {rate_index} | {name} | {' | '.join([*means, *better])} |")


if __name__ == "__main__":
    main()
