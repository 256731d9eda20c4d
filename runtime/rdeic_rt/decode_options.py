"""Options for decoding one file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .progress import CancelToken, OnProgress


@dataclass(frozen=True)
class DecodeOptions:
    """Options for decoding one file.

    Attributes:
        sharpness: lambda_s >= 0 (RDEIC, Eq. 11): 1 as trained, less is smoother, more is
            sharper; values other than 1 take up to twice the time.
        seed: of the noise, 0 <= seed < 2**64; None for the file's checksum, which makes decoding reproducible.
        steps: number of denoising steps; None for the rate's default.
        preview: decode without denoising.
        allow_partial: decode the intact part of a truncated file, as in `Codec.read_latents`.
        on_progress: called in the decoding thread before each part, with its name (``entropy`` and the stages of the
            family: ``synthesis``, ``denoise``, ``vae``), the number of parts done and the total; again, with the
            same numbers, before each further tile of a part; at the end with ``done``. Work that is replayed as one
            recording on a GPU is reported as a whole.
        cancel: a `threading.Event` or similar. Once it is set, decoding raises `CancelledError`. It is checked in every
            long loop and, while a graph runs on a CPU, every 50 ms by a separate thread: docs/serving.md.
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
