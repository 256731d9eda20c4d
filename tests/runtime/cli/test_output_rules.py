"""The rules for outputs, on `rdeic-rt`; ctest has the same for `rdeic`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import output_rules
from tests.conformance.output_rules import CannotTry, Command


@pytest.mark.parametrize("rule", output_rules.RULES, ids=lambda rule: rule.__name__)
def test_output_rule_is_kept(rule: Callable[[Command], None], tmp_path: Path) -> None:
    try:
        rule(output_rules.prepared([sys.executable, "-m", "rdeic_rt"], tmp_path))
    except CannotTry as why:
        pytest.skip(str(why))
