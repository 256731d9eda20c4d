"""What a verb does about an error: one line that names the input, and an exit code."""

from __future__ import annotations

from collections.abc import Sequence

from .. import address_space
from ..errors import DeviceMemoryError, RdeicError
from ..files import STREAM
from .console import Console
from .outputs import UsageError

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_OS_ERROR = 3


def report(error: Exception, source: str, console: Console) -> int:
    """Say what went wrong with one input, so that the others can be done; return the exit code.

    Raises:
        BrokenPipeError: nobody reads the output any more, so that there is no use in going on.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    if isinstance(error, (RdeicError, OSError, UsageError)):
        console.error(describe(error, source), error)
        return exit_code(error)
    if address_space.is_shortage(error):
        console.error(f"{source}: not enough memory; scale the image down, or give a smaller --tile", error)
        return DeviceMemoryError.exit_code
    console.bug(error, source)
    return EXIT_BUG


def worst(codes: Sequence[int]) -> int:
    """Return the exit code of several inputs: 1 if one ran into a bug, or else the highest."""
    return EXIT_BUG if EXIT_BUG in codes else max(codes, default=0)


def exit_code(error: RdeicError | OSError | UsageError) -> int:
    """Return the exit code of an error's class, or that of too little memory, whatever class says so."""
    if address_space.is_shortage(error):
        return DeviceMemoryError.exit_code
    if isinstance(error, RdeicError):
        return error.exit_code
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_OS_ERROR


def describe(error: RdeicError | OSError | UsageError, source: str | None = None) -> str:
    """Return one line about an error, naming the input it happened with."""
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        name = error.filename if error.filename is not None else source
    else:
        text, name = str(error), source
    text = " ".join(text.split())
    if name == STREAM:
        name = "standard input"
    return text if name is None or text.startswith(f"{name}:") else f"{name}: {text}"
