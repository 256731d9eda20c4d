"""The loop over inputs that `encode` and `decode` share: one bad file does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import RdeicError
from ..files import STREAM
from .console import Console
from .outputs import Job, UsageError

EXIT_USAGE = 2
EXIT_OS_ERROR = 3


def run_batch(jobs: Sequence[Job], work: Callable[[Job], str], console: Console) -> int:
    """Do every job; return 0, or the highest exit code among those that failed.

    Args:
        jobs: what to do, in order.
        work: does one job and returns the line to say about it.
        console: where lines, errors and the bar go.
    """
    worst = 0
    for done, job in enumerate(jobs):
        console.progress(done, len(jobs), job.source)
        try:
            console.line(work(job))
        except BrokenPipeError:
            raise
        except (RdeicError, OSError, UsageError) as error:
            console.error(describe(error, job.source), error)
            worst = max(worst, exit_code(error))
    console.clear()
    return worst


def exit_code(error: RdeicError | OSError | UsageError) -> int:
    """Return the exit code of an error's class."""
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
