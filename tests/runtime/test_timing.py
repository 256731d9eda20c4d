from __future__ import annotations

import logging
import os
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt import Codec, DecodeOptions, timing

SMALL = np.s_[:64, :64]


class Ranges:
    """Stands in for the package nvtx, and notes which ranges were opened, in order."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.depth = 0

    def annotate(self, text: str) -> Ranges:
        self.opened.append(text)
        return self

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> Ranges:
    fake = Ranges()
    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(annotate=fake.annotate))
    return fake


def test_stage_when_off_is_one_shared_object_and_allocates_nothing() -> None:
    assert timing.stage("vae") is timing.stage("denoise.unet_step", 3)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for step in range(200):
            with timing.stage("denoise.unet_step", step):
                pass
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    inside = [tracemalloc.Filter(True, timing.__file__)]
    grown = after.filter_traces(inside).compare_to(before.filter_traces(inside), "lineno")
    assert sum(entry.size_diff for entry in grown) == 0


def test_collect_waits_before_a_stage_ends_and_books_it() -> None:
    waited = []
    with timing.collect(wait=lambda: waited.append(len(times.seconds))) as times:
        with timing.stage("outer"), timing.stage("outer.inner", 0):
            pass
    assert waited == [0, 1]
    assert list(times.seconds) == ["outer.inner", "outer"]


def test_collect_books_a_stage_that_fails() -> None:
    with timing.collect() as times, pytest.raises(ValueError), timing.stage("outer"):
        raise ValueError
    assert list(times.seconds) == ["outer"]


def test_ranges_name_every_stage_and_step_of_a_decode(codec: Codec, photo: NDArray[np.uint8], ranges: Ranges) -> None:
    data = codec.encode(photo[SMALL])
    options = DecodeOptions(steps=2)
    codec.decode(data, options)
    with timing.collect(nvtx=True):
        codec.decode(data, options)

    stages = ["container", "entropy", "noise", "synthesis", "start", "denoise"]
    steps = [f"denoise.{graph}.{step}" for step in range(2) for graph in ("control", "unet_step")]
    assert ranges.opened == [f"rdeic_rt.{name}" for name in [*stages, *steps, "vae", "pixels"]]
    assert ranges.depth == 0


def test_ranges_are_not_marked_without_being_asked_for(codec: Codec, photo: NDArray[np.uint8], ranges: Ranges) -> None:
    data = codec.encode(photo[SMALL])
    with timing.collect():
        codec.decode(data)
    codec.decode(data)
    assert ranges.opened == []


@pytest.mark.parametrize(
    ("variables", "marked"),
    [
        ({timing.NVTX_VARIABLE: "1"}, True),
        ({timing.NVTX_VARIABLE: "0"}, False),
        ({timing.NVTX_VARIABLE: ""}, False),
        ({timing.NSYS_VARIABLE: "4711"}, True),
        ({timing.NSYS_VARIABLE: "0"}, True),  # a session's number, and no switch
        ({timing.NSYS_VARIABLE: "4711", timing.NVTX_VARIABLE: "0"}, False),
        ({}, False),
    ],
)
def test_environment_marks_ranges_in_every_thread(variables: dict[str, str], marked: bool) -> None:
    script = """
import sys, threading, types, contextlib
opened = []
def annotate(text):
    opened.append(text)
    return contextlib.nullcontext()
sys.modules["nvtx"] = types.SimpleNamespace(annotate=annotate)
from rdeic_rt import timing
def work():
    with timing.stage("vae"), timing.stage("denoise.control", 4):
        pass
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(opened)
"""
    ours = (timing.NVTX_VARIABLE, timing.NSYS_VARIABLE)
    environment = {name: value for name, value in os.environ.items() if name not in ours} | variables
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(["rdeic_rt.vae", "rdeic_rt.denoise.control.4"] if marked else [])


@pytest.mark.parametrize("variable", [timing.NVTX_VARIABLE, timing.NSYS_VARIABLE])
def test_environment_variable_without_nvtx_warns_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    monkeypatch.delenv(timing.NVTX_VARIABLE, raising=False)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with caplog.at_level(logging.WARNING, "rdeic_rt"):
        assert timing._nvtx_of_process() is None
    assert f"{variable} is set" in caplog.text
    assert "pip install 'rdeic-rt[nvtx]'" in caplog.text


def test_collect_with_nvtx_uses_the_package() -> None:
    nvtx = pytest.importorskip("nvtx")
    with timing.collect(nvtx=True) as times, timing.stage("vae"):
        pass
    assert times.nvtx is nvtx
    assert list(times.seconds) == ["vae"]
