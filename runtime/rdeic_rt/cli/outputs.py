"""Which input goes to which output, decided, and refused where it cannot work, before any work starts.

encode photo.jpg                  photo.rdc, beside the input
encode photo.jpg -o out.rdc       out.rdc
encode a.jpg b.png -o folder      folder/a.rdc, folder/b.rdc; the folder is made when it is missing
encode photo.jpg -o folder/       folder/photo.rdc
encode photos -o folder           folder/NAME.rdc of each image in photos; with --recursive folder/SUB/NAME.rdc too
encode -                          standard input to standard output
encode photo.jpg -o -             to standard output

A file that exists is replaced where ``-o`` gives its name. A name made of the input's is taken only where it is free:
what ``decode shot.rdc`` would replace may be the image that was encoded.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..files import STREAM, is_stream

if TYPE_CHECKING:
    from .inputs import Input


class UsageError(Exception):
    """The command line asks for something that cannot be done; said with the usage line, exit code 2."""


@dataclass(frozen=True)
class Job:
    """One input and the output it becomes; either may be `-`.

    Attributes:
        source, target: as given on the command line, or made of what was.
        is_named: whether the command line names the target, and not only a folder, or nothing.
    """

    source: str
    target: str
    is_named: bool = field(default=True, compare=False)


def plan(inputs: Sequence[Input], output: str | None, suffix: str) -> list[Job]:
    """Return one job for each input, in order.

    Args:
        inputs: at least one; `-` alone.
        output: the value of `-o`: a file, a folder, `-`, or None for the default names.
        suffix: of default names, with its dot.
    Raises:
        UsageError: two inputs would share an output, an output is one of the inputs, a stream is mixed with files, or a
            stream that is to carry bytes is a terminal.
    """
    if len(inputs) > 1 and any(given.path == STREAM for given in inputs):
        raise UsageError("'-' (standard input) must be the only input")
    if output == STREAM and len(inputs) > 1:
        raise UsageError(f"{len(inputs)} inputs cannot share standard output; give a folder with -o")
    if output is not None and output != STREAM and _is_folder(output, inputs):
        jobs = [Job(one.path, _inside(output, one, suffix), is_named=False) for one in inputs]
    elif output is not None:
        jobs = [Job(inputs[0].path, output)]
    else:
        jobs = [Job(one.path, _beside(one.path, suffix), is_named=False) for one in inputs]
    _refuse_clashes(jobs)
    if jobs[0].source == STREAM and _is_terminal(sys.stdin):
        raise UsageError("standard input is a terminal; redirect a file into it")
    if jobs[0].target == STREAM and _is_terminal(sys.stdout):
        raise UsageError("refusing to write binary data to a terminal; redirect it, or give -o FILE")
    return jobs


def make_folders(jobs: Sequence[Job], output: str | None) -> None:
    """Make the folder that `-o` names, where it names one, and those below it (OSError when one cannot be made)."""
    if output is None or jobs[0].is_named:
        return
    for folder in dict.fromkeys((output, *(os.path.dirname(job.target) or os.curdir for job in jobs))):
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, folder) from error


def may_replace(job: Job, overwrite: bool | None) -> bool:
    """Return whether the job may replace a file; see `check` for ``overwrite``."""
    return job.is_named if overwrite is None else overwrite


def check(job: Job, overwrite: bool | None) -> None:
    """Raise an OSError where the job's output cannot be written, before the work is done in vain.

    Args:
        job: not begun.
        overwrite: whether files may be replaced; None where the command line does not say so.
    Raises:
        FileExistsError: there is a file that may not be replaced.
        OSError: there is no such folder.
    """
    target = job.target
    if target == STREAM or (job.is_named and is_stream(target)):
        return
    if not may_replace(job, overwrite) and os.path.lexists(target):
        why = "exists, and --no-overwrite was given"
        if overwrite is None:
            why = "exists, and -o does not name it. Give -o FILE, or --overwrite to replace it"
        raise FileExistsError(errno.EEXIST, why, target)
    folder = os.path.dirname(os.path.realpath(target))
    if not os.path.isdir(folder):
        problem = errno.ENOTDIR if os.path.exists(folder) else errno.ENOENT
        raise OSError(problem, os.strerror(problem), target)


def check_reports(reports: Mapping[str, str | None], inputs: Sequence[str | Path]) -> None:
    """Raise where files that are written beside the result cannot be: before anything is measured.

    Args:
        reports: option -> its value, None where it was not given.
        inputs: what is read.
    Raises:
        UsageError: one is an input, or two are the same.
        OSError: there is no such folder.
    """
    sources = {os.path.realpath(source) for source in inputs}
    written: dict[str, str] = {}
    for option, path in reports.items():
        if path is None or path == STREAM:
            continue
        place = os.path.realpath(path)
        if place in sources:
            raise UsageError(f"{option} {path} is an input and would be overwritten; give another name")
        if place in written and not is_stream(path):
            raise UsageError(f"{written[place]} and {option} would both become {path}; give different names")
        written[place] = option
        check(Job(STREAM, path), None)


def _is_folder(output: str, inputs: Sequence[Input]) -> bool:
    must_be = len(inputs) > 1 or inputs[0].subfolder is not None
    if must_be and os.path.exists(output) and not os.path.isdir(output):
        several = "there are several inputs" if len(inputs) > 1 else "the input is a folder"
        raise UsageError(f"-o {output} is a file, but {several}; give a folder")
    separators = (os.sep, os.altsep) if os.altsep else (os.sep,)
    return must_be or output.endswith(separators) or os.path.isdir(output)


def _inside(output: str, given: Input, suffix: str) -> str:
    return str(Path(output, given.subfolder or "", _default_name(given.path, suffix)))


def _default_name(source: str, suffix: str) -> str:
    if source == STREAM:
        raise UsageError("standard input has no name to use in a folder; give a file with -o")
    return Path(source).stem + suffix


def _beside(source: str, suffix: str) -> str:
    return STREAM if source == STREAM else str(Path(source).parent / _default_name(source, suffix))


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    sources = {os.path.realpath(job.source): job.source for job in jobs if job.source != STREAM}
    made_by: dict[str, str] = {}
    for job in jobs:
        if job.target == STREAM:
            continue
        target = os.path.realpath(job.target)
        if target in sources:
            raise UsageError(f"{job.target} is an input and would be overwritten; give another name with -o")
        if target in made_by:
            raise UsageError(f"{made_by[target]} and {job.source} would both become {job.target}; encode them apart")
        made_by[target] = job.source


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()
