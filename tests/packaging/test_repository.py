"""What is tracked stays small: a clone has every version of every file, for ever."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.bench.page_image import LIMIT_BYTES
from tests.conftest import missing
from tests.packaging.building import ROOT

# The largest file that may lie in a folder, and below it; the longest name that fits counts.
LIMITS_BYTES = {
    "": LIMIT_BYTES,
    "training/weights/": 3_000_000,
    "engines/": 6_000_000,
    "tests/golden/": 500_000,
    "calibration/ranges/": 500_000,
}


def limit_bytes(name: str) -> int:
    return LIMITS_BYTES[max((folder for folder in LIMITS_BYTES if name.startswith(folder)), key=len)]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The names of all tracked files, and of new ones that git does not ignore."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        missing("git, or the repository")
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in done.stdout.split("\0") if (ROOT / name).is_file()]


def test_no_file_is_larger_than_its_folder_allows(tracked: list[str]) -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in tracked}
    assert len(sizes) > 500

    assert {name: size for name, size in sizes.items() if size > limit_bytes(name)} == {}


@pytest.mark.parametrize(
    ("name", "limit"),
    [("docs/images/a.png", 200_000), ("engines/a/b.onnx", 6_000_000), ("tests/golden/a", 500_000), ("a", 200_000)],
)
def test_limit_is_that_of_the_innermost_folder(name: str, limit: int) -> None:
    assert limit_bytes(name) == limit
