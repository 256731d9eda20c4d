from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from rdeic_rt import bundle
from rdeic_rt.backends import select
from rdeic_rt.backends.base import Backend
from rdeic_rt.errors import BackendUnavailableError


def unavailable(threads: int | None) -> Backend:
    raise BackendUnavailableError("openvino: no such CPU. Use cpu.")


def test_open_auto_takes_the_first_that_runs_and_says_why_not_the_others() -> None:
    chosen = select.open_backend()
    assert chosen.backend.name == "cpu"
    assert list(chosen.skipped) == ["tensorrt", "cuda", "openvino"]
    assert all("not part of this version" in reason for reason in chosen.skipped.values())


@pytest.mark.parametrize("name", ["tensorrt", "cuda", "openvino"])
def test_open_backend_not_in_this_version_says_what_to_do(name: str) -> None:
    with pytest.raises(BackendUnavailableError, match=rf"^{name}: .*pip install -U rdeic-rt.*'cpu'"):
        select.open_backend(name)


def test_open_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="auto, tensorrt, cuda, openvino, cpu"):
        select.open_backend("vulkan")


@pytest.mark.parametrize("threads", [0, -1])
def test_open_without_threads_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        select.open_backend("cpu", threads=threads)


def test_open_auto_past_an_installed_backend_that_fails_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(select._OPENERS, "openvino", unavailable)
    with caplog.at_level(logging.WARNING, "rdeic_rt"):
        assert select.open_backend().skipped["openvino"] == "openvino: no such CPU. Use cpu."
    assert "no such CPU" in caplog.text


def test_open_when_nothing_runs_gives_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_OPENERS", {"cpu": unavailable})
    with pytest.raises(BackendUnavailableError, match=r"no backend can run here: tensorrt: .*no such CPU"):
        select.open_backend()


def test_availability_covers_every_name() -> None:
    reasons = select.availability()
    assert tuple(reasons) == select.NAMES
    assert reasons["cpu"] is None


def test_choose_form_takes_what_the_backend_prefers_and_names_what_is_missing(micro_folder: Path) -> None:
    backend = select.open_backend("cpu").backend
    found = bundle.read(micro_folder)
    assert select.choose_form(backend, found, "control", "auto").id == "control"
    assert select.choose_form(backend, found, "control", "fp32").id == "control"
    with pytest.raises(BackendUnavailableError, match=r"in fp32, not in fp16.*build_engines\.py --bundle"):
        select.choose_form(backend, found, "control", "fp16")
    with pytest.raises(ValueError, match="auto, fp32, fp16, int8"):
        select.choose_form(backend, found, "control", "fp8")


def test_choose_form_int8_on_a_cpu_is_the_form_made_for_it(micro_folder: Path) -> None:
    backend = select.open_backend("cpu").backend
    found = bundle.read(micro_folder)
    variants = {"int8": "control.int8", "int8-cpu": "control.int8-cpu"}
    graphs = {"control": replace(found.graphs["control"], variants=variants)}
    graphs |= {name: replace(found.graphs["control"], id=name, precision="int8") for name in variants.values()}
    found = replace(found, graphs=graphs)
    assert select.choose_form(backend, found, "control", "auto").id == "control"
    assert select.choose_form(backend, found, "control", "int8").id == "control.int8-cpu"
