"""A bundle's temporary folder, which replaces the bundle in one step at the end (docs/bundle.md)."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rdeic_rt.errors import ExportError, RdeicError

CARD = "README.md"  # the model card: written by hand, not part of the bundle, kept by a rebuild


class Staging:
    """A bundle that is being written, in a folder next to the one it will replace.

    An interrupted build leaves the folder, with a record of the key of each finished file; resuming reuses files with
    the same key. ``bundle.json`` is written last, so an unfinished bundle cannot be loaded.

    Attributes:
        folder: receives the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder.with_name(f"{folder.name}.json")
        self._records: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def finished(self, file: str, key: Mapping[str, Any]) -> Any | None:
        """Return the record of a finished file with the same key, or None if it must be made."""
        record = self._records.get(file)
        path = self.folder / file
        if record is None or record["key"] != key or not path.is_file() or path.stat().st_size != record["bytes"]:
            return None
        return record["facts"]

    def record(self, file: str, key: Mapping[str, Any], facts: Any) -> None:
        """Record that a file is complete, with facts about it that a resumed build needs."""
        self._records[file] = {"key": key, "bytes": (self.folder / file).stat().st_size, "facts": facts}
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._records))
        temporary.replace(self._file)

    def discard(self) -> None:
        """Remove the folder and the record."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._file.unlink(missing_ok=True)


@contextmanager
def staging(target: Path, *, resume: bool = False) -> Iterator[Staging]:
    """Yield a folder beside ``target`` that takes its place on success.

    A build that fails leaves nothing; one that is interrupted (a signal, a full disk) leaves the folder for ``resume``.

    Args:
        target: the bundle's folder.
        resume: begin with what an interrupted build left; else that is removed.

    Raises:
        ExportError: another process is building the same bundle.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.partial")
    with _locked(folder.with_name(f"{folder.name}.lock"), target):
        if not resume:
            Staging(folder).discard()
        folder.mkdir(exist_ok=True)
        stage = Staging(folder)
        try:
            yield stage
        except RdeicError:
            stage.discard()
            raise
        if (target / CARD).is_file():
            shutil.copyfile(target / CARD, folder / CARD)
        _replace(target, folder)
        stage.discard()


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    """Hold a lock file while building; a crash releases it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExportError(f"{target}: another build is writing this bundle. Wait for it to end.") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _replace(target: Path, folder: Path) -> None:
    if not target.exists():
        os.replace(folder, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    os.replace(target, old / "bundle")
    try:
        os.replace(folder, target)
    except OSError:
        os.replace(old / "bundle", target)
        raise
    finally:
        shutil.rmtree(old)
