"""What a person sees on standard error: a line per file, warnings and errors, and a progress bar under them.

The bar is drawn only on a terminal and only for several inputs. It lives on the last line: whatever else is said clears
it first, and the next step draws it again, so that neither garbles the other. Standard output stays for results.
"""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

PROGRAM = "rdeic-rt"
_BAR_CHARACTERS = 24
_CLEAR_LINE = "\r\x1b[K"


class Console:
    """Lines, errors, library messages and the bar, in the order they happen."""

    def __init__(self, stream: TextIO | None, *, quiet: bool = False, verbose: int = 0, debug: bool = False) -> None:
        """Speak to `stream` (None: nobody listens).

        Args:
            stream: usually sys.stderr.
            quiet: errors only.
            verbose: 0 shows the library's warnings, 1 its facts too, 2 everything.
            debug: errors come with their traceback.
        """
        self._stream = stream
        self._quiet = quiet
        self._verbose = verbose
        self._debug = debug
        self._bar_shown = False

    def line(self, text: str) -> None:
        """Say one line, unless quiet."""
        if not self._quiet:
            self._write(text + "\n")

    def error(self, text: str, error: BaseException | None = None) -> None:
        """Say what went wrong, in one line; under it the traceback of `error` when debugging."""
        self._write(f"{PROGRAM}: {text}\n")
        if error is not None and self._debug:
            self.traceback(error)

    def traceback(self, error: BaseException) -> None:
        """Print the traceback of `error`."""
        self._write("".join(traceback.format_exception(error)))

    def progress(self, done: int, total: int, name: str) -> None:
        """Draw the bar: `done` of `total` inputs are finished, `name` is the one in work."""
        if self._quiet or total < 2 or self._stream is None or not self._stream.isatty():
            return
        filled = _BAR_CHARACTERS * done // total
        text = f"[{'#' * filled}{'.' * (_BAR_CHARACTERS - filled)}] {done}/{total} {name}"
        self._write(text[: shutil.get_terminal_size().columns - 1])
        self._bar_shown = True

    def clear(self) -> None:
        """Remove the bar."""
        self._write("")

    @contextmanager
    def messages_of(self, logger_name: str) -> Iterator[None]:
        """Show that logger's messages here while the block runs."""
        logger = logging.getLogger(logger_name)
        handler = _ConsoleHandler(self)
        level_before = logger.level
        levels = (logging.WARNING, logging.INFO, logging.DEBUG)
        logger.setLevel(logging.ERROR if self._quiet else levels[min(self._verbose, 2)])
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level_before)
            self.clear()

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        if self._bar_shown:
            text = _CLEAR_LINE + text
            self._bar_shown = False
        if text:
            self._stream.write(text)
            self._stream.flush()


class _ConsoleHandler(logging.Handler):
    """Passes records on to a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        self._console.error(level + record.getMessage())
