"""Which files the inputs of a command line stand for: a folder is the files in it that have one of a verb's suffixes.

Files of a folder come by name, those of its subfolders (``--recursive``) after them. What is hidden is passed over.
Links to files are followed; links to folders are not, so that no file comes twice and no loop is entered.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .outputs import UsageError

RDC_SUFFIXES = frozenset({".rdc"})
# What Pillow and its common plug-ins read. A file that none of those installed reads is an error of that file.
IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .gif .heic .heif .jfif .jp2 .jpeg .jpg .jxl .pgm .png .ppm .qoi .tga .tif .tiff .webp".split()
)


@dataclass(frozen=True)
class Input:
    """One file to read.

    Attributes:
        path: of the file, or `-`.
        subfolder: where it lies below the folder that was given, empty for that folder itself; None for a file that
            was given by name.
    """

    path: str
    subfolder: str | None = None


def find(words: Sequence[str], suffixes: Collection[str], *, recursive: bool = False) -> list[Input]:
    """Return the files that the inputs stand for, in order.

    Args:
        words: paths of files and folders, or `-`.
        suffixes: of the files that are taken from folders, with their dot, in lower case.
        recursive: look into subfolders too.
    Raises:
        UsageError: a folder has no such file.
        OSError: a folder cannot be read.
    """
    found: list[Input] = []
    for word in words:
        if not os.path.isdir(word):
            found.append(Input(word))
            continue
        files = list(_files(word, "", suffixes, recursive))
        if not files:
            more = "" if recursive else "; --recursive looks into its subfolders"
            raise UsageError(f"{word}: no file in this folder ends in one of {', '.join(sorted(suffixes))}{more}")
        found += files
    return found


def _files(folder: str, subfolder: str, suffixes: Collection[str], recursive: bool) -> Iterator[Input]:
    with os.scandir(os.path.join(folder, subfolder)) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in visible:
        # A link that leads nowhere is taken, so that it is reported; a pipe or device is not, as it might never end.
        is_taken = entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
        if is_taken and os.path.splitext(entry.name)[1].lower() in suffixes:
            yield Input(entry.path, subfolder)
    for entry in visible:
        if recursive and entry.is_dir(follow_symlinks=False):
            yield from _files(folder, os.path.join(subfolder, entry.name), suffixes, recursive)
