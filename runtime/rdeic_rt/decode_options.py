"""How one file is decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .progress import CancelToken, OnProgress


@dataclass(frozen=True)
class DecodeOptions:
    """How one file is decoded.

    Attributes:
        sharpness: lambda_s >= 0 (RDEIC, Eq. 11): 1 is what the model was trained for, less is smoother, more is
            sharper; anything but 1 takes up to twice the time.
        seed: 0 <= seed < 2**64, of the noise; None for the file's checksum, so that decoding is reproducible.
        steps: denoising steps; None for the rate's own number.
        preview: what is in the file as it is, without denoising.
        allow_partial: make the best of a file that is cut short, as `Codec.read_latents` does.
        on_progress: called in the thread that decodes, before each part, with its name (``entropy``, and what the
            family has: ``synthesis``, ``denoise``, ``vae``), the number of parts done and of all parts; again, with the
            same numbers, before each further tile of a part; in the end with ``done``. Work that is replayed as one
            recording on a GPU is told of as a whole.
        cancel: a `threading.Event` will do. Once it is set, decoding ends in `CancelledError`. It is asked in every
            loop that takes long and, while a graph runs on a CPU, every 50 ms by a thread beside it: docs/serving.md.
    """

    sharpness: float = 1.0
    seed: int | None = None
    steps: int | None = None
    preview: bool = False
    allow_partial: bool = False
    on_progress: OnProgress | None = None
    cancel: CancelToken | None = None

    def check(self) -> None:
        """Raise ValueError for a sharpness or a seed out of range; steps depend on the file."""
        if not math.isfinite(self.sharpness) or self.sharpness < 0:
            raise ValueError(f"sharpness is {self.sharpness}; it must be a finite number, 0 or more")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to 2**64 - 1")
