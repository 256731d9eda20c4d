"""Whether the work in hand is to stop: asked in every loop that can take long, and beside a graph that runs.

    with stopping.asked_by(why):        # why() returns an error to end with, or None to go on
        ...
        stopping.go_on()                # raises that error
        with stopping.watch(stop):      # a thread asks every 50 ms, and calls stop() once
            session.run(...)

It holds for the context (`contextvars`) that the work runs in, so that inner loops need not be handed anything, and
codecs used from other threads are not mixed up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from threading import Event, Thread
from typing import Final, TypeAlias

from .errors import RdeicError

Why: TypeAlias = Callable[[], RdeicError | None]
"""Returns what to end with, or None to go on; called from any thread."""

ASK_EVERY_S: Final = 0.05

_current: ContextVar[Why | None] = ContextVar("rdeic_rt.stopping", default=None)


@contextlib.contextmanager
def asked_by(why: Why | None) -> Iterator[None]:
    """Let `go_on` and `watch` ask this too, besides what is asked already, until the block ends; None: nothing more."""
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
    """Return what says whether to stop; None where nothing can."""
    return _current.get()


def go_on() -> None:
    """Raise what the work is to end with, if it is to stop."""
    why = _current.get()
    error = why() if why is not None else None
    if error is not None:
        raise error


@contextlib.contextmanager
def watch(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` from another thread as soon as the work is to stop, while the block runs.

    What the block raises then is replaced.

    Raises:
        RdeicError: the work was to stop.
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
