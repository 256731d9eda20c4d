"""What an entropy model is: named tensors <-> the two sections of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoded:
    """The two sections of a file, and what the decoder will make of them.

    Attributes:
        z, y: the sections.
        z_is_plain: the flag of section z.
        tensors: as `Decoded` has them.
    """

    z: bytes
    z_is_plain: bool
    y: bytes
    tensors: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Decoded:
    """What the sections of a file hold.

    Attributes:
        tensors: by name, each with the batch as its first dimension; exact on every machine.
        complete_slices: how many parts are as in the whole file, from the first on.
        n_slices: how many there are.
    """

    tensors: Mapping[str, NDArray[Any]]
    complete_slices: int
    n_slices: int


class EntropyModel(Protocol):
    """Codes the tensors of one rate or more. May be used by several threads at once."""

    @property
    def model_id(self) -> bytes:
        """4 bytes that name it in .rdc files."""

    def encode(self, tensors: Mapping[str, NDArray[Any]], *, bit_worth: float = 0.0) -> Encoded:
        """Return the sections that hold these tensors, as `families.Family.coded` names them.

        Args:
            tensors: of one image, each with the batch as its first dimension.
            bit_worth: how much squared error a bit is worth, where the model can choose; 0 chooses the nearest.

        Raises:
            ValueError: a tensor is not what the model codes (a caller's mistake).
        """

    def decode(
        self, z: bytes, z_is_plain: bool, y: bytes, shapes: Mapping[str, tuple[int, ...]], *, missing_bytes: int = 0
    ) -> Decoded:
        """Return the tensors that the sections hold, as `families.Family.latents` names them.

        Args:
            z, z_is_plain, y: the file's sections and flag; the caller has compared the model's id with the file's.
            shapes: what the graphs take, by name.
            missing_bytes: how many bytes section y has lost at its end: what is certain is decoded, and the rest is
                what is most likely.

        Raises:
            BitstreamError: the sections are not what an encoder writes for any tensors of these shapes.
            BundleCorruptError: the model makes no tensors of these shapes.
        """
