"""Weights that a recipe names, without what the graphs of its bundle hold anyway: these are kept once.

    python -m training.share_weights training/weights/tiny-2/recipe.toml --bundle engines/tiny-2
    python -m training.share_weights training/weights/tiny-2/recipe.toml --whole

The first command is for a finished bundle: the files of weights then refer to it for all large tensors that it holds,
and everything that reads them gets the same tensors as before (rdeic_export/weights/in_graphs.py). The second writes
all tensors again, which must be done before a bundle that they lie in is built anew or changed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rdeic_export.weights import any_recipe, in_graphs
from rdeic_export.weights.state import read_state
from rdeic_rt.errors import RdeicError


def main() -> None:
    """Write the files, and print how large they are and what the bundle holds."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("recipe", type=Path, help="TOML file that names the weights")
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--bundle", type=Path, metavar="B", help="folder of the bundle that was built from them")
    where.add_argument("--whole", action="store_true", help="keep all tensors in the files")
    args = p.parse_args()
    try:
        files = any_recipe.load(args.recipe).files
        states = {path: read_state(path) for path in files}  # all, before one of them is written
        for path, state in states.items():
            shared = in_graphs.write(path, state, args.bundle)
            print(f"{path}: {path.stat().st_size} bytes, and {shared} in the bundle")
    except RdeicError as error:
        sys.exit(f"share_weights: {error}")


if __name__ == "__main__":
    main()
