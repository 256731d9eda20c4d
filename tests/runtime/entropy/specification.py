"""A second, slow decoder written from docs/format.md alone: Python integers and int64 sums, nothing of rdeic_rt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Grid = NDArray[np.int64]
MASK = (1 << 64) - 1


class RangeDecoder:
    """Section "Range coder"."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0
        self.lower, self.range = 0, MASK
        self.point = self._word() << 32 | self._word()

    def symbol(self, masses: list[int]) -> int:
        scale = self.range >> 24
        quantile = ((self.point - self.lower) & MASK) // scale
        left = 0
        for index, mass in enumerate(masses):
            if quantile < left + mass:
                self._narrow(scale, left, mass)
                return index
            left += mass
        raise ValueError("not a symbol")

    def uniform(self, bits: int) -> int:
        """A symbol of 2**bits equal masses."""
        scale = self.range >> 24
        index = (((self.point - self.lower) & MASK) // scale) >> (24 - bits)
        if index >> bits:
            raise ValueError("not a symbol")
        self._narrow(scale, index << (24 - bits), 1 << (24 - bits))
        return index

    def finish(self) -> None:
        """The window is the interval's value with the most zero bits at the end, and no byte follows."""
        bits = 64
        while True:
            value = (self.lower + self.range - 1) >> bits << bits
            if value >= self.lower:
                break
            bits -= 1
        if value & MASK != self.point or self.position < len(self.data) or self.data.endswith(b"\0"):
            raise ValueError("not what an encoder writes")

    def _narrow(self, scale: int, left: int, mass: int) -> None:
        self.lower = (self.lower + scale * left) & MASK
        self.range = scale * mass
        if self.range < 1 << 32:
            self.lower = self.lower << 32 & MASK
            self.range <<= 32
            self.point = (self.point << 32 | self._word()) & MASK

    def _word(self) -> int:
        word = self.data[self.position : self.position + 4].ljust(4, b"\0")
        self.position += 4
        return int.from_bytes(word, "big")


class CutDecoder:
    """Section "Truncated files": two decoders, of the lowest and the highest bytes that can be missing."""

    def __init__(self, data: bytes, missing: int) -> None:
        self.both = [RangeDecoder(data + fill * missing) for fill in (b"\0", b"\xff")]
        self.lost = False

    def group(self, masses: list[int], count: int) -> list[int]:
        """Return the group if it is the same in both, and zeros from the first that is not."""
        if not self.lost:
            try:
                lowest, highest = (decode_group(masses, decoder, count) for decoder in self.both)
                self.lost = lowest != highest
            except ValueError:
                self.lost = True
        return [0] * count if self.lost else lowest

    def finish(self) -> None:
        """Nothing can be said of an end that is not there."""


def decode(
    model: Arrays, z: bytes, z_is_plain: bool, y: bytes, rows: int, columns: int, missing: int = 0
) -> NDArray[np.float32]:
    """Sections "Indices" and "Symbols": y_hat, float32 [M, 4 rows, 4 columns]; ``missing`` bytes of y are cut off."""
    indices = decode_indices(model, z, z_is_plain, rows * columns).reshape(rows, columns)
    hyper = hyper_parameters(model, indices)
    height, width, slices = 4 * rows, 4 * columns, model["slices"].tolist()
    y_hat = np.zeros((height, width, sum(slices)), np.int64)
    tensor = np.zeros_like(y_hat)
    decoder: RangeDecoder | CutDecoder = CutDecoder(y, missing) if missing else RangeDecoder(y)
    start = 0
    for i, size in enumerate(slices):
        own = slice(start, start + size)
        tensor[..., own] = model[f"y.{i}.zero"]
        channel = tensor[..., :start]
        for k in range(3 if i else 0):
            channel = finish(model, f"channel.{i}.{k}", layer(model, f"channel.{i}.{k}", {"": channel}))
        for pass_name in ("anchor", "nonanchor"):
            inputs = {".hyper": hyper}
            if i:
                inputs[".channel"] = channel
            if pass_name == "nonanchor":
                inputs[".local"] = finish(model, f"local.{i}", layer(model, f"local.{i}", {"": tensor[..., own]}))
            name = f"{pass_name}.{i}"
            x = finish(model, f"{name}.0", layer(model, f"{name}.0", inputs))
            x = finish(model, f"{name}.1", layer(model, f"{name}.1", {"": x}))
            out = wide(layer(model, f"{name}.2", {"": x}))
            numbers = [
                (r, c, k)
                for r in range(height)
                for c in range(width)
                if (r + c) % 2 == (pass_name == "anchor")
                for k in range(size)
            ]
            scale_index = [int((model["scale_thresholds"] < out[n]).sum()) for n in numbers]
            symbols = decode_symbols(model, decoder, scale_index)
            for (r, c, k), symbol in zip(numbers, symbols, strict=True):
                y_hat[r, c, start + k] = 256 * symbol + out[r, c, size + k]
            scaled = y_hat[..., own] * model[f"y.{i}.mult"].astype(np.int64) + model[f"y.{i}.offset"]
            seen = np.array(
                [[(r + c) % 2 == 1 or pass_name == "nonanchor" for c in range(width)] for r in range(height)]
            )
            levels = np.clip(scaled >> model[f"y.{i}.shift"][0], 0, 65535)
            tensor[..., own] = np.where(seen[..., None], levels, model[f"y.{i}.zero"])
        start += size
    decoder.finish()
    return (y_hat.transpose(2, 0, 1) / 256).astype(np.float32)


def decode_symbols(model: Arrays, decoder: RangeDecoder | CutDecoder, scale_index: list[int]) -> list[int]:
    symbols = [0] * len(scale_index)
    stops = np.cumsum(model["scale_lengths"]).tolist()
    for k in range(int(model["skip_below"][0]), 64):
        masses = model["scale_masses"][stops[k] - int(model["scale_lengths"][k]) : stops[k]].tolist()
        group = [n for n, index in enumerate(scale_index) if index == k]
        if isinstance(decoder, CutDecoder):
            values = decoder.group(masses, len(group))
        else:
            values = decode_group(masses, decoder, len(group))
        for n, value in zip(group, values, strict=True):
            symbols[n] = value
    return symbols


def decode_group(masses: list[int], decoder: RangeDecoder, count: int) -> list[int]:
    radius = len(masses) // 2 - 1
    symbols = [decoder.symbol(masses) - radius for _ in range(count)]
    escapes = [n for n, symbol in enumerate(symbols) if symbol > radius]
    prefixes = [decoder.uniform(5) for _ in escapes]
    for n, prefix in zip(escapes, prefixes, strict=True):
        bits = prefix >> 1
        magnitude = radius + (1 << bits) + (decoder.uniform(bits) if bits else 0)
        if magnitude > 32767:
            raise ValueError("symbol too large")
        symbols[n] = -magnitude if prefix & 1 else magnitude
    return symbols


def decode_indices(model: Arrays, z: bytes, z_is_plain: bool, n: int) -> NDArray[np.int64]:
    masses = model["prior_masses"].tolist()
    if not z_is_plain:
        decoder = RangeDecoder(z)
        indices = [decoder.symbol(masses) for _ in range(n)]
        decoder.finish()
        return np.array(indices)
    bits = (len(masses) - 1).bit_length()
    number = int.from_bytes(z, "big") >> (-n * bits % 8)
    return np.array([number >> bits * (n - 1 - i) & ((1 << bits) - 1) for i in range(n)])


def decode_in_context(model: Arrays, z: bytes, rows: int, columns: int) -> NDArray[np.int64]:
    """Section "Entropy model 3": indices of a z section whose flag 1 is clear."""
    decoder = RangeDecoder(z)
    grid = np.zeros((rows, columns), np.int64)
    passes = [(0, 0), (1, 1), (0, 1), (1, 0)]
    for p, (top, left) in enumerate(passes):
        positions = [(r, c) for r in range(top, rows, 2) for c in range(left, columns, 2)]
        if p == 0:
            for at in positions:
                grid[at] = decoder.symbol(model["prior_masses"].tolist())
            continue
        inputs = {}
        for q, (row, column) in enumerate(passes[:p]):
            zero = model[f"context.{p}.0.{q}.zero"].astype(np.int64)
            plane = np.empty(((rows + 1) // 2, (columns + 1) // 2, zero.size), np.int64)
            for r, c in np.ndindex(plane.shape[:2]):
                y, x = 2 * r + row, 2 * c + column
                plane[r, c] = model["codebook"][grid[y, x]] if y < rows and x < columns else zero
            inputs[f".{q}"] = plane
        hidden = finish(model, f"context.{p}.0", layer(model, f"context.{p}.0", inputs))
        hidden = finish(model, f"context.{p}.1", layer(model, f"context.{p}.1", {"": hidden}))
        scores = wide(layer(model, f"context.{p}.2", {"": hidden}))
        for index, weights in enumerate(model["class_weights"].tolist()):
            masses = class_masses(weights)
            for r, c in positions:
                own = scores[r // 2, c // 2].tolist()
                if own.index(max(own)) == index:
                    grid[r, c] = decoder.symbol(masses)
    decoder.finish()
    return grid


def class_masses(weights: list[int]) -> list[int]:
    """Masses of a row of `class_weights`."""
    numbers = [(8 + b % 8) << b // 8 for b in weights]
    masses = [1 + w * ((1 << 24) - len(numbers)) // sum(numbers) for w in numbers]
    masses[numbers.index(max(numbers))] += (1 << 24) - sum(masses)
    return masses


def hyper_parameters(model: Arrays, indices: NDArray[np.int64]) -> Grid:
    x = model["codebook"][indices].astype(np.int64)
    for b, doubles in enumerate(model["hyper.doubles"].tolist()):
        name = f"hyper.{b}"
        hidden = finish(model, f"{name}.first", layer(model, f"{name}.first", {"": x}))
        skip = wide(layer(model, f"{name}.skip", {"": x}))
        if doubles:
            hidden, skip = shuffled(hidden), shuffled(skip)
        second = wide(layer(model, f"{name}.second", {"": hidden}))
        second = np.where(second < 0, (second * int(model[f"{name}.slope"][0]) + 32768) >> 16, second)
        scaled = (second + skip) * model[f"{name}.out.mult"].astype(np.int64) + model[f"{name}.out.offset"]
        x = np.clip(scaled >> model[f"{name}.out.shift"][0], 0, 65535)
    return x


def layer(model: Arrays, name: str, inputs: dict[str, Grid]) -> Grid:
    """t of a layer, before its end."""
    total = model[f"{name}.offset"].copy()
    for part, x in inputs.items():
        weight = model[f"{name}{part}.weight"].astype(np.int64)
        sums: Any = 0
        for u, h in taps(model, name + part, x, weight):
            if f"{name}{part}.weight_low" in model:
                v = model[f"{name}{part}.weight_low"].astype(np.int64)[u]
                sums = sums + 128 * (h @ weight[u]) + 256 * ((h >> 8) @ v)
            else:
                sums = sums + (h >> 8) @ weight[u]
        total = total + sums * model[f"{name}{part}.mult"].astype(np.int64)
    return np.asarray(total >> model[f"{name}.shift"][0], np.int64)


def taps(model: Arrays, name: str, x: Grid, weight: Grid) -> Iterator[tuple[tuple[int, int], Grid]]:
    """(kernel row, column), the grid shifted so that this tap of every position lies at the position."""
    k = weight.shape[0]
    padded = np.zeros((x.shape[0] + k - 1, x.shape[1] + k - 1, x.shape[2]), np.int64)
    if k > 1:
        padded[:] = model[f"{name}.zero"]
    padded[k // 2 : k // 2 + x.shape[0], k // 2 : k // 2 + x.shape[1]] = x
    for i in range(k):
        for j in range(k):
            yield (i, j), padded[i : i + x.shape[0], j : j + x.shape[1]]


def finish(model: Arrays, name: str, t: Grid) -> Grid:
    if f"{name}.lut" in model:
        return model[f"{name}.lut"][np.clip(t, -2048, 2047) + 2048].astype(np.int64)
    return np.clip(t, 0, 65535)


def wide(t: Grid) -> Grid:
    return np.clip(t, -(1 << 20), (1 << 20) - 1)


def shuffled(x: Grid) -> Grid:
    out = np.zeros((2 * x.shape[0], 2 * x.shape[1], x.shape[2] // 4), np.int64)
    for channel in range(x.shape[2]):
        out[channel % 4 // 2 :: 2, channel % 2 :: 2, channel // 4] = x[..., channel]
    return out


def model_id(model: Arrays) -> bytes:
    text = b""
    for name in sorted(model):
        array = model[name]
        for word in (name, array.dtype.name):
            text += len(word).to_bytes(4, "little") + word.encode("ascii")
        text += b"".join(n.to_bytes(4, "little") for n in (array.ndim, *array.shape))
        text += array.astype(array.dtype.newbyteorder("<")).tobytes()
    return hashlib.sha256(text).digest()[:4]
