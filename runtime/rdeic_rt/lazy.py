"""Values made on first use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread
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

    def begin(self, key: _K) -> None:
        """Start to make a value in a thread of its own. What goes wrong is met again by whoever asks for the value."""
        if key not in self._values:
            with suppress(RuntimeError):  # without a thread it is made when it is asked for
                Thread(target=self._make_quietly, args=(key,), name="rdeic_rt load").start()

    def _make_quietly(self, key: _K) -> None:
        with suppress(Exception):
            self[key]

    def __getitem__(self, key: _K) -> _V:
        if key not in self._values:
            with self._lock:
                lock = self._locks.setdefault(key, Lock())
            with lock:
                if key not in self._values:
                    self._values[key] = self._make(key)
        return self._values[key]
