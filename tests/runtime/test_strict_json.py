"""How deep a document may be; what else is refused is tested with bundles."""

from __future__ import annotations

import pytest

from rdeic_rt import strict_json
from rdeic_rt.limits import MAX_JSON_DEPTH


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_document_as_deep_as_allowed_is_read_and_one_deeper_is_refused(opening: str) -> None:
    closing = {"[": "]"}.get(opening, "}")

    def nested(depth: int) -> bytes:
        return (opening * (depth - 1) + opening.rstrip('"a:') + closing * depth).encode()

    strict_json.parse(nested(MAX_JSON_DEPTH))
    with pytest.raises(ValueError, match=f"nested more than {MAX_JSON_DEPTH} deep"):
        strict_json.parse(nested(MAX_JSON_DEPTH + 1))


def test_document_beyond_python_s_own_depth_is_refused() -> None:
    with pytest.raises((ValueError, RecursionError)):
        strict_json.parse(b"[" * 200_000)
