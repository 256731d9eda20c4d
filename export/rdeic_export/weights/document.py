"""What recipes of all families have in common: how weights may be named, and what is wrong with a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rdeic_rt.errors import ExportError

OWN, RELEASED, RANDOM = "rdeic-rt", "released", "random"


@contextmanager
def reading(path: Path, models: Iterable[str]) -> Iterator[None]:
    """Convert errors while a recipe is read into an ExportError that names the file, and the known models."""
    try:
        yield
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ExportError(f"{path}: not a readable recipe: {error}") from error
    except KeyError as error:
        raise ExportError(f"{path}: missing or unknown value for {error}; models are {', '.join(models)}") from error


def check_files(files: Sequence[Path], name: str) -> None:
    """Raise ExportError that lists the files of weights that are not there."""
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        raise ExportError(f"{name}: no such weights: {', '.join(missing)}")
