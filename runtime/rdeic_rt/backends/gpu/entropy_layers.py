"""The layers of `rdeic_rt.entropy.layers` as kernels take them; entropy_kernels.cu has the arithmetic.

A tensor is two planes of bytes, high and low, [height, width, 4 * words]: channels are padded so that four are a word.
Weights are packed alike. The structures here are those of the source, field by field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_int32, c_int64, c_void_p
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...entropy.layers import Input, Layer, Levels, Requantize
from .buffers import DeviceBuffer
from .kernels import Kernels
from .workspace import Workspace

Constants = dict[str, NDArray[Any]]
"""What networks read and never change, by name."""
OnDevice = Mapping[str, DeviceBuffer]
"""The same on the device."""

KERNELS: Final = ("run_layer", "look_up", "store")
ALL, NON_ANCHORS, ANCHORS = range(3)
TABLE, LEVELS, WIDE, BLOCK, PARAMETERS = range(5)
_MAX_INPUTS = 3
_TILE = 4  # positions of a thread
_BLOCK = (32, 4)  # outputs, tiles
_THREADS = 256


class Planes(ctypes.Structure):
    """Where a tensor is written."""

    _fields_ = [("high", c_void_p), ("low", c_void_p), ("stride", c_int64)]


class _Input(ctypes.Structure):
    _fields_ = [
        ("high", c_void_p),
        ("low", c_void_p),
        ("weights", c_void_p),
        ("weights_low", c_void_p),
        ("mult", c_void_p),
        ("zero", c_void_p),
        ("stride", c_int64),
        ("words", c_int32),
        ("kernel", c_int32),
    ]


class LayerArguments(ctypes.Structure):
    """The argument of ``run_layer``."""

    _fields_ = [
        ("inputs", _Input * _MAX_INPUTS),
        ("offset", c_void_p),
        ("n_inputs", c_int32),
        ("outputs", c_int32),
        ("shift", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("positions", c_int32),
        ("end", c_int32),
        ("in_place", c_int32),
        ("shuffles", c_int32),
        ("out", Planes),
        ("lut", c_void_p),
        ("wide", c_void_p),
        ("out_mult", c_void_p),
        ("out_offset", c_void_p),
        ("out_shift", c_int32),
        ("slope", c_int32),
        ("thresholds", c_void_p),
        ("scale_index", c_void_p),
        ("skip_below", c_int32),
    ]


class LookupArguments(ctypes.Structure):
    """The argument of ``look_up``."""

    _fields_ = [
        ("codes_high", c_void_p),
        ("codes_low", c_void_p),
        ("indices", c_void_p),
        ("high", c_void_p),
        ("low", c_void_p),
        ("positions", c_int64),
        ("words", c_int64),
    ]


class StoreArguments(ctypes.Structure):
    """The argument of ``store``."""

    _fields_ = [
        ("values", c_void_p),
        ("mult", c_void_p),
        ("offset", c_void_p),
        ("zero", c_void_p),
        ("out", Planes),
        ("shift", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("channels", c_int32),
        ("anchors", c_int32),
        ("unused", c_int32),
    ]


ARGUMENTS: Final = {"run_layer": LayerArguments, "look_up": LookupArguments, "store": StoreArguments}
"""The argument of each kernel."""


@dataclass(frozen=True)
class Tensor:
    """Planes of bytes on the device, or some words of each position.

    Attributes:
        planes: uint8 [2, height, width, 4 * stride], the high bytes and then the low ones.
        height, width: positions.
        first_word, words: which of each position.
    """

    planes: DeviceBuffer
    height: int
    width: int
    first_word: int
    words: int

    @staticmethod
    def empty(workspace: Workspace, height: int, width: int, words: int) -> Tensor:
        """Return one with anything in it; only inside `Workspace.entered`."""
        return Tensor(workspace.empty((2, height, width, 4 * words), np.uint8), height, width, 0, words)

    def part(self, first_word: int, words: int) -> Tensor:
        """Return some words of each position, in the same memory."""
        return Tensor(self.planes, self.height, self.width, first_word, words)

    def written(self) -> Planes:
        """Return where it is, for what writes it."""
        high, low = self.addresses()
        return Planes(high, low, self.planes.shape[-1])

    def addresses(self) -> tuple[int, int]:
        """Return the addresses of the high and the low plane."""
        high = self.planes.address + 4 * self.first_word
        return high, high + self.planes.size_bytes // 2


class DeviceLayer:
    """One layer: its constants, and how it is launched."""

    def __init__(
        self, name: str, layer: Layer, constants: Constants, places: Sequence[NDArray[np.intp] | None] = ()
    ) -> None:
        """Add what it reads to the constants.

        Args:
            name: of the layer, before the names of its constants.
            layer: the layer.
            constants: of the networks.
            places: of each input, the channel of the tensor that each of its own is, int [channels]; None, or none
                given, where the tensor has the same.
        """
        self._name, self._layer = name, layer
        self._words: list[int] = []
        for index, part in enumerate(layer.inputs):
            channels = part.high.shape[0] // part.kernel**2
            at = places[index] if index < len(places) else None
            at = np.arange(channels) if at is None else at
            words = words_for(int(at.max()) + 1)
            self._words.append(words)
            add_input(constants, f"{name}/{index}", part, at, words)
        constants[f"{name}/offset"] = layer.offset
        if layer.lut is not None:
            constants[f"{name}/lut"] = layer.lut

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self._layer.outputs

    @property
    def has_table(self) -> bool:
        """Whether it ends in a table."""
        return self._layer.lut is not None

    def arguments(
        self, constants: OnDevice, inputs: Sequence[Tensor], *, end: int, positions: int = ALL, **more: Any
    ) -> LayerArguments:
        """Return what `launch` takes.

        Args:
            constants: those that `__init__` has added, on the device.
            inputs: the tensors, all of one height and width.
            end: what the layer ends in.
            positions: which of the inputs' positions are computed.
            more: fields of `LayerArguments` that the end needs.
        """
        layer, name = self._layer, self._name
        height, width = inputs[0].height, inputs[0].width
        made = LayerArguments(
            offset=constants[f"{name}/offset"].address,
            n_inputs=len(inputs),
            outputs=layer.outputs,
            shift=layer.shift,
            height=height,
            width=width,
            positions=positions,
            end=end,
            lut=None if layer.lut is None else constants[f"{name}/lut"].address,
            **more,
        )
        for index, (part, tensor) in enumerate(zip(layer.inputs, inputs, strict=True)):
            of_input, own = f"{name}/{index}", made.inputs[index]
            assert self._words[index] == tensor.words, (name, index)
            own.high, own.low = tensor.addresses()
            own.weights = constants[f"{of_input}/weights"].address
            own.weights_low = None if part.both is None else constants[f"{of_input}/weights_low"].address
            own.mult = constants[f"{of_input}/mult"].address
            own.zero = None if part.zero is None else constants[f"{of_input}/zero"].address
            own.stride, own.words, own.kernel = tensor.planes.shape[-1] // 4, tensor.words, part.kernel
        return made


def run_layer(kernels: Kernels, arguments: LayerArguments) -> None:
    """Queue a layer."""
    width = arguments.width if arguments.positions == ALL else arguments.width // 2
    grid = (-(-arguments.height * width // (_TILE * _BLOCK[1])), -(-arguments.outputs // _BLOCK[0]))
    kernels.launch("run_layer", arguments, grid, _BLOCK)


def look_up(kernels: Kernels, arguments: LookupArguments) -> None:
    """Queue a look-up of code vectors."""
    _launch_flat(kernels, "look_up", arguments, arguments.positions * arguments.words)


def store(kernels: Kernels, arguments: StoreArguments) -> None:
    """Queue the requantisation of values that were decoded."""
    _launch_flat(kernels, "store", arguments, arguments.height * arguments.width * arguments.channels)


def words_for(channels: int) -> int:
    """Return how many words hold so many bytes."""
    return -(-channels // 4)


def add_input(constants: Constants, name: str, part: Input, places: NDArray[np.intp], words: int) -> None:
    """Add weights, multipliers and padding of one input to the constants; arguments as of `DeviceLayer`."""
    outputs = part.mult.size
    constants[f"{name}/weights"] = _packed(part.high, part.kernel, places, words)
    if part.both is not None:
        constants[f"{name}/weights_low"] = _packed(part.both[:, outputs:], part.kernel, places, words)
    constants[f"{name}/mult"] = part.mult.astype(np.int32)
    if part.zero is not None:
        zero = np.zeros(4 * words, np.uint16)
        zero[places] = part.zero
        constants[f"{name}/zero"] = planes_of(zero)


def add_requantizer(constants: Constants, name: str, requantizer: Requantize) -> None:
    """Add multipliers and offsets to the constants."""
    constants[f"{name}/mult"] = requantizer.mult.astype(np.int32)
    constants[f"{name}/offset"] = requantizer.offset


def planes_of(levels: Levels) -> NDArray[np.uint8]:
    """Return the high and the low bytes of levels [...], uint8 [2, ...]."""
    return np.stack([(levels >> 8).astype(np.uint8), levels.astype(np.uint8)])


def source() -> bytes:
    """Return the source of the kernels."""
    return resources.files(__package__).joinpath("entropy_kernels.cu").read_bytes()


def _packed(rows: NDArray[np.int8], kernel: int, places: NDArray[np.intp], words: int) -> NDArray[np.int8]:
    """Return weights [k * k * channels, outputs] as int8 [k * k, words, outputs, 4], with zeros beside the places."""
    taps, outputs = kernel * kernel, rows.shape[1]
    spread = np.zeros((taps, 4 * words, outputs), np.int8)
    spread[:, places] = rows.reshape(taps, -1, outputs)
    return np.ascontiguousarray(spread.reshape(taps, words, 4, outputs).transpose(0, 1, 3, 2))


def _launch_flat(kernels: Kernels, name: str, arguments: ctypes.Structure, threads: int) -> None:
    kernels.launch(name, arguments, (-(-threads // _THREADS), 1), (_THREADS, 1))
