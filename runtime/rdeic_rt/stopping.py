"""Whether the current work should stop: checked in every long loop, and while a graph runs.

    with stopping.asked_by(why):        # why() returns an error to stop with, or None to continue
        ...
        stopping.go_on()                # raises that error
        with stopping.watch(stop):      # a thread checks every 50 ms, and calls stop() once
            session.run(...)

The check belongs to the context (`contextvars`) that the work runs in, so inner loops need no argument for it, and
codecs used from other threads do not interfere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from threading import Event, Thread
from typing import Final, TypeAlias

from .errors import RdeicError

Why: TypeAlias = Callable[[], RdeicError | None]
"""Returns the error to stop with, or None to continue; called from any thread."""

ASK_EVERY_S: Final = 0.05

_current: ContextVar[Why | None] = ContextVar("rdeic_rt.stopping", default=None)


@contextlib.contextmanager
def asked_by(why: Why | None) -> Iterator[None]:
    """Let `go_on` and `watch` call ``why`` too, in addition to outer blocks, until the block ends; None: no change."""
    outer = _current.get()
    if why is None or outer is None:
        both = why or outer
    else:

        def both() -> RdeicError | None:
            return outer() or why()

    token = _current.set(both)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Why | None:
    """Return the current check; None if there is none."""
    return _current.get()


def go_on() -> None:
    """Raise the error to stop with, if the work should stop."""
    why = _current.get()
    error = why() if why is not None else None
    if error is not None:
        raise error


@contextlib.contextmanager
def watch(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` from another thread as soon as the work should stop, while the block runs.

    The error to stop with then replaces any exception of the block.

    Raises:
        RdeicError: the work was stopped.
    """
    why = _current.get()
    if why is None:
        yield
        return
    ended, found = Event(), list[RdeicError]()

    def ask() -> None:
        while not ended.wait(ASK_EVERY_S):
            error = why()
            if error is not None:
                found.append(error)
                stop()
                return

    thread = Thread(target=ask, name="rdeic_rt.stopping", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        if not found:
            raise
    finally:
        ended.set()
        thread.join()
    if found:
        raise found[0]
