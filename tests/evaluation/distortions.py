"""Ways to spoil an image, for the tests of what judges it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor


def signed(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 127.5 - 1


def jpeg(image: NDArray[np.uint8], quality: float) -> NDArray[np.uint8]:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


def blurred(image: NDArray[np.uint8], radius_px: float) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius_px)))


def redder(image: NDArray[np.uint8], levels: float) -> NDArray[np.uint8]:
    """Shift Cr everywhere, and leave luma."""
    ycbcr = np.array(Image.fromarray(image).convert("YCbCr"), np.float32)
    ycbcr[..., 2] += levels
    return np.asarray(Image.fromarray(ycbcr.clip(0, 255).astype(np.uint8), "YCbCr").convert("RGB"))


def lattice(image: NDArray[np.uint8], levels: float) -> NDArray[np.uint8]:
    """Add a pattern of 4x4 pixels, of mean 0."""
    pattern = np.random.default_rng(0).normal(size=(4, 4, 1))
    tiled = np.tile(pattern - pattern.mean(), (image.shape[0] // 4, image.shape[1] // 4, 1))
    return (image + levels * tiled).clip(0, 255).astype(np.uint8)
