"""Single layers by the kernels of entropy networks, as C++ on `fake_cuda`, against `rdeic_rt.entropy.layers`."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt.backends.base import Options
from rdeic_rt.backends.gpu import entropy_layers
from rdeic_rt.backends.gpu.entropy_layers import Constants, DeviceLayer, Tensor, planes_of, words_for
from rdeic_rt.backends.gpu.kernels import Kernels
from rdeic_rt.backends.gpu.workspace import Workspace
from rdeic_rt.entropy.arrays import ArrayReader
from rdeic_rt.entropy.layers import Layer, Levels, matmul_of_onnxruntime
from rdeic_rt.entropy.nets import pixel_shuffle

from ..entropy.test_layers import random_layer, read

pytestmark = pytest.mark.usefixtures("kernels")

MATMUL = matmul_of_onnxruntime(1)
ENDS = {"levels": entropy_layers.LEVELS, "lut": entropy_layers.TABLE, "wide": entropy_layers.WIDE}


class Gpu:
    """The kernels, loaded."""

    def __init__(self) -> None:
        self.workspace = Workspace.open(Options())
        with self.workspace.entered():
            device, stream = self.workspace.device, self.workspace.stream
            self.kernels = Kernels("entropy", entropy_layers.source(), entropy_layers.KERNELS, device, stream)

    def tensor(self, levels: Levels, places: NDArray[np.intp] | None = None) -> Tensor:
        """Return levels [H, W, channels] on the device, each channel at its place, the others full of ones."""
        height, width, channels = levels.shape
        at = np.arange(channels) if places is None else places
        padded = np.full((height, width, 4 * words_for(int(at.max()) + 1)), 65_535, np.uint16)
        padded[..., at] = levels
        with self.workspace.entered():
            planes = self.workspace.upload({"": planes_of(padded)})[""]
        return Tensor(planes, height, width, 0, padded.shape[2] // 4)

    def run(
        self,
        layer: Layer,
        *given: Levels,
        end: str,
        anchors: bool | None = None,
        shuffles: bool = False,
        places: NDArray[np.intp] | None = None,
    ) -> NDArray[Any]:
        """Return what the kernel makes of the inputs."""
        height, width = given[0].shape[:2]
        outputs = layer.outputs
        if anchors is not None:
            width //= 2
        if shuffles:
            height, width, outputs = 2 * height, 2 * width, outputs // 4
        constants: Constants = {}
        made = DeviceLayer("x", layer, constants, [places] * len(given))
        inputs = [self.tensor(levels, places) for levels in given]
        positions = {None: entropy_layers.ALL, True: entropy_layers.ANCHORS, False: entropy_layers.NON_ANCHORS}[anchors]
        with self.workspace.entered():
            there = self.workspace.upload(constants)
            wide = self.workspace.empty((height, width, outputs), np.int32)
            out = Tensor.empty(self.workspace, height, width, words_for(outputs))
            fields: dict[str, Any] = {"wide": wide.address} if end == "wide" else {"out": out.written()}
            arguments = made.arguments(there, inputs, end=ENDS[end], positions=positions, shuffles=shuffles, **fields)
            entropy_layers.run_layer(self.kernels, arguments)
        if end == "wide":
            return self.workspace.download(wide)
        high, low = self.workspace.download(out.planes)[..., :outputs].astype(np.uint16)
        found: Levels = high << 8 | low
        return found


def levels(seed: int, *shape: int) -> Levels:
    return np.random.default_rng(seed).integers(0, 1 << 16, shape, dtype=np.uint16)


def test_structures_have_the_size_of_the_source(kernel_library: ctypes.CDLL) -> None:
    for name in entropy_layers.KERNELS:
        assert kernel_library.arguments_bytes(name.encode()) == ctypes.sizeof(entropy_layers.ARGUMENTS[name])


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("end", ["levels", "lut", "wide"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 2), (10, 6)])
def test_layer_gives_the_integers_of_the_cpu(kernel: int, fine: bool, end: str, size: tuple[int, int]) -> None:
    layer = read(random_layer(kernel, kernel, 7, 9, fine=fine, lut=end == "lut"))
    x = levels(kernel, *size, 7)
    expected = layer.wide(MATMUL, x) if end == "wide" else layer.levels(MATMUL, x)
    assert np.array_equal(Gpu().run(layer, x, end=end), expected)


@pytest.mark.parametrize("anchors", [True, False])
@pytest.mark.parametrize("outputs", [3, 70])
def test_layer_at_anchors_only(anchors: bool, outputs: int) -> None:
    layer = read(random_layer(0, 5, 6, outputs, fine=True, lut=False))
    x = levels(0, 6, 8, 6)
    found = Gpu().run(layer, x, end="levels", anchors=anchors)
    assert np.array_equal(found, layer.levels(MATMUL, x, anchors=anchors))


@pytest.mark.parametrize("end", ["lut", "wide"])
def test_layer_that_shuffles(end: str) -> None:
    layer = read(random_layer(1, 1, 5, 12, fine=True, lut=end == "lut"))
    x = levels(1, 3, 5, 5)
    expected = layer.wide(MATMUL, x) if end == "wide" else layer.levels(MATMUL, x)
    assert np.array_equal(Gpu().run(layer, x, end=end, shuffles=True), pixel_shuffle(expected))


def test_layer_of_channels_that_do_not_lie_side_by_side() -> None:
    layer = read(random_layer(2, 3, 5, 4, fine=True, lut=False))
    x = levels(2, 4, 4, 5)
    found = Gpu().run(layer, x, end="levels", places=np.array([0, 1, 2, 8, 13]))
    assert np.array_equal(found, layer.levels(MATMUL, x))


def test_layer_with_two_inputs_adds_before_rounding() -> None:
    arrays = {f"x.a{name[1:]}": value for name, value in random_layer(2, 1, 3, 5, fine=True, lut=False).items()}
    arrays |= {f"x.b{name[1:]}": value for name, value in random_layer(3, 1, 4, 5, fine=False, lut=False).items()}
    arrays |= {"x.offset": arrays.pop("x.a.offset"), "x.shift": arrays.pop("x.a.shift")}
    del arrays["x.b.offset"], arrays["x.b.shift"]
    layer = Layer.read(ArrayReader(arrays), "x", [3, 4], None, [".a", ".b"], lut=False)
    a, b = levels(4, 4, 3, 3), levels(5, 4, 3, 4)
    assert np.array_equal(Gpu().run(layer, a, b, end="levels"), layer.levels(MATMUL, a, b))


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("low", [64, -64])
def test_layer_of_the_largest_sums_does_not_overflow(fine: bool, low: int) -> None:
    """The most products that loading takes, each as large as can be, and a multiplier that fills 62 bits."""
    channels = (2**17 - 1) // 25
    arrays = random_layer(0, 5, channels, 3, fine=fine, lut=False)
    arrays["x.weight"][:] = np.array([64, -64, 64])
    arrays["x.zero"][:] = 65_535
    largest = (65_535 * 129 if fine else 255) * 64 * 25 * channels
    if fine:
        arrays["x.weight_low"][:] = np.sign(low) * arrays["x.weight"]
    most = min(2**31 - 1, (2**62 - 2**60 - 1) // largest)
    arrays["x.mult"][:], arrays["x.offset"][:], arrays["x.shift"][:] = [most, most, -most], [2**60, 0, -(2**60)], 43
    layer = read(arrays)
    x = np.full((2, 3, channels), 65_535, np.uint16)
    expected = layer.wide(MATMUL, x)
    assert np.array_equal(Gpu().run(layer, x, end="wide"), expected)
    assert len(np.unique(expected)) == 3
