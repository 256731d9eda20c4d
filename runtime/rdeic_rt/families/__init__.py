"""Families of codecs: which graphs a bundle has, and how they are chained.

A family is one file and one row of `FAMILIES`. Its `encode`, `decode` and `preview` are lists of stages over named
tensors, which run in the same way on a whole image and on tiles of it (`placement`), on the host and on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..errors import BundleError
from .base import Family
from .diffo import Diffo
from .rdeic import Rdeic

__all__ = ["FAMILIES", "Family", "family"]

FAMILIES: Mapping[str, Family] = MappingProxyType({one.name: one for one in (Rdeic(), Diffo())})


def family(name: str) -> Family:
    """Return the family of this name; the message of BundleError lists the known ones."""
    if name not in FAMILIES:
        raise BundleError(
            f"family {name!r} is not part of this version of rdeic-rt, which has: {', '.join(FAMILIES)}. "
            "Upgrade rdeic-rt, or use another bundle"
        )
    return FAMILIES[name]
