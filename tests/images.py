"""How tests draw, write and measure images."""

from __future__ import annotations

import io
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """Return an image as a file."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples: NDArray[np.uint8] | NDArray[np.uint16], *chunks: bytes, bits: int = 0) -> bytes:
    """Return a PNG file with these chunks before its image data.

    Args:
        samples: [H, W, channels], of 1 (grey), 2 (with alpha), 3 (RGB) or 4 channels.
        chunks: whole ones, see `png_chunk`.
        bits: of grey samples of fewer than 8; 0: those of the array.
    """
    height, width, channels = samples.shape
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    depth = bits or 8 * samples.itemsize
    if bits:
        whole = np.zeros((height, -(-width * bits // 8) * 8 // bits), np.uint8)
        whole[:, :width] = rows
        shifts = np.arange(8 - bits, -1, -bits)
        rows = (whole.reshape(height, -1, 8 // bits) << shifts).sum(2).astype(np.uint8)
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", data), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_png_chunks(data: bytes, *chunks: bytes) -> bytes:
    """Return a PNG file with more chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def psnr_db(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images of one shape, infinite for equal ones."""
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def high_frequency_energy(image: NDArray[np.uint8]) -> float:
    """Return how sharp a uint8 image [H, W, 3] is: the mean square of luma minus its Gaussian blur of 1 px."""
    luma = Image.fromarray(image).convert("L")
    blurred = luma.filter(ImageFilter.GaussianBlur(1.0))
    return float(np.square(np.asarray(luma, np.float64) - np.asarray(blurred, np.float64)).mean())
