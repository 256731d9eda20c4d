"""How much memory a decode or encode holds, from the shapes that a bundle promises; librdeic counts the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from .errors import LimitExceededError
from .limits import Limits, Size
from .tensor_spec import TensorSpec

# Entropy decoding has beside each latent its integers, the tensors that networks see, hyper parameters and contexts of
# about as many channels.
_ENTROPY_BYTES = 4 + 2 + 2 * 2 + 2 * 4 + 4
# Entropy encoding has what the analysis gave on its grid, too, and what a pass makes of that.
_ENCODING_BYTES = _ENTROPY_BYTES + 4 + 4


def decode_bytes(
    outputs: Iterable[TensorSpec], latents: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], size: Size
) -> int:
    """Return how many bytes decoding an image holds at most at one time, beside what graphs work in.

    That is bounded by the size of tiles.

    Args:
        outputs: what the stages return, in order; none to count entropy decoding alone.
        latents: name -> shape of what the file is decoded to.
        sizes: batch, hz and wz of the padded image.
        size: of the image.
    """
    elements = {name: math.prod(shape) for name, shape in latents.items()}
    entropy = _ENTROPY_BYTES * sum(elements.values())
    # Of all that stages hand on, one tensor of each name; the last image once more, while tiles of it are blended; and
    # the image that the caller gets.
    handed_on, image = _handed_on(outputs, sizes)
    if not handed_on:
        return entropy
    handed_on |= {name: 4 * count for name, count in elements.items()}
    return max(entropy, sum(handed_on.values()) + image + 3 * size.height * size.width)


def encode_bytes(
    outputs: Iterable[TensorSpec], latents: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], size: Size
) -> int:
    """Return how many bytes encoding an image at one rate holds at most at one time, beside what graphs work in.

    Args:
        outputs: what the encoder's stages return.
        latents, sizes: as for `decode_bytes`.
        size: of the padded image.
    """
    # The image, and padded; what is to be coded; and the last of that once more, while tiles of it are put together, or
    # what entropy coding has beside it.
    handed_on, last = _handed_on(outputs, sizes)
    entropy = _ENCODING_BYTES * sum(map(math.prod, latents.values()))
    return 2 * 3 * size.height * size.width + sum(handed_on.values()) + max(last, entropy)


def _handed_on(outputs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return name -> bytes of the largest of these tensors, and the bytes of the last."""
    n_bytes: dict[str, int] = {}
    last = 0
    for output in outputs:
        last = math.prod(output.resolve(sizes)) * np.dtype(output.dtype).itemsize
        n_bytes[output.name] = last
    return n_bytes, last


def check(wanted: int, size: Size, limits: Limits) -> None:
    """Raise LimitExceededError if so many bytes, for an image of this size, are over ``limits.max_memory_bytes``."""
    if limits.max_memory_bytes is not None and wanted > limits.max_memory_bytes:
        raise LimitExceededError(
            f"{size.width}x{size.height} pixels take {wanted} bytes of memory: {limits.max_memory_bytes} are allowed "
            "(limit max_memory_bytes). Scale the image down, or raise the limit"
        )
