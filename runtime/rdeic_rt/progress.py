"""How far a decode has come, and whether to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from .errors import CancelledError

OnProgress: TypeAlias = Callable[[str, int, int], object]
"""Called with the name of the part that begins, and the numbers of parts done and of all parts."""


class CancelToken(Protocol):
    """Says whether to stop; `threading.Event` is one."""

    def is_set(self) -> bool:
        """Return whether to stop."""


@dataclass
class Progress:
    """Counts the parts of one decode, and asks before each whether to go on.

    Attributes:
        total: number of parts.
        on_progress, cancel: as `codec.DecodeOptions` has them.
    """

    total: int = 0
    on_progress: OnProgress | None = None
    cancel: CancelToken | None = None
    _done: int = field(default=0, repr=False)

    def begin(self, part: str, *, again: bool = False) -> None:
        """Tell of a part that begins; ``again``: of a further piece of the one that began last.

        Of more parts than there are nothing is told: a backend that records runs all of them once more.

        Raises:
            CancelledError: the token is set.
        """
        if self._done == self.total and not again:
            return
        if self.cancel is not None and self.cancel.is_set():
            raise CancelledError("cancelled by the caller")
        if self.on_progress is not None:
            self.on_progress(part, self._done - again, self.total)
        if not again:
            self._done += 1

    def end(self) -> None:
        """Tell that all parts are done."""
        if self.on_progress is not None:
            self.on_progress("done", self.total, self.total)
