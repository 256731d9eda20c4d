"""Which files of a folder are photos, for calibration and training alike."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


def photos_in(source: Path) -> list[Path]:
    """Return the photos of a folder and the folders below it, in path order; a file stands for itself."""
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
