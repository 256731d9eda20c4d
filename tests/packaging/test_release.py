"""One version everywhere, a changelog in form, and a release script that refuses what it should."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.packaging.building import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_version_is_a_release_or_one_between_releases() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", VERSION)


def test_page_asks_cmake_for_this_minor_version() -> None:
    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")

    assert re.findall(r"find_package\(rdeic ([\d.]+) REQUIRED\)", page) == [".".join(VERSION.split(".")[:2])]


def test_no_other_file_has_a_version_of_its_own() -> None:
    sources = [*(ROOT / "runtime").rglob("*.py"), *(ROOT / "runtime" / "cpp").rglob("*.h"), ROOT / "CMakeLists.txt"]
    release = re.compile(rf"\b{re.escape('.'.join(VERSION.split('.')[:3]))}\b")

    assert [path for path in sources if release.search(path.read_text(encoding="utf-8"))] == []


def test_changelog_has_this_version_and_falls_from_new_to_old() -> None:
    titles = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", title) for title in titles[1:]]
    assert titles[0] == "[Unreleased]"
    assert all(released), titles

    versions = [tuple(map(int, found.groups())) for found in released if found]
    assert versions == sorted(set(versions), reverse=True)
    current = tuple(map(int, VERSION.split(".")[:3]))
    assert current > versions[0] if ".dev" in VERSION else current == versions[0]


def test_changelog_uses_each_heading_of_its_form_once_a_version() -> None:
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Format", "Schema"}
    for section in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        headings = re.findall(r"^### (.*)$", section, re.MULTILINE)

        assert set(headings) <= kinds
        assert len(headings) == len(set(headings)), section.splitlines()[0]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of version 3.1.4, committed, with its line in the changelog, and nothing that could be built."""
    if shutil.which("git") is None:
        missing("git")
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "release", tmp_path / ".ci")
    (tmp_path / ".gitignore").write_text("/dist/\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "3.1.4"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [3.1.4] - 2026-01-02\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a")


def release(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a Python that ends what has not been refused by then."""
    command = ["env", "PYTHON=/bin/false", "bash", ".ci/release", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def refusal(folder: Path, *arguments: str) -> str:
    done = release(folder, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_release_goes_on_where_everything_is_in_order(repository: Path) -> None:
    assert release(repository).stdout == "==> tools\n"


def test_release_refuses_changes_that_are_not_committed(repository: Path) -> None:
    (repository / "new.py").write_text("")

    assert "not committed" in refusal(repository)
    assert release(repository, "--dry-run").stdout == "==> tools\n"


def test_release_refuses_a_version_between_releases(repository: Path) -> None:
    (repository / "pyproject.toml").write_text('[project]\nversion = "3.1.5.dev0"\n')
    commit(repository)

    assert "3.1.5.dev0 is one between releases" in refusal(repository)
    assert release(repository, "--dry-run").stdout == "==> tools\n"


def test_release_refuses_a_version_without_a_section_in_the_changelog(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [3x1x4] - 2026-01-02\n")
    commit(repository)

    assert "no line '## [3.1.4] - YYYY-MM-DD'" in refusal(repository)


def test_release_refuses_a_version_that_another_commit_has(repository: Path) -> None:
    git(repository, "tag", "v3.1.4")
    assert release(repository).stdout == "==> tools\n"
    (repository / "new.py").write_text("")
    commit(repository)

    assert "the tag of another commit" in refusal(repository)
    assert "the tag of another commit" in refusal(repository, "--dry-run")


def test_release_refuses_to_mix_with_files_of_another(repository: Path) -> None:
    (repository / "dist").mkdir()
    (repository / "dist" / "old.whl").write_text("")

    assert "dist/ is not empty" in refusal(repository, "--dry-run")


@pytest.mark.parametrize("arguments", [("--upload",), ("--dry-run", "more")])
def test_release_refuses_other_arguments(repository: Path, arguments: tuple[str, ...]) -> None:
    done = release(repository, *arguments)

    assert (done.returncode, done.stderr) == (2, "release: usage: .ci/release [--dry-run]\n")
