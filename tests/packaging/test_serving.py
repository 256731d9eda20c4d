"""The recipe of docs/serving.md works, and its table names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import rdeic_rt
from rdeic_rt.container import Header, pack
from rdeic_rt.limits import Limits, Size

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource")
def test_recipe_decodes_refuses_and_goes_on(tmp_path: Path) -> None:
    found = re.search(r"<!-- test: server -->\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    (tmp_path / "server.py").write_text(found[1], encoding="utf-8")
    rate = rdeic_rt.load(backend="cpu").bundle.choose_rate(None)
    for name, size in (("small", Size(64, 48)), ("huge", Size(8192, 8192))):
        header = Header(size=size, model_id=rate.model_id, rate=rate.number, z_is_plain=False)
        (tmp_path / f"{name}.rdc").write_bytes(pack(header, b"", b""))
    (tmp_path / "noise.rdc").write_bytes(b"no such file")

    names = ["noise.rdc", "huge.rdc", "missing.rdc", "small.rdc"]
    done = subprocess.run(
        [sys.executable, "server.py", *names], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("noise.rdc NotRdcError: ")
    assert lines[1].startswith("huge.rdc LimitExceededError: ")
    assert "max_pixels" in lines[1]
    assert lines[2].startswith("missing.rdc FileNotFoundError: ")
    assert lines[3] == "small.rdc (64, 48, 3)"


def test_table_has_every_limit() -> None:
    assert {field.name for field in fields(Limits)} <= set(re.findall(r"`(max_\w+)`", PAGE))
