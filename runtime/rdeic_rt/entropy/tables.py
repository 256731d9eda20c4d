"""Fixed-point tables from the bundle: 64 Gaussian scales, the thresholds between them, and the prior of VQ indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .arrays import ArrayReader
from .coder import MAX_SYMBOL, GaussianTable
from .indices import IndexCoder
from .masses import check_masses

N_SCALES: Final = 64


@dataclass(frozen=True)
class Tables:
    """How symbols of y and VQ indices are distributed.

    Attributes:
        gaussians: the table of each scale index, narrowest first.
        thresholds: int32 [63], rising; a scale (on the grid of the networks) has the index of how many are below it.
        skip_below: symbols of a smaller scale index are not coded and are 0.
        indices: codes VQ indices.
    """

    gaussians: tuple[GaussianTable, ...]
    thresholds: NDArray[np.int32]
    skip_below: int
    indices: IndexCoder

    @staticmethod
    def from_arrays(reader: ArrayReader) -> Tables:
        """Read ``scale_*``, ``skip_below`` and ``prior_masses``; BundleCorruptError if they are unfit."""
        thresholds = reader.take("scale_thresholds", np.int32, (N_SCALES - 1,))
        reader.check((np.diff(thresholds.astype(np.int64)) > 0).all(), "'scale_thresholds' do not rise")
        lengths = reader.take("scale_lengths", np.int32, (N_SCALES,))
        even = (lengths % 2 == 0) & (lengths >= 4) & (lengths <= 2 * MAX_SYMBOL)
        reader.check(even.all(), f"'scale_lengths' are not all even numbers from 4 to {2 * MAX_SYMBOL}")
        masses = reader.take("scale_masses", np.int32, (int(lengths.sum(dtype=np.int64)),))
        tables = np.split(masses, np.cumsum(lengths)[:-1])
        for index, table in enumerate(tables):
            check_masses(reader, table, f"table {index} of 'scale_masses'")
        indices = IndexCoder.read(reader)
        return Tables(
            gaussians=tuple(GaussianTable(table) for table in tables),
            thresholds=thresholds,
            skip_below=reader.number("skip_below", 0, N_SCALES - 1),
            indices=indices,
        )

    def scale_index(self, scales: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return the scale index, uint8 0 ... 63, of each scale, int32 [n] on the grid of the networks.

        Those under ``skip_below``, which are the majority, may all be 0: nothing depends on their value.
        """
        index = np.zeros(scales.shape, np.uint8)
        coded = np.flatnonzero(scales > self.thresholds[self.skip_below - 1]) if self.skip_below else slice(None)
        index[coded] = np.searchsorted(self.thresholds, scales[coded], side="left")
        return index
