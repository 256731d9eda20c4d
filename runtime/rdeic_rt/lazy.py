"""Values made on first use."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Cache(Generic[_K, _V]):
    """Values made on first use, each once, whichever thread comes first; a failure is not kept."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        self._make = make
        self._values: dict[_K, _V] = {}
        self._locks: dict[_K, Lock] = {}
        self._lock = Lock()

    def __getitem__(self, key: _K) -> _V:
        if key not in self._values:
            with self._lock:
                lock = self._locks.setdefault(key, Lock())
            with lock:
                if key not in self._values:
                    self._values[key] = self._make(key)
        return self._values[key]
