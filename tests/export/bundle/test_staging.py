"""A folder beside the bundle: taken up when resuming, and nothing of it left in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdeic_export.bundle import staging


def test_staging_resumed_takes_only_whole_files_of_the_same_key_and_not_resumed_none(tmp_path: Path) -> None:
    key = {"weights": {"a.ckpt": "0123"}, "half_weights": True}
    with pytest.raises(KeyboardInterrupt), staging.staging(tmp_path / "x") as stage:
        for name in ("whole.onnx", "cut.onnx"):
            (stage.folder / name).write_bytes(b"graph")
            stage.record(name, key, 0.25)
        raise KeyboardInterrupt
    (tmp_path / ".x.partial" / "cut.onnx").write_bytes(b"gra")
    with pytest.raises(KeyboardInterrupt), staging.staging(tmp_path / "x", resume=True) as stage:
        assert stage.finished("whole.onnx", key) == 0.25
        assert stage.finished("whole.onnx", {**key, "half_weights": False}) is None
        assert stage.finished("cut.onnx", key) is None
        assert stage.finished("never.onnx", key) is None
        raise KeyboardInterrupt
    with staging.staging(tmp_path / "x") as stage:
        assert stage.finished("whole.onnx", key) is None
        assert list(stage.folder.iterdir()) == []


def test_building_again_keeps_the_model_card_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    for name in ("README.md", "old.onnx"):
        (target / name).write_text("by people")
    with staging.staging(target) as stage:
        (stage.folder / "new.onnx").write_bytes(b"graph")
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "new.onnx"]
    assert (target / "README.md").read_text() == "by people"
