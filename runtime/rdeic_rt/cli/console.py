"""What a person sees on standard error: a line per file, warnings and errors, and a progress bar under them.

The bar is drawn only on a terminal: how many of several inputs are done, or how far one has come. It lives on the last
line: whatever else is said clears it first, and the next step draws it again, so that neither garbles the other.
Standard output stays for results.

What is said of an input that is worked on beside others is held back until its turn comes (`Console.held`).

What a file is called, and what is written in it, may be made to fool a terminal: control characters are shown escaped.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

_log = logging.getLogger("rdeic_rt.cli.console")

PROGRAM = "rdeic-rt"
_BAR_CHARACTERS = 24
_STANDARD_ERROR = 2
_CLEAR_LINE = "\r\x1b[K"
# Control characters, lone surrogates, what breaks lines, and what has no width of its own or turns the direction of
# text; joiners are part of names in many scripts.
_ESCAPED_CATEGORIES = {"Cc", "Cs", "Cf", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
_held: ContextVar[list[str] | None] = ContextVar("rdeic_rt.cli.console", default=None)


def printable(text: str) -> str:
    """Return text in which no character does anything but be shown; others are escaped as in Python."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _ESCAPED_CATEGORIES and character not in _JOINERS
        else character
        for character in text
    )


def write_output(text: str) -> None:
    """Write lines of results to standard output; what its encoding does not have is escaped.

    Raises:
        BrokenPipeError: its reader has left.
        OSError: it cannot be written, which the error says.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = "\n".join(map(printable, text.split("\n")))
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


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
        self._bar = ""  # what is shown of it
        self.is_lost = False  # whether something that was said has not arrived

    def line(self, text: str) -> None:
        """Say one line, unless quiet."""
        if not self._quiet:
            self._write(printable(text) + "\n")

    def error(self, text: str, error: BaseException | None = None) -> None:
        """Say what went wrong, in one line; under it the traceback of `error` when debugging."""
        self._write(f"{PROGRAM}: {printable(text)}\n")
        if error is not None and self._debug:
            self.traceback(error)

    def bug(self, error: BaseException, name: str | None = None) -> None:
        """Say that `error` should not have happened, with its traceback and the input it happened with."""
        self.traceback(error)
        which = "" if name is None else f"{name}: "
        self.error(f"{which}this is a bug in rdeic-rt; please report it with the lines above and what you ran")

    def traceback(self, error: BaseException) -> None:
        """Print the traceback of `error`."""
        self._write("\n".join(map(printable, "".join(traceback.format_exception(error)).split("\n"))))

    @property
    def is_verbose(self) -> bool:
        """Whether everything is to be said."""
        return self._verbose >= 2

    @property
    def has_bar(self) -> bool:
        """Whether `progress` draws anything."""
        return not self._quiet and self._stream is not None and self._stream.isatty()

    def progress(self, done: float, total: int, name: str, part: str = "") -> None:
        """Draw the bar.

        Args:
            done: how many of the inputs are finished, and which share of those in work.
            total: number of inputs. For one alone a bar is drawn only where `part` is known.
            name: of the one in work.
            part: what is done of it.
        """
        if not self.has_bar or (total < 2 and not part):
            return
        filled = min(int(_BAR_CHARACTERS * done / total), _BAR_CHARACTERS)
        count = f"{int(done)}/{total}" if total > 1 else f"{min(int(100 * done), 100)} %"
        text = f"[{'#' * filled}{'.' * (_BAR_CHARACTERS - filled)}] {count} {name}{part and f': {part}'}"
        text = printable(text)[: shutil.get_terminal_size().columns - 1]
        if text != self._bar:
            self._write(text)
            self._bar = text

    def clear(self) -> None:
        """Remove the bar."""
        self._write("")

    @contextmanager
    def held(self) -> Iterator[list[str]]:
        """Hold back what is said in this context (`contextvars`) while the block runs; `say` says it later."""
        texts: list[str] = []
        token = _held.set(texts)
        try:
            yield texts
        finally:
            _held.reset(token)

    def say(self, texts: list[str]) -> None:
        """Say what was held back."""
        for text in texts:
            self._write(text)

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

    @contextmanager
    def python_warnings(self) -> Iterator[None]:
        """Make Python's warnings details for those who ask for everything, while the block runs.

        They are addressed to programmers, and what the environment says of them is for programs under test.
        """

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            _log.debug("%s:%d: %s: %s", filename, lineno, category.__name__, message)

        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = show
            yield

    @contextmanager
    def without_native_messages(self) -> Iterator[None]:
        """Keep what C libraries write to standard error from the user while the block runs, but for one who asks for
        everything. The console is heard as before."""
        stream = self._stream
        try:
            number = -1 if stream is None or self._verbose >= 2 else stream.fileno()
        except (OSError, ValueError):
            number = -1
        if stream is None or number != _STANDARD_ERROR:
            yield
            return
        stream.flush()
        kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        try:
            with open(os.dup(kept), "w", encoding=stream.encoding, errors=stream.errors) as self._stream:
                os.dup2(nowhere, number)
                yield
        finally:
            self._stream = stream
            os.dup2(kept, number)
            os.close(kept)
            os.close(nowhere)

    def _write(self, text: str) -> None:
        held = _held.get()
        if held is not None:
            held.append(text)
            return
        if self._stream is None:
            return
        if self._bar:
            text = _CLEAR_LINE + text
            self._bar = ""
        try:
            if text:
                self._stream.write(text)
                self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError:
            self._stream, self.is_lost = None, True  # a full disk: what is done goes on


class _ConsoleHandler(logging.Handler):
    """Passes records on to a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        self._console.error(level + record.getMessage())
