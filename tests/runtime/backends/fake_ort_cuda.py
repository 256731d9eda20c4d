"""ONNX Runtime's CUDA provider, played by its CPU provider on `fake_cuda`: for tests without a GPU.

A session refuses stream 0, which would be one of its own. What a run keeps of page-locked memory is given back when the
run is waited for; a session that goes with some left ends the process, as the real one does (1.31 on an H200). Each
change of the shapes is counted, as it plans every convolution anew.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest

from rdeic_rt.backends.cpu.ort import open_session
from rdeic_rt.backends.gpu import ort_cuda

from .fake_cuda import FakeCuda

_NO_WAIT = "disable_synchronize_execution_providers"


class FakeProvider:
    """What the sessions of a test were given and did.

    Attributes:
        settings: of each session, with the graph's id, in order.
        counts: runs, changes of shapes (``planned``), addresses bound, and processes that were ended.
        failing: error messages that the next runs fail with.
    """

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.settings: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.failing: list[str] = []

    def open_session(self, spec: Any, threads: int | None, providers: list[Any]) -> Any:
        settings = providers[0][1]
        self.settings.append({"graph": spec.id, **settings})
        stream = int(settings["user_compute_stream"])
        assert stream != 0, "to ONNX Runtime this is no stream, and it makes one of its own"
        assert stream in self.cuda.streams
        session, weights = open_session(spec, threads, ["CPUExecutionProvider"])
        return Session(session, self), weights


class Session:
    def __init__(self, session: Any, provider: FakeProvider) -> None:
        self._session, self._provider = session, provider
        self._pinned: list[None] = []
        self._shapes: Any = None
        weakref.finalize(self, _gone, self._pinned, provider.counts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Binding:
        return Binding(self._session.io_binding(), self._provider.counts)

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        provider = self._provider
        provider.counts["runs"] += 1
        if binding.shapes != self._shapes:
            provider.counts["planned"] += 1
            self._shapes = binding.shapes
        if provider.failing:
            raise RuntimeError(provider.failing.pop())
        self._session.run_with_iobinding(binding.real, options)
        self._pinned.append(None)
        if not _waits(options):
            return
        provider.cuda.drain()
        self._pinned.clear()


class Binding:
    def __init__(self, real: Any, counts: Counter[str]) -> None:
        self.real = real
        self._counts = counts
        self.shapes: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def bind_input(self, name: str, device: str, ordinal: int, dtype: Any, shape: Any, address: int) -> None:
        self._counts["bound"] += 1
        self.shapes[name] = tuple(shape)
        self.real.bind_input(name, device, 0, dtype, shape, address)

    def bind_output(self, name: str, device: str, ordinal: int, dtype: Any, shape: Any, address: int) -> None:
        self._counts["bound"] += 1
        self.real.bind_output(name, device, 0, dtype, shape, address)


def _waits(options: Any) -> bool:
    try:
        return bool(options.get_run_config_entry(_NO_WAIT) != "1")
    except Exception:  # there is no such entry
        return True


def _gone(pinned: list[None], counts: Counter[str]) -> None:
    counts["aborted"] += bool(pinned)


def install(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """Put it in the place of the provider; memory is the host's."""
    provider = FakeProvider(cuda)
    monkeypatch.setattr(ort_cuda, "_PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(ort_cuda, "_DEVICE_TYPE", "cpu")
    monkeypatch.setattr(ort_cuda, "_ARENA", "cpu")
    monkeypatch.setattr(ort_cuda, "open_session", provider.open_session)
    cuda.is_shared = True
    return provider
