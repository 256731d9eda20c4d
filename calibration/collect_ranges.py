"""Photos in, activation ranges out, for 8-bit builds of a bundle.

    python calibration/collect_ranges.py --photos photos/                       # the embedded bundle
    python calibration/collect_ranges.py --bundle engines/my --photos photos/ --output calibration/ranges/my.json
    python calibration/collect_ranges.py --bundle engines/sd21 --photos photos/ --output my.json --blocks --forms signed

Every photo is encoded and decoded at every rate, in float32 on the CPU, while the graphs report what is inside them
(``export/rdeic_export/calibration/calibrate.py``). Then each layer is tried in 8 bits alone, to find those that must
not be (``sensitivity.py``). The same bundle and photos give the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rdeic_export.calibration import calibrate, sensitivity
from rdeic_export.forms import quantize
from rdeic_export.forms.ranges import FORMS, METHODS
from rdeic_export.photos import photos_in
from rdeic_rt.cli.failures import exit_code
from rdeic_rt.errors import RdeicError

ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, and return the process's exit code."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("rdeic_export").setLevel(logging.INFO)
    try:
        photos = [path for source in args.photos for path in photos_in(source)]
        ranges = calibrate.collect(args.bundle, photos, threads=args.threads)
        if args.sensitivity_photos:
            chosen = photos[:: -(-len(photos) // args.sensitivity_photos)]
            ranges = sensitivity.measure(
                args.bundle,
                ranges,
                chosen,
                method=args.method,
                budget_db=args.budget_db,
                forms=args.forms,
                by_block=args.blocks,
                threads=args.threads,
            )
        ranges.save(args.output)
        if args.set is not None:
            args.set.write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in sorted(photos)))
    except (RdeicError, OSError) as error:
        print(f"collect_ranges: {error}", file=sys.stderr)
        return exit_code(error)
    return 0


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=ROOT / "engines/tiny-2", help="folder (default: engines/tiny-2)")
    p.add_argument("--photos", type=Path, nargs="+", required=True, help="photos or folders of photos, a few dozen")
    p.add_argument(
        "--output",
        type=Path,
        default=ROOT / "calibration/ranges/tiny-2.json",
        help="the file to write (default: calibration/ranges/tiny-2.json)",
    )
    p.add_argument("--set", type=Path, help="also write the photos' names and SHA-256 to this file")
    p.add_argument("--threads", type=int, help="CPU threads (default: one per physical core)")
    p.add_argument(
        "--sensitivity-photos",
        type=int,
        default=2,
        metavar="N",
        help="photos to try single layers on; 0 to keep every layer in 8 bits (default: 2)",
    )
    p.add_argument(
        "--blocks",
        action="store_true",
        help="try blocks of the network, not single layers, and keep whole blocks in floating point: a full-size model "
        "takes minutes so, not hours",
    )
    p.add_argument(
        "--forms",
        choices=FORMS,
        nargs="+",
        default=FORMS,
        help="forms that layers are tried in: signed is for TensorRT, unsigned-cpu for CPUs (default: both)",
    )
    p.add_argument(
        "--method",
        choices=METHODS,
        default=quantize.DEFAULT_METHOD,
        help=f"how scales are chosen when layers are tried (default: {quantize.DEFAULT_METHOD})",
    )
    p.add_argument(
        "--budget-db",
        type=float,
        default=sensitivity.BUDGET_DB,
        help="signal to noise ratio that the 8-bit layers of a graph must leave its outputs; more keeps more layers in"
        f" floating point (default: {sensitivity.BUDGET_DB:g})",
    )
    return p


if __name__ == "__main__":
    sys.exit(main())
