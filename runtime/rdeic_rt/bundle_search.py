"""The search for bundles, by path or by name in the folders that hold bundles (docs/bundle.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from . import user_cache
from .errors import BundleNotFoundError

MANIFEST = "bundle.json"
DEFAULT_NAME = "tiny-2"
SEARCH_VARIABLE = "RDEIC_RT_BUNDLES"
PULL = "rdeic-rt bundle pull SOURCE"  # the command that messages name


def find(source: str | Path | None = None) -> Path:
    """Return the folder of a bundle: an existing path as it is, a name from the first of `search_folders` that has it.

    A source with a path separator, or an existing folder, is a path; anything else is a name.

    Raises:
        BundleNotFoundError: the message lists every place that was searched.
    """
    name = DEFAULT_NAME if source is None else source
    looked = []
    if source is not None:
        path = _with_home(name)
        if (path / MANIFEST).is_file():
            return path.resolve()
        looked.append(path)
    if isinstance(name, str) and name not in ("", ".", "..") and not any(c in name for c in "/\\:"):
        for folder in search_folders():
            if (folder / name / MANIFEST).is_file():
                return (folder / name).resolve()
            looked.append(folder / name)
    raise BundleNotFoundError(
        f"no bundle {str(name)!r}: there is no {MANIFEST} in {', '.join(map(str, looked))}. "
        f"Give a bundle's folder, put the folder that holds it into {SEARCH_VARIABLE}, or get it: {PULL}"
    )


def search_folders() -> tuple[Path, ...]:
    """Return the folders that hold bundles by name, first match first.

    They are those listed in the environment variable ``RDEIC_RT_BUNDLES``, the user's cache folder where there is a
    user with a home, and the ``engines`` folder of the installed package or of the checkout it runs from.
    """
    listed = [_with_home(p) for p in os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep) if p]
    cache = cache_folder()
    return (*listed, *([cache] if cache else []), *_embedded_folders())


def cache_folder() -> Path | None:
    """Return the folder of the user's own bundles, which need not be there; None for a user without a home."""
    return user_cache.folder("bundles")


def is_embedded(folder: Path) -> bool:
    """Return whether a bundle's folder came with the package, or lies in the checkout it runs from."""
    return folder.parent.resolve() in [one.resolve() for one in _embedded_folders()]


def _embedded_folders() -> tuple[Path, Path]:
    package = Path(__file__).resolve().parent
    return package / "engines", package.parent.parent / "engines"


def _with_home(path: str | Path) -> Path:
    """Return a path with ``~`` for the home it stands for; as it is where there is none."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, KeyError, OSError):
        return Path(path)


def installed() -> tuple[Path, ...]:
    """Return the folder of every bundle that `find` would return by name, in search order."""
    found: dict[str, Path] = {}
    for folder in search_folders():
        if folder.is_dir():
            for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
                found.setdefault(manifest.parent.name, manifest.parent.resolve())
    return tuple(found.values())


def default_first() -> Iterator[Path]:
    """Yield the default bundle's folder, if there is one, and then those of the other `installed` bundles.

    The search is lazy.
    """
    default = None
    with suppress(BundleNotFoundError):
        default = find()
        yield default
    yield from (folder for folder in installed() if folder != default)
