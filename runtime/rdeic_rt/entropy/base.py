"""What an entropy model is: named tensors <-> the two sections of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from .evaluator import Evaluator, HostEvaluator


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

    @property
    def position_px(self) -> Mapping[str, int]:
        """How many pixels along a side a position of a tensor stands for, by name, where the model says so."""

    def evaluated_by(self, choose: Callable[[HostEvaluator], Evaluator]) -> EntropyModel:
        """Return this model, its networks evaluated by what is chosen in place of the CPU; itself if it has none."""

    def fixed_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Return the length of both sections with ``fixed_size``, for tensors of these shapes; None if it varies."""

    def encode(
        self, tensors: Mapping[str, NDArray[Any]], *, bit_worth: float = 0.0, fixed_size: bool = False
    ) -> Encoded:
        """Return the sections that hold these tensors, as `families.Family.coded` names them.

        Args:
            tensors: of one image, each with the batch as its first dimension.
            bit_worth: how much squared error a bit is worth, where the model can choose; 0 chooses the nearest.
            fixed_size: make the sections as long as `fixed_bytes` says, even where they could be shorter.

        Raises:
            ValueError: a tensor is not what the model codes, or the model has no fixed size (a caller's mistake).
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
