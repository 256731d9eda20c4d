"""Arrays of small entropy models with random integers: every kind of layer, no training and no torch.

Multipliers are chosen from the weights so that tensors use their range, scales reach tables 0 to about 30, and means
some symbols to either side.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdeic_rt.entropy import Decoded, Encoded
from rdeic_rt.entropy.hyperprior import Hyperprior

Arrays = dict[str, NDArray[Any]]

SLICES = (4, 4, 8)
CODES, CODE_WIDTH = 40, 8
HYPER = ((1, 12), (1, 12), (0, 16), (0, 20))  # (doubles, outputs) of each block
SHIFT = 24


def arrays(seed: int = 0, *, skip_below: int = 4, flat_prior: bool = False) -> Arrays:
    """Return a valid model; everything but the tables depends on the seed."""
    made: Arrays = {
        "version": np.array([1], np.int32),
        "slices": np.array(SLICES, np.int32),
        "skip_below": np.array([skip_below], np.int32),
        "codebook": _rng(seed, "codebook").integers(0, 1 << 16, (CODES, CODE_WIDTH), dtype=np.uint16),
        "hyper.doubles": np.array([doubles for doubles, _ in HYPER], np.uint8),
    }
    made |= _tables(flat_prior)
    channels = CODE_WIDTH
    for index, (doubles, outputs) in enumerate(HYPER):
        name, kernel, repeat = f"hyper.{index}", 1 if doubles else 3, 4 if doubles else 1
        _layer(made, seed, f"{name}.first", kernel, {"": channels}, outputs * repeat, "lut")
        _layer(made, seed, f"{name}.second", 3, {"": outputs}, outputs, "wide")
        _layer(made, seed, f"{name}.skip", 1, {"": channels}, outputs * repeat, "wide")
        made[f"{name}.slope"] = np.array([6554 if doubles else 655], np.int32)
        _requantize(made, f"{name}.out", outputs, 1 << 15)
        channels = outputs
    start = 0
    for i, width in enumerate(SLICES):
        _requantize(made, f"y.{i}", width, 12 << 8)
        made[f"y.{i}.zero"] = np.full(width, 32896, np.uint16)
        inputs = {".hyper": channels}
        if i:
            _layer(made, seed, f"channel.{i}.0", 5, {"": start}, 12, "lut", fine=False)
            _layer(made, seed, f"channel.{i}.1", 5, {"": 12}, 8, "lut", fine=False)
            _layer(made, seed, f"channel.{i}.2", 5, {"": 8}, 2 * width, "levels", fine=False)
            inputs[".channel"] = 2 * width
        _layer(made, seed, f"local.{i}", 5, {"": width}, 2 * width, "levels")
        for name, seen in (("anchor", inputs), ("nonanchor", {**inputs, ".local": 2 * width})):
            _layer(made, seed, f"{name}.{i}.0", 1, seen, 14, "lut")
            _layer(made, seed, f"{name}.{i}.1", 1, {"": 14}, 10, "lut")
            _layer(made, seed, f"{name}.{i}.2", 1, {"": 10}, 2 * width, "parameters")
        start += width
    return made


def model(seed: int = 0, threads: int | None = 1, **options: Any) -> Hyperprior:
    """Return the model that `arrays` describes."""
    return Hyperprior.load(arrays(seed, **options), threads)


def context_arrays(seed: int = 0, *, codes: int = CODES, classes: int = 5) -> Arrays:
    """Return a valid model of indices with a context model: one coarse input, kernels of 3x3 and 5x5."""
    rng = _rng(seed, "context")
    made: Arrays = {
        "version": np.array([3], np.int32),
        "index_px": np.array([16], np.int32),
        "prior_masses": _masses(0.9 ** np.arange(codes)),
        "codebook": rng.integers(0, 1 << 16, (codes, CODE_WIDTH), dtype=np.uint16),
        "class_weights": rng.integers(0, 256, (classes, codes), dtype=np.uint8),
    }
    for number in (1, 2, 3):
        name = f"context.{number}"
        inputs = {f".{earlier}": CODE_WIDTH for earlier in range(number)}
        _layer(made, seed, f"{name}.0", 5 if number == 2 else 3, inputs, 12, "lut", fine=number != 3)
        _layer(made, seed, f"{name}.1", 1, {"": 12}, 10, "lut", centre_level=8_000)
        _layer(made, seed, f"{name}.2", 1, {"": 10}, classes, "wide", centre_level=8_000)
    return made


def latents(seed: int, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return (y, VQ indices) with a few large values, for height x width VQ indices."""
    rng = _rng(seed, "latents")
    y = 3 * rng.standard_normal((sum(SLICES), 4 * height, 4 * width), dtype=np.float32)
    y[rng.random(y.shape) < 0.01] *= 40
    return y, rng.integers(0, CODES, (height, width), dtype=np.int32)


def _rng(seed: int, key: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(key.encode())])


