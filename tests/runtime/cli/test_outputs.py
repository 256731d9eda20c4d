"""Which input becomes which output, and what is refused before any work starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdeic_rt.cli.inputs import Input
from rdeic_rt.cli.outputs import Job, UsageError, check_reports
from rdeic_rt.cli.outputs import plan as plan_of_inputs


def plan(names: list[str], output: str | None, suffix: str) -> list[Job]:
    return plan_of_inputs([Input(name) for name in names], output, suffix)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "output", "targets"),
    [
        (["photo.jpg"], None, ["photo.rdc"]),
        (["in/photo.jpg"], None, ["in/photo.rdc"]),
        (["archive.tar.jpg"], None, ["archive.tar.rdc"]),
        (["photo"], None, ["photo.rdc"]),
        ([".hidden"], None, [".hidden.rdc"]),
        (["a.jpg", "in/b.png"], None, ["a.rdc", "in/b.rdc"]),
        (["photo.jpg"], "x.rdc", ["x.rdc"]),
        (["in/photo.jpg"], "out/", ["out/photo.rdc"]),
        (["in/a.jpg", "b.png"], "out", ["out/a.rdc", "out/b.rdc"]),
        (["photo.jpg"], ".", ["photo.rdc"]),
        (["photo.jpg"], "-", ["-"]),
    ],
)
def test_plan_names_outputs(inputs: list[str], output: str | None, targets: list[str]) -> None:
    assert plan(inputs, output, ".rdc") == [Job(source, target) for source, target in zip(inputs, targets, strict=True)]


@pytest.mark.parametrize(
    ("inputs", "output", "says"),
    [
        (["a.jpg", "a.png"], None, "a.jpg and a.png would both become a.rdc"),
        (["one/a.jpg", "two/a.jpg"], "out", "would both become out/a.rdc"),
        (["a.jpg", "./a.jpg"], None, "would both become"),
        (["a.rdc"], None, "is an input and would be overwritten"),
        (["a.jpg"], "./a.jpg", "is an input and would be overwritten"),
        (["a.jpg", "b.rdc", "b.jpg"], None, "is an input and would be overwritten"),
        (["a.jpg", "b.jpg"], "-", "cannot share standard output"),
        (["-", "b.jpg"], "out", "must be the only input"),
        (["-"], "out/", "has no name"),
    ],
)
def test_plan_refuses_what_cannot_work(inputs: list[str], output: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plan(inputs, output, ".rdc")


def test_plan_several_inputs_into_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "have.rdc").write_bytes(b"")
    with pytest.raises(UsageError, match="have.rdc is a file"):
        plan(["a.jpg", "b.jpg"], "have.rdc", ".rdc")


def test_plan_output_linked_to_the_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "link.rdc").symlink_to("a.jpg")
    with pytest.raises(UsageError, match="would be overwritten"):
        plan(["a.jpg"], "link.rdc", ".rdc")


def test_plan_only_a_name_after_o_is_named() -> None:
    assert [job.is_named for job in plan(["a.jpg"], "x.rdc", ".rdc")] == [True]
    assert [job.is_named for job in plan(["a.jpg"], "-", ".rdc")] == [True]
    for output in (None, "out/", "."):
        assert [job.is_named for job in plan(["a.jpg"], output, ".rdc")] == [False]


def test_check_reports_refuses_inputs_each_other_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "link.json").symlink_to("a.jpg")
    check_reports({"--json": "x.json", "--plot": "x.png", "--sheet": None}, ["a.jpg"])
    check_reports({"--json": "-", "--plot": "/dev/null", "--sheet": "/dev/null"}, ["a.jpg"])
    for path in ("a.jpg", "./a.jpg", "link.json"):
        with pytest.raises(UsageError, match="is an input and would be overwritten"):
            check_reports({"--json": path}, ["a.jpg"])
    with pytest.raises(UsageError, match="--json and --plot would both become ./x"):
        check_reports({"--json": "x", "--plot": "./x"}, [])
    with pytest.raises(FileNotFoundError) as caught:
        check_reports({"--json": "no/such/x.json"}, [])
    assert caught.value.filename == "no/such/x.json"
