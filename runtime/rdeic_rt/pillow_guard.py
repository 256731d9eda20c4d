"""Control of Pillow: its exceptions, its warnings and the size of images that it opens.

Pillow's readers raise whatever a damaged file makes them run into, warn through Python's warnings, and refuse large
images by a process-wide limit. Here exceptions become `ImageError`, warnings are silenced (relevant problems are
reported elsewhere), and the limit is that of `limits.Limits`.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from .errors import DeviceMemoryError, ImageError, RdeicError

# What is changed is the process's, so one thread at a time changes it.
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # In a forked child nobody is left who would release it.
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def errors() -> Iterator[None]:
    """Convert exceptions of Pillow to errors of this package, for blocks that process a file.

    Raises:
        ImageError: an image cannot be read.
        DeviceMemoryError: there is not enough memory to.
    """
    try:
        yield
    except RdeicError:
        raise
    except MemoryError:
        raise DeviceMemoryError("not enough memory to read the image; scale it down, or free memory") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"the image cannot be decoded: {reason}. Fetch it again, or save it anew") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings from the user, and from becoming errors, while the block runs."""
    with _lock, warnings.catch_warnings():
        # All that is changed for others, if they change filters in another thread meanwhile, is that Pillow is silent.
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


@contextmanager
def any_size() -> Iterator[None]:
    """Let Pillow open images of any size while the block runs, which is to check sizes itself."""
    with _lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
