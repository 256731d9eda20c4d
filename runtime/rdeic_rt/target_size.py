"""The best file within a size limit: the first of a bundle's rates, or levels, that fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from .errors import ImageError
from .limits import Size
from .manifest import Bundle, Rate

NEAR: Final = 31
"""Levels that are tried for a file a little smaller than another one; about 30 % of its bytes."""
EncodeAt = Callable[[Rate], bytes]


def check(rate: float | str | None, target_bytes: int | None, target_bpp: float | None) -> None:
    """Raise ValueError if more than one of these is given, or a target is not a finite number over 0."""
    if sum(choice is not None for choice in (rate, target_bytes, target_bpp)) > 1:
        raise ValueError("give only one of rate, target_bytes and target_bpp")
    for name, target in (("target_bytes", target_bytes), ("target_bpp", target_bpp)):
        if target is not None and not (math.isfinite(target) and target > 0):
            raise ValueError(f"{name} is {target}; it must be a finite number over 0")


def most_bytes(size: Size, target_bytes: int | None, target_bpp: float | None) -> float:
    """Return the length that a file of an image of this size may have; infinite without a target."""
    if target_bpp is not None:
        # A file's own bits per pixel are rounded, and as a target must allow that file.
        return target_bpp * (size.height * size.width) / 8 * (1 + 1e-12)
    return math.inf if target_bytes is None else target_bytes


def best(bundle: Bundle, encode_at: EncodeAt, most_bytes: float, size: Size, metadata_bytes: int = 0) -> bytes:
    """Return the file with the most bits of those with at most ``most_bytes``.

    Args:
        bundle: its rates, or levels, are tried.
        encode_at: rate -> the file of the image.
        most_bytes: length that the file may have.
        size: of the image, for messages.
        metadata_bytes: how many bytes of each file are metadata, for messages.

    Raises:
        ImageError: no rate gives such a small file; the message states the smallest size.
    """
    if bundle.levels is None:
        rates = sorted(bundle.rates, key=lambda rate: rate.bpp, reverse=True)
        first_that_fits, tried = _scan(rates, encode_at, most_bytes)
    else:
        first_that_fits, tried = _bisect(bundle, range(bundle.levels.count), encode_at, most_bytes)
    if first_that_fits is not None:
        return first_that_fits
    n_bytes, rate = min(((length, rate) for length, rate in tried), key=lambda pair: pair[0])
    metadata = f", {metadata_bytes} bytes of which are metadata" if metadata_bytes else ""
    or_strip = ", or leave out its metadata (--strip)" if metadata_bytes else ""
    raise ImageError(
        f"{int(most_bytes)} bytes are the target, but the smallest file of this {size.width}x{size.height} image "
        f"is {n_bytes} bytes, {8 * n_bytes / (size.width * size.height):.4f} bits per pixel, at rate {rate.index} of "
        f"bundle {bundle.name!r}{metadata}. Raise the target{',' if or_strip else ' or'} scale the image down{or_strip}"
    )


def best_from(bundle: Bundle, finest: Rate, encode_at: EncodeAt, most_bytes: float) -> bytes | None:
    """Return the file of most bits that has at most ``most_bytes``, of ``finest`` and the `NEAR` levels after it.

    None if none has, or where the bundle has no levels and that of ``finest`` has not.
    """
    if bundle.levels is None:
        return _scan([finest], encode_at, most_bytes)[0]
    levels = range(finest.number, min(finest.number + NEAR, bundle.levels.count - 1) + 1)
    return _bisect(bundle, levels, encode_at, most_bytes)[0]


_Found = tuple[bytes | None, list[tuple[int, Rate]]]


def _scan(rates: list[Rate], encode_at: EncodeAt, most_bytes: float) -> _Found:
    """Return the first file that fits, and the length and rate of those that do not."""
    tried: list[tuple[int, Rate]] = []
    for rate in rates:
        data = encode_at(rate)
        if len(data) <= most_bytes:
            return data, tried
        tried.append((len(data), rate))
    return None, tried


def _bisect(bundle: Bundle, levels: range, encode_at: EncodeAt, most_bytes: float) -> _Found:
    """Return the same of levels: files get smaller from one to the next, as good as always."""
    low, high = levels[0], levels[-1]
    fits: bytes | None = None
    tried: list[tuple[int, Rate]] = []
    while low <= high:
        # The smallest file first: with a target that no level meets, nothing else need be tried.
        middle = (low + high) // 2 if fits is not None else high
        rate = bundle.rate_at(middle)
        data = encode_at(rate)
        if len(data) <= most_bytes:
            fits, high = data, middle - 1
        elif fits is None:
            return None, [(len(data), rate)]
        else:
            tried.append((len(data), rate))
            low = middle + 1
    return fits, tried
