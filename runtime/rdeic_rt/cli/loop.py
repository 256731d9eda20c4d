"""The loop over inputs that `encode` and `decode` share: one bad file does not stop the others.

one at a time      in the main thread
several (--jobs)   in threads, which share the codec and its weights; the main thread says what they found, in the
                   order of the inputs, and is the only one that speaks
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import TypeAlias

from .. import files, stopping, timing
from ..errors import CancelledError
from .console import Console
from .failures import report, worst
from .outputs import Job

_REDRAW_S = 0.2
_log = logging.getLogger("rdeic_rt.cli.loop")

Tell: TypeAlias = Callable[[float, str], None]
"""Called with the share of one input that is done, 0 to 1, and the name of the part that begins."""


@dataclass(frozen=True)
class Done:
    """What became of one input: the line to say about it, the bytes of its .rdc file, and the pixels of its image."""

    line: str
    n_bytes: int
    n_pixels: int


Work: TypeAlias = Callable[[Job, Tell], Done]


class _Tally:
    """Counts what is done, and says it."""

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self._jobs, self._console = jobs, console
        self._began = time.perf_counter()
        self._shares = [0.0] * len(jobs)
        self._part = ""
        self._done: list[Done] = []
        self.codes: list[int] = []

    def telling(self, number: int) -> Tell:
        """Return what an input tells its progress to; it does not draw."""

        def tell(share: float, part: str) -> None:
            self._shares[number], self._part = share, part

        return tell

    def draw(self, number: int) -> None:
        """Draw the bar; ``number``: of the first input that is not done."""
        self._console.progress(sum(self._shares), len(self._jobs), self._jobs[number].source, self._part)

    def finish(self, number: int, outcome: Done | Exception) -> None:
        """Take in what became of an input, and say it; errors as of `failures.report`."""
        self._shares[number], self._part = 1.0, ""
        if isinstance(outcome, Exception):
            self.codes.append(report(outcome, self._jobs[number].source, self._console))
        else:
            self._done.append(outcome)
            self._console.line(outcome.line)

    def say_total(self) -> None:
        """Say what was done of several inputs."""
        if len(self._jobs) < 2:
            return
        n_bytes = sum(one.n_bytes for one in self._done)
        n_pixels = sum(one.n_pixels for one in self._done)
        bpp = f", {8 * n_bytes / n_pixels:.4f} bpp" if n_pixels else ""
        failed = f", {len(self.codes)} failed" if self.codes else ""
        left = len(self._jobs) - len(self._done) - len(self.codes)
        self._console.line(
            f"total: {len(self._done)} of {len(self._jobs)} files, {n_bytes} bytes{bpp}, "
            f"{time.perf_counter() - self._began:.2f} s{failed}{f', {left} not done' if left else ''}"
        )


def run_jobs(jobs: Sequence[Job], work: Work, console: Console, at_a_time: int = 1) -> int:
    """Do every job; return 0, 1 if one ran into a bug, or else the highest exit code among those that failed.

    Args:
        jobs: what to do, in order.
        work: does one job.
        console: where lines, errors, the total and the bar go.
        at_a_time: how many jobs are worked on side by side.
    """
    tally = _Tally(jobs, console)
    try:
        if min(at_a_time, len(jobs)) == 1:
            _one_by_one(jobs, work, console, tally)
        else:
            _in_threads(jobs, work, console, tally, at_a_time)
    except (KeyboardInterrupt, CancelledError):
        tally.say_total()
        raise
    finally:
        console.clear()
    tally.say_total()
    return worst(tally.codes)


def _one_by_one(jobs: Sequence[Job], work: Work, console: Console, tally: _Tally) -> None:
    for number, job in enumerate(jobs):
        tally.draw(number)
        told = tally.telling(number)

        def tell(share: float, part: str, told: Tell = told, number: int = number) -> None:
            told(share, part)
            tally.draw(number)

        tally.finish(number, _outcome(job, work, tell, console))


def _in_threads(jobs: Sequence[Job], work: Work, console: Console, tally: _Tally, n_threads: int) -> None:
    ended = Event()

    def do(number: int) -> tuple[list[str], Done | Exception]:
        why = CancelledError("interrupted")
        with console.held() as said, stopping.asked_by(lambda: why if ended.is_set() else None):
            return said, _outcome(jobs[number], work, tally.telling(number), console)

    # What a thread cannot do for itself is done around them all.
    with console.without_native_messages(), files.removed_when_ended():
        pool = ThreadPoolExecutor(n_threads, thread_name_prefix="rdeic_rt.cli")
        try:
            futures: deque[Future[tuple[list[str], Done | Exception]]] = deque(
                pool.submit(do, number) for number in range(len(jobs))
            )
            for number in range(len(jobs)):
                future = futures.popleft()  # and gone, with the image that an error may refer to
                while not future.done():
                    tally.draw(number)
                    wait([future], _REDRAW_S)
                said, outcome = future.result()
                console.say(said)
                tally.finish(number, outcome)
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


def _outcome(job: Job, work: Work, tell: Tell, console: Console) -> Done | Exception:
    """Do a job and return what became of it, having said how long its stages took to those who ask for everything."""
    if not console.is_verbose:
        return _attempt(job, work, tell)
    with timing.collect() as times:
        outcome = _attempt(job, work, tell)
    stages = ", ".join(f"{name} {ms:.1f} ms" for name, ms in times.total_ms().items())
    _log.debug("%s: %s", job.source, stages or "no stage was reached")
    return outcome


def _attempt(job: Job, work: Work, tell: Tell) -> Done | Exception:
    try:
        return work(job, tell)
    except Exception as error:
        stopping.go_on()  # whatever a library has made of Ctrl-C, it ends the run
        return error