def _layer(
    made: Arrays,
    seed: int,
    name: str,
    kernel: int,
    inputs: dict[str, int],
    outputs: int,
    end: str,
    *,
    fine: bool = True,
    centre_level: int = 32_768,
) -> None:
    rng = _rng(seed, name)
    spread = {"lut": 600.0, "levels": 12_000.0, "wide": 9_000.0, "parameters": 0.0}[end]
    centre = np.full(outputs, {"levels": 32_768.0}.get(end, 0.0))
    spreads = np.full(outputs, spread)
    if end == "parameters":
        half = outputs // 2
        spreads = np.concatenate([np.full(half, 2500.0), np.full(half, 600.0)])
        centre = np.concatenate([np.full(half, 600.0), np.zeros(half)])
    offset = centre * 2.0**SHIFT
    for part, channels in inputs.items():
        weight = np.clip(np.rint(rng.normal(0, 22, (kernel, kernel, channels, outputs))), -64, 64).astype(np.int8)
        made[f"{name}{part}.weight"] = weight
        one = 20_000 * 128 * 22 if fine else 78 * 22  # standard deviation of one product
        if fine:
            made[f"{name}{part}.weight_low"] = rng.integers(-64, 64, weight.shape, dtype=np.int8)
        deviation = one * math.sqrt(kernel * kernel * channels * len(inputs))
        mult = np.maximum(1, np.rint(spreads / deviation * 2.0**SHIFT)).astype(np.int32)
        made[f"{name}{part}.mult"] = mult
        level = centre_level * 128 if fine else centre_level >> 8
        offset -= mult * level * weight.sum((0, 1, 2), dtype=np.int64)
        if kernel > 1:
            made[f"{name}{part}.zero"] = rng.integers(32_000, 33_500, channels, dtype=np.uint16)
    made[f"{name}.offset"] = np.rint(offset).astype(np.int64)
    made[f"{name}.shift"] = np.array([SHIFT], np.int32)
    if end == "lut":
        x = np.arange(-2048, 2048) / 600
        gelu = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
        made[f"{name}.lut"] = np.clip(np.rint((gelu + 0.17) * 18_000), 0, 65_535).astype(np.uint16)


def _requantize(made: Arrays, name: str, channels: int, reach: int) -> None:
    """Bring -reach ... reach to 0 ... 65535."""
    made[f"{name}.mult"] = np.full(channels, round(32_768 / reach * (1 << 12)), np.int32)
    made[f"{name}.offset"] = np.full(channels, (32_896 << 12) + (1 << 11), np.int64)
    made[f"{name}.shift"] = np.array([12], np.int32)


def _tables(flat_prior: bool) -> Arrays:
    sigmas = 0.11 * (256 / 0.11) ** (np.arange(64) / 63)
    tables = [_gaussian(float(sigma)) for sigma in sigmas]
    prior = np.full(CODES, 1.0) if flat_prior else 0.7 ** np.arange(CODES)
    return {
        "scale_thresholds": np.floor(np.sqrt(sigmas[:-1] * sigmas[1:]) * 4096).astype(np.int32),
        "scale_lengths": np.array([t.size for t in tables], np.int32),
        "scale_masses": np.concatenate(tables),
        "prior_masses": _masses(prior),
    }


def _gaussian(sigma: float) -> NDArray[np.int32]:
    radius = math.ceil(6 * sigma)
    cdf = [math.erfc(-(k - 0.5) / sigma / math.sqrt(2)) / 2 for k in range(-radius, radius + 2)]
    return _masses(np.append(np.diff(cdf), 0.0))


def _masses(weights: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
    masses = 1 + np.floor(weights / weights.sum() * ((1 << 24) - weights.size)).astype(np.int64)
    masses[np.argmax(weights)] += (1 << 24) - masses.sum()
    return np.asarray(masses, np.int32)


def encode(model: Hyperprior, y: NDArray[np.float32], vq_indices: NDArray[Any], *, bit_worth: float = 0.0) -> Encoded:
    """Return the sections of y, float32 [M, hy, wy], and indices, int [hz, wz]."""
    return model.encode({"y": y[None], "vq_indices": vq_indices[None]}, bit_worth=bit_worth)


def decode(
    model: Hyperprior, z: bytes, z_is_plain: bool, y: bytes, z_size: tuple[int, int], *, missing_bytes: int = 0
) -> Decoded:
    """Return what the sections hold, for hz and wz."""
    shapes = {"y_hat": (1, model.y_channels, 4 * z_size[0], 4 * z_size[1])}
    return model.decode(z, z_is_plain, y, shapes, missing_bytes=missing_bytes)


def y_hat_of(model: Hyperprior, z: bytes, z_is_plain: bool, y: bytes, z_size: tuple[int, int]) -> NDArray[np.float32]:
    """Return y_hat of whole sections, as `decode`."""
    return decode(model, z, z_is_plain, y, z_size).tensors["y_hat"]
