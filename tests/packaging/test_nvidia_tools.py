"""What docs/nvidia-tools.md shows is run, where it needs no GPU."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from .test_readme import ROOT, run

PAGE = (ROOT / "docs" / "nvidia-tools.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[\w: ]+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
BLOCKS = [(found["mark"], found["language"], found["text"]) for found in BLOCK.finditer(PAGE)]
TO_RUN = [(language, text) for mark, language, text in BLOCKS if mark == "test: run"]
NEED_A_GPU = ("trtexec", "nsys", "--trt")


def test_every_block_is_run_or_says_that_it_needs_a_gpu() -> None:
    assert len(BLOCKS) == PAGE.count("\n```") // 2
    assert {mark for mark, _, _ in BLOCKS} == {"test: run", "needs: gpu"}
    for mark, _, text in BLOCKS:
        commands = re.sub(r"--format \w+", "", text)
        assert any(word in commands.split() for word in NEED_A_GPU) == (mark == "needs: gpu")


@pytest.mark.parametrize(("language", "text"), TO_RUN, ids=[text.splitlines()[0] for _, text in TO_RUN])
def test_what_needs_no_gpu_works(
    language: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_bundle: Path
) -> None:
    """In a folder with the bundle where a checkout has it; polygraphy lies beside the interpreter."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / embedded_bundle.name).symlink_to(embedded_bundle)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    run([sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text], tmp_path)
