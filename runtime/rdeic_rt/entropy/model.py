"""EntropyModel: the arrays of a bundle's entropy .npz, checked and ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from . import arrays as arrays_module
from .arrays import ArrayReader, Arrays
from .coder import MAX_SYMBOL
from .layers import WIDE_LIMIT, MatMul, matmul_of_onnxruntime
from .nets import HyperNet, SliceNets
from .order import slices_of
from .tables import Tables

VERSION: Final = 1
GRID_BITS: Final = 8
"""y_hat and means are multiples of 2**-8."""
Y_LIMIT: Final = (MAX_SYMBOL << GRID_BITS) + WIDE_LIMIT  # under 2**24, so float32 holds y_hat exactly


@dataclass(frozen=True)
class EntropyModel:
    """Integer networks and tables of one rate. May be used by several threads at once.

    Attributes:
        model_id: 4 bytes that name it in .rdc files.
        hyper: VQ indices -> hyper parameters.
        slices: the networks of each slice of y, in coding order.
        tables: distributions of symbols and VQ indices.
        matmul: the matrix product the networks run on.
    """

    model_id: bytes
    hyper: HyperNet
    slices: tuple[SliceNets, ...]
    tables: Tables
    matmul: MatMul

    @staticmethod
    def load(arrays: Arrays, threads: int | None = None) -> EntropyModel:
        """Return the model in these arrays (docs/format.md, "Arrays of the entropy model").

        Args:
            arrays: name -> array, all of the .npz file.
            threads: for the matrix products; None for one per core.

        Raises:
            BundleCorruptError: an array is missing, unknown, or holds what it must not.
        """
        reader = ArrayReader(arrays)
        reader.number("version", VERSION, VERSION)
        widths = reader.take("slices", np.int32, (None,))
        reader.check(widths.min() >= 1, "'slices' has a width under 1")
        tables = Tables.from_arrays(reader)
        hyper = HyperNet.read(reader, tables.prior.size)
        slices = tuple(SliceNets.read(reader, s, hyper.width, Y_LIMIT) for s in slices_of(tuple(widths.tolist())))
        reader.close()
        return EntropyModel(arrays_module.model_id(arrays), hyper, slices, tables, matmul_of_onnxruntime(threads))

    @property
    def y_channels(self) -> int:
        """M, channels of y."""
        return self.slices[-1].slice.stop
