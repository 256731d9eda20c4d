"""A codec belongs to the process that has loaded it.

A child of ``fork()`` has the memory of its parent but none of its threads. Whatever waits for threads then waits for
ever: running a graph, and freeing one, at the latest when the child ends. A codec therefore refuses to work in
a child, and is never freed there. The child can load its own.
"""

from __future__ import annotations

import ctypes
import os
from weakref import WeakSet

from .errors import BackendError

_ADVICE = "Load one in each process, with rdeic_rt.load(), after it has started"

_loaded: WeakSet[object] = WeakSet()


def own(thing: object) -> int:
    """Return the argument for `check`, and ensure that children of this process never free the object."""
    _loaded.add(thing)
    return os.getpid()


def check(owner: int) -> None:
    """Raise BackendError in another process than the one that `own` was called in."""
    if owner != os.getpid():
        raise BackendError(f"this codec was loaded in another process, before fork(), and cannot run here. {_ADVICE}.")


def refuse_pickling() -> TypeError:
    """Return the error for copying a codec, or sending it to another process."""
    return TypeError(f"a codec cannot be pickled or copied: it is bound to its process. {_ADVICE}")


def _keep_for_ever() -> None:
    """In a child: add a reference to each object that is never released."""
    for thing in list(_loaded):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)
