"""The memory that decoding and encoding hold, computed from the shapes in a bundle; librdeic computes the same."""

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
# Encoding also has the values on their grid, and the symbols until all are known.
_ENCODING_BYTES = _ENTROPY_BYTES + 4 + 4


def decode_bytes(
    outputs: Iterable[TensorSpec], latents: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], size: Size
) -> int:
    """Return the peak number of bytes that decoding an image holds, without the working memory of graphs.

    The size of tiles bounds the latter.

    Args:
        outputs: what the stages return, in order; none to count entropy decoding alone.
        latents: name -> shape of the tensors that the file is decoded to.
        sizes: batch, hz and wz of the padded image.
        size: of the image.
    """
    elements = {name: math.prod(shape) for name, shape in latents.items()}
    entropy = _ENTROPY_BYTES * sum(elements.values())
    # One tensor of each name that stages pass on; the last image a second time, while its tiles are blended; and
    # the image that the caller receives.
    handed_on: dict[str, int] = {}
    image = 0
    for output in outputs:
        image = math.prod(output.resolve(sizes)) * np.dtype(output.dtype).itemsize
        handed_on[output.name] = image
    if not handed_on:
        return entropy
    handed_on |= {name: 4 * count for name, count in elements.items()}
    return max(entropy, sum(handed_on.values()) + image + 3 * size.height * size.width)


def encode_bytes(
    tensors: Iterable[TensorSpec], latents: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], size: Size
) -> int:
    """Return how many bytes encoding holds at most at one time, image included, beside what graphs work in.

    Args:
        tensors: what the analysis is given, the padded image, and what it returns.
        latents, sizes, size: as of `decode_bytes`.
    """
    around = sum(math.prod(tensor.resolve(sizes)) * np.dtype(tensor.dtype).itemsize for tensor in tensors)
    elements = sum(math.prod(shape) for shape in latents.values())
    return 3 * size.height * size.width + around + _ENCODING_BYTES * elements


def check(wanted: int, size: Size, limits: Limits) -> None:
    """Raise LimitExceededError if an image takes more than ``limits.max_memory_bytes``."""
    if limits.max_memory_bytes is not None and wanted > limits.max_memory_bytes:
        raise LimitExceededError(
            f"{size.width}x{size.height} pixels take {wanted} bytes of memory: {limits.max_memory_bytes} are allowed "
            "(limit max_memory_bytes). Scale the image down, or raise the limit"
        )
