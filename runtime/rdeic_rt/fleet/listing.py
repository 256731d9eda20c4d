"""The files of a job, each known by its path below the input it was found in; needs no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .pool import JobError
from .workers import ENCODED_SUFFIX, out_name

# What is taken of a folder; a file that is named is taken whatever it is called.
IMAGE_SUFFIXES = frozenset(
    """.avif .bmp .gif .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpg .jxl .pbm .pgm .png .pnm .ppm .qoi .tga .tif .tiff
    .webp""".split()
)
SUFFIXES = {"encode": IMAGE_SUFFIXES, "decode": frozenset({ENCODED_SUFFIX})}


@dataclass(frozen=True)
class File:
    """One input.

    Attributes:
        path: what it is known by: relative to the input folder, or the name of a file that was given; with ``/``.
        source: where it is read, absolute.
    """

    path: str
    source: str

    @property
    def key(self) -> str:
        """What a sample of a WebDataset is called: the path without suffix, and without dots in its last part."""
        path = PurePosixPath(self.path)
        return str(path.with_name(path.stem.replace(".", "_")))


def find(inputs: Sequence[str], suffixes: frozenset[str]) -> list[File]:
    """Return the files of every input, sorted by path.

    Args:
        inputs: files, and folders that are looked through to the bottom; links to folders are not followed.
        suffixes: of the files that are taken in folders, in lower case.

    Raises:
        JobError: two files would be known by the same path.
        OSError: an input cannot be read.
    """
    found: dict[str, str] = {}
    for source in inputs:
        for file in _below(source, suffixes):
            if not file.source.isprintable():
                raise JobError(f"{file.source!r}: a job's names are printable UTF-8; give the file another name")
            if found.setdefault(file.path, file.source) != file.source:
                raise JobError(f"{found[file.path]} and {file.source} are both {file.path} in a job; do them apart")
    return [File(path, found[path]) for path in sorted(found)]


def refuse_clashes(found: Iterable[File], suffix: str | None) -> None:
    """Raise ValueError where two files would become one; ``suffix``: of what they become, None for keys."""
    made_by: dict[str, str] = {}
    for file in found:
        target = file.key if suffix is None else out_name(file.path, suffix)
        if made_by.setdefault(target, file.path) != file.path:
            raise JobError(f"{made_by[target]} and {file.path} would both become {target}; do them apart")


def _below(source: str, suffixes: frozenset[str]) -> Iterator[File]:
    root = os.path.abspath(source)
    if not os.path.isdir(root):
        with open(root, "rb"):
            yield File(os.path.basename(root), root)
        return

    def give_up(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(root, onerror=give_up):
        for name in names:
            if Path(name).suffix.lower() in suffixes:
                path = os.path.join(folder, name)
                yield File(Path(path).relative_to(root).as_posix(), path)
