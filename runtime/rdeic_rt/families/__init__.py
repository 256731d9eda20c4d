"""Families of codecs: which graphs a bundle has, and how they follow each other.

A family is one file and one row of `FAMILIES`. Its `encode`, `decode` and `preview` are lists of stages over named
tensors, which run alike on a whole image and on tiles of it (`placement`), on the host and on a GPU.
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
    """Return the family of this name; BundleError names those that there are."""
    if name not in FAMILIES:
        raise BundleError(
            f"family {name!r} is not part of this version of rdeic-rt, which has: {', '.join(FAMILIES)}. "
            "Upgrade rdeic-rt, or take another bundle"
        )
    return FAMILIES[name]
