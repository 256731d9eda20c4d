"""Facts that are written once: roles in the files of their families, and sizes of grids in ``bundle.json``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdeic_rt.families import FAMILIES

RUNTIME = Path(__file__).parents[2] / "runtime"
STAGES = {"analysis", "synthesis"}  # roles whose words are those of stages too, in timing
NAMESAKES = {"cpp/src/backends/ort.cc"}  # the program is called rdeic, too
# A number of pixels for a position, by name or in arithmetic on the sides of an image or a tensor.
GRID_CONSTANTS = [
    re.compile(r"(?i)\w*(_px|Px)\w*\s*(:\s*\w+\s*)?=\s*(4|8|16|32|64)\b"),
    re.compile(r"(height|width|rows|columns|hz|wz|shape\[\d\])\w*\s*(//|/|\*|%)\s*(2|4|8|16|32|64)\b"),
    re.compile(r"\b(2|4|8|16|32|64)\s*\*\s*\w*(height|width|rows|columns|hz|wz)\b"),
]


def lines() -> Iterator[tuple[str, str]]:
    """Yield (file, line) of all code of both runtimes, without comments and docstrings."""
    sources = (("rdeic_rt", "py"), ("cpp/src", "cc"), ("cpp/src", "h"))
    for path in sorted(path for folder, suffix in sources for path in RUNTIME.glob(f"{folder}/**/*.{suffix}")):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r'"""(?:(?!""").)*"""', "", text, flags=re.DOTALL) if path.suffix == ".py" else text
        for line in text.splitlines():
            yield path.relative_to(RUNTIME).as_posix(), re.sub(r"(#|//\s).*", "", line)


def of_a_family(name: str) -> set[str]:
    return {f"rdeic_rt/families/{name}.py", f"cpp/src/families/{name}.cc"}


@pytest.mark.parametrize("role", sorted({role for family in FAMILIES.values() for role in family.roles} - STAGES))
def test_roles_are_named_in_the_files_of_their_families_alone(role: str) -> None:
    named = {file for file, line in lines() if f'"{role}"' in line}
    assert named == set().union(*(of_a_family(name) for name in FAMILIES if role in FAMILIES[name].roles))


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_named_in_their_own_files_alone(name: str) -> None:
    assert of_a_family(name) <= {file for file, line in lines() if f'"{name}"' in line} <= of_a_family(name) | NAMESAKES


def test_grid_constants_are_nowhere() -> None:
    """But in entropy models, whose checkerboards have halves; texts may give examples."""
    found = [
        (file, line.strip())
        for file, line in lines()
        if "/entropy/" not in file and any(one.search(re.sub(r'".*?"', "", line)) for one in GRID_CONSTANTS)
    ]
    assert not found


def test_grid_constants_would_be_found() -> None:
    for line in (
        "_HYPER_FACTOR_PX = 64",
        "constexpr std::uint32_t kLatentPx = 8;",
        "hy = padded.height // 16",
        "return 64 * hz",
        "{2 * height, 2 * width}",
    ):
        assert any(one.search(line) for one in GRID_CONSTANTS), line
