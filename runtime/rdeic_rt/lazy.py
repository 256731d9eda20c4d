"""Values made on first use, or ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from threading import Lock, Thread
from typing import Generic, TypeVar

from . import address_space

_K = TypeVar("_K")
_V = TypeVar("_V")


class Cache(Generic[_K, _V]):
    """Values created on first use, each once, by whichever thread is first; a failure is not cached."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        self._make = make
        self._values: dict[_K, _V] = {}
        self._locks: dict[_K, Lock] = {}
        self._lock = Lock()

    def begin(self, key: _K) -> None:
        """Start creating a value in a separate thread. An error there occurs again when the value is used."""
        if key not in self._values:
            _start(Thread(target=self._make_quietly, args=(key,), name="rdeic_rt load"))

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


def begun(make: Callable[[], _V]) -> Callable[[], _V]:
    """Start to make a value in a thread of its own, in this context, and return what waits for it.

    That raises what ``make`` does. Without a thread the value is made when it is asked for.
    """
    values: list[_V] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            values.append(make())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=copy_context().run, args=(run,), name="rdeic_rt ahead")
    if not _start(thread):
        return make

    def wait() -> _V:
        thread.join()
        if errors:
            raise errors[0]
        return values[0]

    return wait


def _start(thread: Thread) -> bool:
    """Start a thread, and return whether it runs.

    It does not where address space is bounded (``ulimit -v``): a library's thread that gets none ends the process.
    """
    if address_space.left_bytes() is not None:
        return False
    try:
        thread.start()
    except RuntimeError:
        return False
    return True
