"""What skips at a desk fails where CI is set, but for the reasons that are listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest


@pytest.mark.parametrize("reason", ["chelsea.jpg is missing", "no golden data; RDEIC_RT_REFERENCE names them"])
def test_that_skips(reason: str) -> None:
    pytest.skip(reason)


@pytest.mark.skipif(True, reason="there is no cmake")
def test_marked() -> None:
    pass


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    pytest.skip("no NVIDIA GPU can be used")


@pytest.mark.xfail
def test_that_is_expected_to_fail() -> None:
    raise AssertionError


def test_that_passes() -> None:
    pass
"""
FILE = "import pytest\npytest.importorskip('no_such_module')\n"


def run(tmp_path: Path, text: str, **variables: str) -> str:
    """Return what pytest says of a file of tests."""
    path = tmp_path / "test_made.py"
    path.write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.skips", "-c"]
    return subprocess.run(
        [*command, str(tmp_path / "pytest.ini"), str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**environment, **variables},
        timeout=60,
    ).stdout


def test_skips_are_skips_at_a_desk(tmp_path: Path) -> None:
    assert "1 passed, 4 skipped, 1 xfailed" in run(tmp_path, TESTS)
    assert "1 skipped" in run(tmp_path, FILE)


def test_skips_that_are_not_allowed_fail_in_ci(tmp_path: Path) -> None:
    said = run(tmp_path, TESTS, CI="1")

    assert "1 failed, 1 passed, 2 skipped, 1 xfailed, 1 error" in said
    for reason in ("chelsea.jpg is missing", "there is no cmake"):
        assert f"{reason}\nCI is set" in said


@pytest.mark.parametrize("ci", ["1", "true"])
def test_file_that_skips_fails_in_ci(tmp_path: Path, ci: str) -> None:
    said = run(tmp_path, FILE, CI=ci)

    assert "1 error" in said
    assert "could not import 'no_such_module'" in said
