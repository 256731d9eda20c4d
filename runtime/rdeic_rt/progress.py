"""Progress and cancellation of a decode."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from .errors import CancelledError, LimitExceededError, RdeicError
from .stopping import Why

OnProgress: TypeAlias = Callable[[str, int, int], object]
"""Called with the name of the part that begins, the number of parts done, and the total."""


class CancelToken(Protocol):
    """Whether to stop; `threading.Event` implements it."""

    def is_set(self) -> bool:
        """Return whether to stop."""


@dataclass
class Progress:
    """Counts the parts of one decode, and checks before each whether to continue.

    Attributes:
        total: number of parts.
        on_progress, cancel: as `codec.DecodeOptions` has them.
        max_seconds: as `limits.Limits` has it; counted from when this object was made, or `restart_clock`.
    """

    total: int = 0
    on_progress: OnProgress | None = None
    cancel: CancelToken | None = None
    max_seconds: float | None = None
    _began: float = field(default_factory=lambda: time.monotonic(), repr=False)
    _done: int = field(default=0, repr=False)

    def restart_clock(self) -> None:
        """Count ``max_seconds`` from now."""
        self._began = time.monotonic()

    @property
    def why_stop(self) -> Why | None:
        """The function that `stopping` calls; None if nothing can stop the work."""
        return None if self.cancel is None and self.max_seconds is None else self._why

    def _why(self) -> RdeicError | None:
        if self.cancel is not None and self.cancel.is_set():
            return CancelledError("cancelled by the caller")
        if self.max_seconds is not None and time.monotonic() - self._began > self.max_seconds:
            return LimitExceededError(
                f"not done after {self.max_seconds:g} s (limit max_seconds). Scale the image down, or raise the limit"
            )
        return None

    def begin(self, part: str, *, again: bool = False) -> None:
        """Report a part that begins; ``again``: a further piece of the part that began last.

        Parts beyond the total are not reported: a backend that records runs all of them once more.

        Raises:
            CancelledError: the token is set.
            LimitExceededError: there is no time left.
        """
        if self._done == self.total and not again:
            return
        error = self._why()
        if error is not None:
            raise error
        if self.on_progress is not None:
            self.on_progress(part, self._done - again, self.total)
        if not again:
            self._done += 1

    def end(self) -> None:
        """Report that all parts are done."""
        if self.on_progress is not None:
            self.on_progress("done", self.total, self.total)
