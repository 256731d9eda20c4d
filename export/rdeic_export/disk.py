"""Files that are gigabytes: whether they fit on the disk, and how to have them in two places at once."""

from __future__ import annotations

import shutil
from pathlib import Path

from rdeic_rt.errors import ExportError


def check_free(folder: Path, wanted_bytes: int, what: str) -> None:
    """Raise ExportError unless so many bytes are free where a folder is or will be."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < wanted_bytes:
        raise ExportError(
            f"{there}: {what} need about {wanted_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. "
            "Free some, or choose another place."
        )


def link(source: Path, target: Path) -> None:
    """Make a file appear at another place, without a second copy where the file system allows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
