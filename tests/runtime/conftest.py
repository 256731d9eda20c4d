from __future__ import annotations

from pathlib import Path

import pytest

from . import micro


@pytest.fixture
def micro_folder(tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return micro.write(tmp_path / "micro")
