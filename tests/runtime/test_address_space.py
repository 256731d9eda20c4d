"""Too little memory is an error of one kind, whichever library says so in whatever way."""

from __future__ import annotations

import pytest

from rdeic_rt import address_space
from rdeic_rt.backends import select
from rdeic_rt.errors import BackendUnavailableError, DeviceMemoryError
from rdeic_rt.onnx_runtime import FAILED, Session, ort, ort_state, useful_threads


@pytest.mark.parametrize(
    ("error", "is_shortage"),
    [
        (MemoryError(), True),
        (MemoryError("std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("pthread_create failed with error 11"), True),
        (ImportError("libtiff.so: failed to map segment from shared object"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ort_state.InvalidProtobuf("Failed to load model with error: std::bad_alloc"), True),
        (ort_state.Fail("Non-zero status code: Failed to allocate memory for requested buffer"), True),
        (ort_state.InvalidProtobuf("Protobuf parsing failed."), False),
        (RuntimeError("out of ideas"), False),
        (ValueError("Cannot allocate memory"), False),
        (ImportError("No module named 'x'"), False),
        (FileNotFoundError(2, "No such file or directory"), False),
    ],
)
def test_is_shortage_tells_errors_apart(error: Exception, is_shortage: bool) -> None:
    assert address_space.is_shortage(error) == is_shortage


def test_left_bytes_is_what_the_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (unlimited, unlimited))
    assert address_space.left_bytes() is None
    address_space.check()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**40, unlimited))
    left = address_space.left_bytes()
    assert left is None or 2**39 < left < 2**40  # None where there is no /proc
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**20, unlimited))
    if left is not None:
        with pytest.raises(DeviceMemoryError, match=r"0 MB of address space .*ulimit -v"):
            address_space.check()


def test_openvino_is_not_loaded_where_it_might_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_space, "left_bytes", lambda: 2**30)
    with pytest.raises(BackendUnavailableError, match=r"openvino: 1024 MB of address space"):
        select.open_backend("openvino")
    assert select.open_backend("auto").backend.name != "openvino"


def test_useful_threads_are_no_more_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [useful_threads(n) for n in (None, 1, 4, 5, 10**30)] == [0, 1, 4, 4, 4]
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert useful_threads(8) == 1


def test_failed_has_every_error_of_onnx_runtime() -> None:
    assert {ort_state.Fail, ort_state.InvalidGraph, RuntimeError, MemoryError} <= set(FAILED)


def test_session_that_cannot_be_made_raises_and_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    attempts: list[object] = []

    def fail(self: object, providers: object, *_: object) -> None:
        attempts.append(providers)
        raise RuntimeError("pthread_create failed")

    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(RuntimeError, match="pthread_create failed"):
        Session(b"", providers=["CPUExecutionProvider"])
    assert len(attempts) == 1
    assert capfd.readouterr() == ("", "")
