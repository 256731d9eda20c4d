"""What Python makes of files given in hexadecimal, a line each: what parity.cc prints in its mode ``latents``.

    python -m tests.conformance.latents BUNDLE      RESULT [SHA-256 of the latents]

`promises` runs this in an emulated Python. It needs nothing but what rdeic_rt does, and at its end names the range
coder on stderr.
"""

from __future__ import annotations

import hashlib
import platform
import sys

import numpy as np

import rdeic_rt
from rdeic_rt import errors
from rdeic_rt.codec import Codec
from rdeic_rt.entropy import coder

# The numbers of rdeic.h.
RESULTS: dict[type[errors.RdeicError], int] = {
    errors.NotRdcError: 40,
    errors.TruncatedError: 41,
    errors.UnsupportedVersionError: 42,
    errors.LimitExceededError: 43,
    errors.ChecksumError: 44,
    errors.BitstreamError: 45,
    errors.BundleError: 50,
    errors.BundleNotFoundError: 51,
    errors.BundleCorruptError: 52,
    errors.BundleMismatchError: 53,
    errors.BackendError: 60,
    errors.DeviceMemoryError: 62,
}


def main() -> None:
    """Read lines until there are no more."""
    codec = rdeic_rt.load(sys.argv[1], backend="cpu", threads=1)
    for line in sys.stdin:
        print(*expected(codec, bytes.fromhex(line)), flush=True)
    name = coder.implementation().__name__.rpartition(".")[2]
    print(f"Python {platform.python_version()}, {platform.machine()}, {name}", file=sys.stderr)


def expected(codec: Codec, data: bytes) -> tuple[int, str]:
    """Return the number of what Python makes of a file, and the SHA-256 of all latents, in the order of their names."""
    try:
        tensors = codec.read_latents(data).tensors
    except errors.RdeicError as error:
        return RESULTS[type(error)], ""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return 0, digest.hexdigest()


if __name__ == "__main__":
    main()
