"""The user's cache folder, which not every user has."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path | None:
    """Return a folder in the user's cache, which need not be there; None for a user without a home.

    Containers and services often run without ``HOME``, as a user id that has no account.
    """
    import platformdirs

    try:
        return platformdirs.user_cache_path("rdeic-rt", appauthor=False) / name
    except (RuntimeError, KeyError, OSError):
        return None
