"""The work behind the routes: codecs, loaded once, and threads that use them.

    admitted ── waits for a worker ── works ── answer
        │             │                 │
       503     504, or the client left: the work ends at its next question whether to stop

At most ``workers`` requests are worked on and ``queue`` wait; more are refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from .. import container, stopping
from ..codec import Codec
from ..errors import BundleMismatchError, BundleNotFoundError, CancelledError, RdeicError
from ..limits import Limits
from .problems import BusyError
from .telemetry import Metrics
from .warm_up import warm_up

_T = TypeVar("_T")
_POLL_S = 0.1


@dataclass(frozen=True)
class Settings:
    """How a server works.

    Attributes:
        load: bundle's folder -> codec; called once for each bundle.
        bundle_folders: of the bundles that are served, the default first.
        limits: ceilings on what requests may ask for.
        workers: requests that are worked on at a time.
        queue: requests that may wait, beside those.
        max_body_bytes: of one request.
        timeout_s: from when a request is read until it is answered; for its body, the same again.
        viewer: whether there is a page at ``/``.
        web_modules: a site of web/build_site.py, with whose modules that page decodes in its tab; None: it cannot.
    """

    load: Callable[[Path], Codec]
    bundle_folders: tuple[Path, ...]
    limits: Limits
    workers: int = 1
    queue: int = 16
    max_body_bytes: int = 2**24
    timeout_s: float = 60.0
    viewer: bool = True
    web_modules: Path | None = None


@dataclass
class Service:
    """Codecs and workers of one application.

    Attributes:
        settings: how it works.
        metrics: what operators see.
        ready: whether every bundle was loaded and has decoded what it encoded.
        draining: whether no further request is taken.
    """

    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    ready: bool = False
    draining: bool = False
    _codecs: dict[str, Codec] = field(default_factory=dict)
    _admitted: int = 0

    def __post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.settings.workers, "rdeic_rt.serve")
        self._workers = asyncio.Semaphore(self.settings.workers)

    def start(self) -> None:
        """Load every bundle, and decode with each what it has encoded, or empty latents if it only decodes.

        Raises:
            RdeicError: a bundle cannot be loaded, or fails.
        """
        for folder in self.settings.bundle_folders:
            codec = self.settings.load(folder)
            warm_up(codec)
            self._codecs[codec.bundle.name] = codec
        self.ready = True

    def close(self) -> None:
        """End the threads, once what they do is done."""
        self.draining = True
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def codecs(self) -> Iterable[Codec]:
        """Every codec, the default first."""
        return self._codecs.values()

    def named(self, name: str | None) -> Codec:
        """Return the codec of a bundle by its name, which is never taken for a path; None: the default.

        Raises:
            BundleNotFoundError: no bundle of that name is served.
        """
        if name is None:
            return next(iter(self._codecs.values()))
        if name not in self._codecs:
            raise BundleNotFoundError(f"no bundle {name!r} is served here: there are {', '.join(self._codecs)}")
        return self._codecs[name]

    def codec_for(self, header: container.Header) -> Codec:
        """Return the codec that a file was made with.

        Raises:
            BundleMismatchError: none of those that are served.
        """
        for codec in self._codecs.values():
            if codec.bundle.has(header.model_id, header.rate):
                return codec
        raise BundleMismatchError(
            f"the file needs model {header.model_id.hex()} at rate {header.rate}, which no bundle has that is served "
            f"here: {', '.join(self._codecs)}"
        )

    @property
    def is_full(self) -> bool:
        """Whether a further request would be refused."""
        return self._admitted >= self.settings.workers + self.settings.queue

    @contextlib.asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold a place in the queue.

        Raises:
            BusyError: there is none, or the server is about to end.
        """
        if self.draining or self.is_full:
            raise BusyError("the server is about to end" if self.draining else "all workers are busy; try again soon")
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1
            self._tell()

    async def run(self, work: Callable[[], _T], is_gone: Callable[[], Awaitable[bool]]) -> _T:
        """Return what ``work`` returns, done by a thread once a worker is free.

        Args:
            work: asks whether to stop (`stopping`).
            is_gone: whether the client has left.

        Raises:
            CancelledError: there was no time left, or the client has left.
        """
        asked_to_stop = threading.Event()
        context = contextvars.copy_context()
        waiting = asyncio.ensure_future(self._in_turn(lambda: context.run(_stoppable, work, asked_to_stop)))
        deadline = asyncio.get_running_loop().time() + self.settings.timeout_s
        reason = ""
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=_POLL_S)
                if waiting.done() or reason:
                    continue
                if asyncio.get_running_loop().time() > deadline:
                    reason = f"not done after {self.settings.timeout_s:g} s"
                elif await is_gone():
                    reason = "the client has left"
                if reason:
                    asked_to_stop.set()
            return waiting.result()
        except CancelledError:
            raise CancelledError(reason or "cancelled") from None
        finally:
            asked_to_stop.set()

    async def _in_turn(self, work: Callable[[], _T]) -> _T:
        self._tell()
        async with self._workers:
            self.metrics.working.inc()
            self._tell()
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
            finally:
                self.metrics.working.dec()

    def _tell(self) -> None:
        self.metrics.queue.set(max(0, self._admitted - self.settings.workers))


def _stoppable(work: Callable[[], _T], asked_to_stop: threading.Event) -> _T:
    """Do the work unless it is to stop, also before it has begun."""

    def why() -> RdeicError | None:
        return CancelledError("cancelled") if asked_to_stop.is_set() else None

    with stopping.asked_by(why):
        stopping.go_on()
        return work()
