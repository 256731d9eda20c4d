"""Make the golden sections of entropy model 3, once.

    python -m tests.golden.make_indices tests/golden/indices

An existing folder is never touched.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from rdeic_rt.entropy.static_prior import StaticPrior
from tests.runtime.entropy import random_model

SIZES = ((1, 1), (1, 7), (2, 2), (5, 3), (16, 24))


def main() -> None:
    """Write model and sections."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("target", type=Path, help="folder to make")
    target = p.parse_args().target
    if target.exists():
        sys.exit(f"{target} exists; golden files are never made again. A new format version gets a new folder.")
    arrays = random_model.context_arrays(seed=11)
    model = StaticPrior.load(arrays, threads=1)
    rng = np.random.default_rng(11)
    sections = {}
    for size in SIZES:
        indices = rng.integers(0, random_model.CODES, size, dtype=np.int32)
        name = "x".join(map(str, size))
        sections[f"indices_{name}"] = indices
        sections[f"section_{name}"] = np.frombuffer(model.indices.range_coded(indices), np.uint8)
    target.mkdir()
    np.savez_compressed(target / "entropy.npz", allow_pickle=False, **arrays)
    np.savez_compressed(target / "sections.npz", allow_pickle=False, **sections)


if __name__ == "__main__":
    main()
