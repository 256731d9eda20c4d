"""Builds what is released, as `python -m build` does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(kind: str, source: Path, folder: Path) -> Path:
    """Return the ``sdist`` or ``wheel`` of a source tree, the one file that is made in a folder."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob({"sdist": "*.tar.gz", "wheel": "*.whl"}[kind])
    return made
