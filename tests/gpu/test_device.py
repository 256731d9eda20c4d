"""Images that stay on the GPU, and streams of others, with torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.images import psnr_db

from .conftest import SAME_DB, Files, Load

pytestmark = pytest.mark.gpu

# Kernels for one shape round otherwise than general ones, and until a size has come twice the general ones run.
WARM_UPS = 3
BACKENDS = pytest.mark.parametrize("backend", ["tensorrt", "cuda"])


@pytest.fixture(scope="module")
def torch() -> Any:
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip(f"torch {module.__version__} has no CUDA")
    return module


@BACKENDS
def test_decode_to_the_device_is_taken_by_torch_without_a_copy(
    load: Load, files: Files, torch: Any, backend: str
) -> None:
    fast = load(backend)
    for (height, width), data in files.items():
        expected = [fast.decode(data) for _ in range(WARM_UPS)][-1]
        image = fast.decode_on_device(data)
        tensor = torch.from_dlpack(image)
        assert tensor.data_ptr() == image.address
        assert (tensor.shape, tensor.dtype, tensor.device.type) == ((height, width, 3), torch.uint8, "cuda")
        del image
        np.testing.assert_array_equal(tensor.cpu().numpy(), expected)
        assert torch.as_tensor(fast.decode_on_device(data), device="cuda").shape == (height, width, 3)


@BACKENDS
def test_decode_to_the_device_is_not_overwritten_by_later_ones(
    load: Load, files: Files, torch: Any, backend: str
) -> None:
    """Each image is dropped while torch's work on it may still be waiting."""
    fast = load(backend)
    data = next(iter(files.values()))
    expected = int([fast.decode(data) for _ in range(WARM_UPS)][-1].astype(np.int64).sum())
    sums = []
    for _ in range(50):
        tensor = torch.from_dlpack(fast.decode_on_device(data))
        torch.cuda._sleep(2_000_000)
        sums.append(tensor.to(torch.int64).sum())
        del tensor
    assert {int(value) for value in sums} == {expected}


@BACKENDS
def test_decode_on_a_stream_of_torch(load: Load, files: Files, torch: Any, backend: str) -> None:
    stream = torch.cuda.Stream()
    fast, plain = load(backend, stream=stream), load(backend)
    for data in files.values():
        expected: NDArray[np.uint8] = plain.decode(data)
        for _ in range(3):
            with torch.cuda.stream(stream):
                doubled = torch.from_dlpack(fast.decode_on_device(data)).to(torch.int32) * 2
            stream.synchronize()
            assert psnr_db((doubled // 2).cpu().numpy().astype(np.uint8), expected) >= SAME_DB
