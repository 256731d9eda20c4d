"""Requests that are made from our own OpenAPI document, valid and not, are answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from rdeic_rt.serve import app

from .test_serve import SETTINGS, serving

OPERATIONS = (
    "POST /v1/decode",
    "POST /v1/encode",
    "POST /v1/compare",
    "POST /v1/info",
    "GET /v1/bundles",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
)


RDC = (Path(__file__).parents[2] / "golden" / "v1").glob("*.rdc")
schemathesis.serializer.alias(app.RDC, "application/octet-stream")
schemathesis.openapi.media_type(app.RDC, st.binary() | st.sampled_from([path.read_bytes() for path in sorted(RDC)]))


@pytest.fixture(scope="module")
def document() -> Iterator[Any]:
    with serving(SETTINGS) as (client, _):
        yield schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


@pytest.mark.parametrize("label", OPERATIONS)
def test_answers_are_as_documented(document: Any, label: str) -> None:
    found = [one.ok() for one in document.get_all_operations()]
    assert {one.label for one in found} == set(OPERATIONS)
    (operation,) = (one for one in found if one.label == label)

    @given(case=operation.as_strategy())
    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def answers(case: Any) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance])  # bodies are more than their schema

    answers()
