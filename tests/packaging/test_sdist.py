"""The sdist holds what the wheel and librdeic are built from, and nothing that only tests need."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.packaging.building import ROOT, build, configured


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the sdist unpacks to."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, folder)) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = [path for path in folder.iterdir() if path.is_dir()]
    return unpacked


def test_sdist_holds_these_folders_and_no_tests(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir()} == {
        *("runtime", "export", "engines", "docs", "CMakeLists.txt", "pyproject.toml"),
        *("LICENSE", "README.md", "CHANGELOG.md", "PKG-INFO", ".gitignore"),
    }
    assert not list(unpacked.rglob("*fuzz*"))
    assert not (unpacked / "engines" / "tiny-2" / "plans").exists()


def test_sdist_holds_every_source_of_the_library(unpacked: Path) -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    sources = ROOT / "runtime" / "cpp"
    named = re.findall(r"\$\{RDEIC_DIR\}/([\w./-]+\.(?:cc|h|hpp|map|cmake))", text)
    named += re.findall(
        r"^  ((?:src|wasm)/[\w./-]+\.cc)$", (sources / "sources.cmake").read_text("utf-8"), re.MULTILINE
    )
    assert len(named) > 60

    for name in named:
        assert (unpacked / "runtime" / "cpp" / name).is_file(), name
    for path in (*sources.glob("src/**/*"), *sources.glob("cmake/*"), *sources.glob("include/**/*")):
        assert (unpacked / path.relative_to(ROOT)).exists(), path


def test_sdist_holds_every_page_that_the_readme_links_to(unpacked: Path) -> None:
    readme = (unpacked / "README.md").read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((docs/[^)#]+|runtime/[^)#]+)\)", readme))

    assert links
    assert not [link for link in links if (ROOT / link).exists() and not (unpacked / link).exists()]


def test_wheel_is_built_of_the_sdist(unpacked: Path, tmp_path: Path) -> None:
    assert re.fullmatch(r"rdeic_rt-.*-py3-none-any\.whl", build("wheel", unpacked, tmp_path).name)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no cmake")
def test_librdeic_is_configured_of_the_sdist(unpacked: Path, tmp_path: Path) -> None:
    assert (configured(unpacked, tmp_path) / "rdeic.pc").is_file()
