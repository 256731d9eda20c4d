"""NVRTC itself compiles the kernels for every GPU that they are for; that needs no GPU."""

from __future__ import annotations

import pytest

from rdeic_rt.backends.base import BackendAbsentError
from rdeic_rt.backends.gpu import entropy_layers, nvrtc
from rdeic_rt.errors import BackendError
from tests.conftest import missing

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)


@pytest.fixture(scope="module")
def known() -> list[int]:
    try:
        return nvrtc.known_capabilities()
    except BackendAbsentError:
        missing("NVRTC (`pip install nvidia-cuda-nvrtc`)")


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_compile(known: list[int], capability: int) -> None:
    if capability not in known:
        pytest.skip(f"this NVRTC knows {', '.join(map(str, known))}")
    code = nvrtc.compile_for("entropy", entropy_layers.source(), f"sm_{capability}")
    assert code.startswith(b"\x7fELF")
    for name in entropy_layers.KERNELS:
        assert name.encode() in code


def test_ptx_has_products_of_four_bytes_and_no_floats(known: list[int]) -> None:
    ptx = nvrtc.compile_for("entropy", entropy_layers.source(), f"compute_{known[0]}").decode()
    assert "dp4a.u32.s32" in ptx
    assert ".f32" not in ptx
    assert ".f64" not in ptx


def test_error_of_the_source_is_told(known: list[int]) -> None:
    with pytest.raises(BackendError, match=r"NVRTC_ERROR_COMPILATION(.|\n)*undefined"):
        nvrtc.compile_for("broken", b"__global__ void f() { x = 1; }", f"sm_{known[0]}")
