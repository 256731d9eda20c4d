"""The definition of an entropy model: named tensors <-> the two sections of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from .evaluator import Evaluator, HostEvaluator


@dataclass(frozen=True)
class Encoded:
    """The two sections of a file, and the tensors that they decode to.

    Attributes:
        z, y: the sections.
        z_is_plain: the flag of section z.
        tensors: as in `Decoded`.
    """

    z: bytes
    z_is_plain: bool
    y: bytes
    tensors: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Decoded:
    """The decoded sections of a file.

    Attributes:
        tensors: by name, each with the batch as its first dimension; exact on every machine.
        complete_slices: how many slices, from the first on, are as in the whole file.
        n_slices: number of slices.
    """

    tensors: Mapping[str, NDArray[Any]]
    complete_slices: int
    n_slices: int


class EntropyModel(Protocol):
    """Codes the tensors of one or more rates. May be used by several threads at once."""

    @property
    def model_id(self) -> bytes:
        """4 bytes that identify it in .rdc files."""

    @property
    def position_px(self) -> Mapping[str, int]:
        """Pixels along a side per position of a tensor, by name, for tensors whose grid the model defines."""

    def evaluated_by(self, choose: Callable[[HostEvaluator], Evaluator]) -> EntropyModel:
        """Return this model with its networks evaluated by the chosen evaluator; the model itself if it has none."""

    def fixed_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Return the length of both sections with ``fixed_size``, for tensors of these shapes; None if it varies."""

    def encode(
        self, tensors: Mapping[str, NDArray[Any]], *, bit_worth: float = 0.0, fixed_size: bool = False
    ) -> Encoded:
        """Return the sections that code these tensors, which are named in `families.Family.coded`.

        Args:
            tensors: of one image, each with the batch as its first dimension.
            bit_worth: squared error that the encoder may trade for a bit; 0 always chooses the nearest symbol.
            fixed_size: make the sections as long as `fixed_bytes`, even where they could be shorter.

        Raises:
            ValueError: the model cannot code a tensor, or has no fixed size (a caller's mistake).
        """

    def decode(
        self, z: bytes, z_is_plain: bool, y: bytes, shapes: Mapping[str, tuple[int, ...]], *, missing_bytes: int = 0
    ) -> Decoded:
        """Return the tensors in the sections, which are named in `families.Family.latents`.

        Args:
            z, z_is_plain, y: the file's sections and flag; the caller has compared the model's id with the file's.
            shapes: input shapes of the graphs, by name.
            missing_bytes: number of bytes missing at the end of section y: certain symbols are decoded, and the most
                likely values are used for the rest.

        Raises:
            BitstreamError: no encoder writes such sections for tensors of these shapes.
            BundleCorruptError: the model has no tensors of these shapes.
        """
