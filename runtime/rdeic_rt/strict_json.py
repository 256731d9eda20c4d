"""JSON as in RFC 8259, stricter than Python's reader: no NaN, no infinities, no repeated keys, UTF-8 only.

Escapes must not produce unpaired surrogates, which UTF-8 does not have; and 1.0 is a number, but not an integer.
"""

from __future__ import annotations

import json
import math
from typing import Any

from .limits import MAX_JSON_DEPTH


class Real(float):
    """A number written with a fraction or an exponent; schema validation must not treat 1.0 as an integer."""

    def is_integer(self) -> bool:
        """Return False."""
        return False


def parse(data: bytes) -> Any:
    """Return the value of a document; a number that is not written as an integer is a `Real`.

    Raises:
        ValueError: it is not such a document, holds a number that is not a finite float64, or has more than
            `limits.MAX_JSON_DEPTH` objects and arrays within each other.
        RecursionError: it has far more.
    """
    value = json.loads(
        data.decode(),
        parse_constant=_refuse_constant,
        parse_float=_finite,
        parse_int=_integer,
        object_pairs_hook=_object_without_repeats,
    )
    json.dumps(value, ensure_ascii=False).encode()  # a ValueError where there is half of a surrogate pair
    _check_depth(value, MAX_JSON_DEPTH)
    return value


def _check_depth(value: object, levels: int) -> None:
    if not isinstance(value, dict | list):
        return
    if not levels:
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep")
    for inner in value.values() if isinstance(value, dict) else value:
        _check_depth(inner, levels - 1)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> Real:
    if math.isinf(value := Real(text)):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _integer(text: str) -> int:
    _finite(text)
    return int(text)


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(f"a repeated key among {', '.join(repr(key) for key, _ in pairs)}")
    return result
