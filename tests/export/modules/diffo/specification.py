"""What is easy to get wrong, a second time in plain numpy loops: attention mask, schedule, quantiser and codebook.

Nothing of ``rdeic_export``. Facts about the released code (Freemasti/DiffO, commit dd56f49); none of its code.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def released_mask(height: int, width: int, window: int, shift: int) -> NDArray[np.float64]:
    """[windows, tokens, tokens]: -100 in the last row of windows, across column window - shift inside a window."""
    rows, columns, n = height // window, width // window, window * window
    mask = np.zeros((rows * columns, n, n))
    for number in range((rows - 1) * columns, rows * columns):
        for query in range(n):
            for key in range(n):
                if (query % window >= window - shift) != (key % window >= window - shift):
                    mask[number, query, key] = -100.0
    return mask


def textbook_mask(height: int, width: int, window: int, shift: int) -> NDArray[np.float64]:
    """The same shape: -100 between tokens that were no neighbours before the map was rolled."""
    columns, n = width // window, window * window
    mask = np.zeros((height // window * columns, n, n))
    for number in range(len(mask)):
        top, left = number // columns * window, number % columns * window
        for query in range(n):
            for key in range(n):
                q_row, q_column = top + query // window, left + query % window
                k_row, k_column = top + key // window, left + key % window
                wrapped = ((q_row >= height - shift), (q_column >= width - shift))
                if wrapped != ((k_row >= height - shift), (k_column >= width - shift)):
                    mask[number, query, key] = -100.0
    return mask


def window_attention(x: Array, weights: dict[str, Array], window: int, shift: int, mask: Array | None) -> Array:
    """Attention of a map [C, H, W], token by token; ``weights`` are those of the released layout's ``attn``."""
    channels, height, width = x.shape
    table = weights["relative_position_bias_table"]
    heads = table.shape[1]
    dim = channels // heads
    out = np.zeros((channels, height, width))
    number = 0
    for top in range(0, height, window):
        for left in range(0, width, window):
            # Where the token of a window comes from, before the roll by -shift.
            places = [
                ((top + i + shift) % height, (left + j + shift) % width) for i in range(window) for j in range(window)
            ]
            tokens = np.stack([x[:, r, c] for r, c in places])
            qkv = tokens @ weights["qkv.weight"].T + weights["qkv.bias"]
            q, k, v = qkv[:, :channels], qkv[:, channels : 2 * channels], qkv[:, 2 * channels :]
            joined = np.zeros_like(q)
            for head in range(heads):
                own = slice(head * dim, (head + 1) * dim)
                logits = q[:, own] @ k[:, own].T * dim**-0.5
                for a in range(window * window):
                    for b in range(window * window):
                        dr, dc = a // window - b // window, a % window - b % window
                        row = (dr + window - 1) * (2 * window - 1) + dc + window - 1
                        logits[a, b] += table[row, head] + (0.0 if mask is None else mask[number, a, b])
                share = np.exp(logits - logits.max(1, keepdims=True))
                joined[:, own] = share / share.sum(1, keepdims=True) @ v[:, own]
            joined = joined @ weights["proj.weight"].T + weights["proj.bias"]
            for (r, c), token in zip(places, joined, strict=True):
                out[:, r, c] = token
            number += 1
    return out


def sqrt_eta(t: int, kappa: float, end: float, minimum: float, power: float, n: int) -> float:
    """Exponential in the index, from the smallest of three bounds to ``end``."""
    first = min(minimum / kappa, minimum, math.sqrt(0.001))
    return float(first * (end / first) ** ((t / (n - 1)) ** power))


def indices(z: Array, codes: Array) -> list[int]:
    """First nearest row of ``codes`` [K, D] to each row of z [n, D]."""
    out = []
    for vector in z.astype(np.float64):
        distances = [float(((vector - code) ** 2).sum()) for code in codes.astype(np.float64)]
        out.append(distances.index(min(distances)))
    return out


def update(z: Array, hit: list[int], cluster_size: Array, embed_avg: Array) -> tuple[Array, Array, Array]:
    """(weight, cluster_size, embed_avg) after one update of the codebook with rows of z that hit the given codes."""
    decay, eps = 0.99, 1e-5
    sizes, sums = decay * cluster_size.astype(np.float64), decay * embed_avg.astype(np.float64)
    for vector, index in zip(z.astype(np.float64), hit, strict=True):
        sizes[index] += (1 - decay) * 1
        sums[index] += (1 - decay) * vector
    n = sizes.sum()
    smoothed = (sizes + eps) / (n + len(sizes) * eps) * n
    return sums / smoothed[:, None], sizes, sums
