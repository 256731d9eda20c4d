"""The integer networks of an entropy model on the GPU, with the same integers as on the CPU, or not at all.

Of each pass the host gets means and scale indices, the device what was decoded; both through page-locked memory, on a
stream of the networks' own, so that they need not wait for the graphs of other images.

    evaluator = GpuEvaluator(host, workspace)       compiles, and compares all integers of a small input

What cannot be compiled, is not equal or fails later is left to the CPU, which goes on in the middle of an image.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ... import stopping
from ...entropy.coder import MAX_SYMBOL
from ...entropy.evaluator import Evaluation, HostEvaluator
from ...entropy.hyperprior import GRID_BITS
from ...entropy.layers import Layer, Wide
from ...entropy.nets import HyperBlock, SliceNets
from ...entropy.order import Slice
from ...errors import BackendError, DeviceMemoryError
from ..base import BackendAbsentError
from . import entropy_layers as layers
from .cuda import Stream
from .entropy_layers import Constants, DeviceLayer, Tensor, words_for
from .kernels import Kernels
from .workspace import Workspace

PLACE_VARIABLE: Final = "RDEIC_RT_ENTROPY_NETWORKS"
"""Environment variable: ``cpu`` keeps the networks there."""
_PROOF_SIZE = (3, 5)  # of indices: positions at all borders, and a last tile that is not full
_PROOF_REACH = 40  # of symbols there

_log = logging.getLogger("rdeic_rt.backends.gpu.entropy_nets")


class GpuEvaluator:
    """Evaluates on the GPU, and on the CPU where that cannot be; see `rdeic_rt.entropy.evaluator.Evaluator`.

    Attributes:
        host: what gives the same on the CPU.
        why_host: why the CPU evaluates; None if the GPU does.
    """

    def __init__(self, host: HostEvaluator, codec_workspace: Workspace) -> None:
        """Compile the kernels, upload what they read, and compare their results; any failure is in ``why_host``."""
        self.host = host
        self.why_host: str | None = None
        self._networks: _Networks | None = None
        if os.environ.get(PLACE_VARIABLE, "") == "cpu":
            self.why_host = f"{PLACE_VARIABLE} is cpu"
            return
        try:
            networks = _Networks(host, codec_workspace)
            _prove(networks)
            self._networks = networks
        except (BackendError, RuntimeError, AttributeError) as error:  # the last two are what cuda-python may raise
            level = logging.INFO if isinstance(error, BackendAbsentError) else logging.WARNING
            self._leave_to_host(error, level)

    @property
    def place(self) -> str:
        """Where the networks run, for people."""
        return "gpu" if self.why_host is None else f"cpu ({self.why_host})"

    def start(self, vq_indices: NDArray[np.int32]) -> Evaluation:
        """Return an evaluation of an image; see `rdeic_rt.entropy.evaluator.Evaluator.start`."""
        networks = self._networks
        return self.host.start(vq_indices) if networks is None else _Evaluation(self, networks, vq_indices)

    def trim(self) -> None:
        """Give back to the device what is kept for images to come."""
        networks = self._networks
        if networks is not None:
            networks.workspace.trim()

    def failed(self, error: Exception) -> None:
        """Note that the GPU has failed; for lack of memory it may only be this image that is too large."""
        if isinstance(error, DeviceMemoryError):
            _log.info("entropy networks of this image on the cpu: %s", str(error))
        else:
            self._leave_to_host(error, logging.WARNING)

    def _leave_to_host(self, error: Exception, level: int) -> None:
        self._networks = None
        if self.why_host is None:
            self.why_host = str(error)
            _log.log(level, "entropy networks on the cpu: %s", self.why_host)


class _Evaluation:
    """One image on the GPU, until that fails."""

    def __init__(self, evaluator: GpuEvaluator, networks: _Networks, vq_indices: NDArray[np.int32]) -> None:
        self._evaluator = evaluator
        self._vq_indices = vq_indices
        self._passes: list[tuple[Slice, Wide, bool]] = []  # what was put, for a host that takes over
        self._on_device: _DeviceEvaluation | None = None
        self._on_host: Evaluation | None = None
        try:
            self._on_device = _DeviceEvaluation(networks, vq_indices)
        except BackendError as error:
            self._take_over(error)

    def predict(self, part: Slice, *, anchors: bool) -> tuple[NDArray[np.uint8], Wide]:
        stopping.go_on()
        if self._on_device is not None:
            try:
                return self._on_device.predict(part, anchors=anchors)
            except BackendError as error:
                self._take_over(error)
        assert self._on_host is not None
        return self._on_host.predict(part, anchors=anchors)

    def put(self, part: Slice, values: Wide, *, anchors: bool) -> None:
        self._passes.append((part, values, anchors))
        if self._on_device is not None:
            try:
                self._on_device.put(part, values, anchors=anchors)
            except BackendError as error:
                self._take_over(error)
        else:
            assert self._on_host is not None
            self._on_host.put(part, values, anchors=anchors)

    def _take_over(self, error: Exception) -> None:
        """Go on with the host, which is told what was put so far."""
        self._on_device = None
        self._evaluator.failed(error)
        self._on_host = self._evaluator.host.start(self._vq_indices)
        for part, values, anchors in self._passes:
            self._on_host.put(part, values, anchors=anchors)


class _Networks:
    """Kernels and constants of one model on the device, and the workspace of all its evaluations."""

    def __init__(self, host: HostEvaluator, codec_workspace: Workspace) -> None:
        self.host = host
        device = codec_workspace.device
        codes, channels = host.hyper.codebook.shape
        codebook = np.zeros((codes, 4 * words_for(channels)), np.uint16)
        codebook[:, :channels] = host.hyper.codebook
        constants: Constants = {"thresholds": host.tables.thresholds, "codebook": layers.planes_of(codebook)}
        self.blocks = [_Block(f"hyper.{index}", block, constants) for index, block in enumerate(host.hyper.blocks)]
        first_words = [0]
        for nets in host.slices:
            first_words.append(first_words[-1] + words_for(nets.slice.width))
        self.y_words = first_words[-1]
        self.slices = [
            _SliceLayers(nets, first_words[: nets.slice.index + 1], constants, host.slices) for nets in host.slices
        ]
        with device.active():
            self.workspace = Workspace(device, Stream.create(), None, within=codec_workspace.memory)
        with self.workspace.entered():
            stream = self.workspace.stream
            self.kernels = Kernels("entropy", layers.source(), layers.KERNELS, device, stream)
            self.constants = self.workspace.upload(constants)


class _Block:
    """A block of the hyper network."""

    def __init__(self, name: str, block: HyperBlock, constants: Constants) -> None:
        self.name, self.doubles, self.slope, self.out_shift = name, block.doubles, block.slope, block.out.shift
        self.first = DeviceLayer(f"{name}.first", block.first, constants)
        self.skip = DeviceLayer(f"{name}.skip", block.skip, constants)
        self.second = DeviceLayer(f"{name}.second", block.second, constants)
        layers.add_requantizer(constants, f"{name}.out", block.out)


class _SliceLayers:
    """The layers of one slice."""

    def __init__(
        self, nets: SliceNets, first_words: Sequence[int], constants: Constants, all_nets: Sequence[SliceNets]
    ) -> None:
        """Add what they read to the constants; ``first_words`` are those of the slices up to this one in y."""
        index = nets.slice.index
        self.nets = nets
        self.first_word = first_words[index]
        earlier = [4 * first_words[other.slice.index] + np.arange(other.slice.width) for other in all_nets[:index]]
        places = [np.concatenate(earlier)] if earlier else []
        self.channel = [
            DeviceLayer(f"channel.{index}.{k}", layer, constants, places if k == 0 else ())
            for k, layer in enumerate(nets.channel)
        ]
        self.local = DeviceLayer(f"local.{index}", nets.local, constants)
        self.parameters = {
            anchors: [DeviceLayer(f"{name}.{index}.{k}", _only_1x1(layer), constants) for k, layer in enumerate(chain)]
            for anchors, name, chain in ((True, "anchor", nets.anchor), (False, "nonanchor", nets.nonanchor))
        }
        layers.add_requantizer(constants, f"y.{index}", nets.quantise)
        constants[f"y.{index}/zero"] = nets.zero


class _DeviceEvaluation:
    """One image on the GPU; BackendError from any call."""

    def __init__(self, networks: _Networks, vq_indices: NDArray[np.int32]) -> None:
        self._networks = networks
        self._channel: Tensor | None = None
        with networks.workspace.entered():
            x = self._code_vectors(vq_indices)
            for block in networks.blocks:
                x = self._block(block, x)
            self._hyper = x
            self._y = self._tensor(x.height, x.width, networks.y_words)

    def predict(self, part: Slice, *, anchors: bool) -> tuple[NDArray[np.uint8], Wide]:
        networks = self._networks
        nets, workspace = networks.slices[part.index], networks.workspace
        with workspace.entered():
            if anchors:
                self._channel = self._channel_context(nets)
            contexts = [self._hyper] if self._channel is None else [self._hyper, self._channel]
            if not anchors:
                contexts.append(self._local_context(nets))
            first, middle, last = nets.parameters[anchors]
            x = self._tensor_of(first, contexts, layers.TABLE, layers.ANCHORS if anchors else layers.NON_ANCHORS)
            x = self._tensor_of(middle, [x], layers.TABLE)
            shape = (x.height, x.width, part.width)
            count = math.prod(shape)
            made = workspace.empty((5 * count,), np.uint8)  # means, then scale indices
            self._run(
                last,
                [x],
                layers.PARAMETERS,
                wide=made.address,
                scale_index=made.address + 4 * count,
                thresholds=networks.constants["thresholds"].address,
                skip_below=networks.host.tables.skip_below,
            )
        both = workspace.download(made)
        return both[4 * count :].reshape(shape), both[: 4 * count].view(np.int32).reshape(shape)

    def put(self, part: Slice, values: Wide, *, anchors: bool) -> None:
        networks = self._networks
        name, nets, constants = f"y.{part.index}", networks.slices[part.index], networks.constants
        with networks.workspace.entered():
            given = networks.workspace.upload({"": values})[""]
            arguments = layers.StoreArguments(
                values=given.address,
                mult=constants[f"{name}/mult"].address,
                offset=constants[f"{name}/offset"].address,
                zero=constants[f"{name}/zero"].address,
                out=self._own(nets).written(),
                shift=nets.nets.quantise.shift,
                height=self._y.height,
                width=self._y.width,
                channels=part.width,
                anchors=anchors,
            )
            layers.store(networks.kernels, arguments)

    def _code_vectors(self, vq_indices: NDArray[np.int32]) -> Tensor:
        networks = self._networks
        codebook = networks.constants["codebook"]  # [2, K, 4 * words]
        words = codebook.shape[2] // 4
        height, width = vq_indices.shape
        made = self._tensor(height, width, words)
        given = networks.workspace.upload({"": vq_indices})[""]
        high, low = made.addresses()
        arguments = layers.LookupArguments(
            codes_high=codebook.address,
            codes_low=codebook.address + codebook.size_bytes // 2,
            indices=given.address,
            high=high,
            low=low,
            positions=vq_indices.size,
            words=words,
        )
        layers.look_up(networks.kernels, arguments)
        return made

    def _block(self, block: _Block, x: Tensor) -> Tensor:
        """Return the output of a block of the hyper network."""
        scale = 2 if block.doubles else 1
        height, width, hidden = scale * x.height, scale * x.width, block.first.outputs // scale**2
        skipped = self._networks.workspace.empty((height, width, block.second.outputs), np.int32)
        self._run(block.skip, [x], layers.WIDE, shuffles=block.doubles, wide=skipped.address)
        first = self._tensor(height, width, words_for(hidden))
        self._run(block.first, [x], layers.TABLE, shuffles=block.doubles, out=first.written())
        out = self._tensor(height, width, words_for(block.second.outputs))
        constants = self._networks.constants
        self._run(
            block.second,
            [first],
            layers.BLOCK,
            out=out.written(),
            wide=skipped.address,
            slope=block.slope,
            out_mult=constants[f"{block.name}.out/mult"].address,
            out_offset=constants[f"{block.name}.out/offset"].address,
            out_shift=block.out_shift,
        )
        return out

    def _channel_context(self, nets: _SliceLayers) -> Tensor | None:
        """Return the context from the slices before; None for the first."""
        if not nets.channel:
            return None
        x = self._y.part(0, nets.first_word)
        for layer in nets.channel:
            x = self._tensor_of(layer, [x], layers.TABLE if layer.has_table else layers.LEVELS)
        return x

    def _local_context(self, nets: _SliceLayers) -> Tensor:
        """Return the context from the slice's anchors, of which only what lies at non-anchors is there."""
        made = self._tensor(self._y.height, self._y.width, words_for(nets.local.outputs))
        own = [self._own(nets)]
        self._run(nets.local, own, layers.LEVELS, layers.NON_ANCHORS, in_place=1, out=made.written())
        return made

    def _own(self, nets: _SliceLayers) -> Tensor:
        """Return the slice's own channels of y."""
        return self._y.part(nets.first_word, words_for(nets.nets.slice.width))

    def _tensor_of(self, layer: DeviceLayer, inputs: Sequence[Tensor], end: int, positions: int = layers.ALL) -> Tensor:
        """Return a layer's output at the positions that are computed, side by side."""
        width = inputs[0].width if positions == layers.ALL else inputs[0].width // 2
        made = self._tensor(inputs[0].height, width, words_for(layer.outputs))
        self._run(layer, inputs, end, positions, out=made.written())
        return made

    def _tensor(self, height: int, width: int, words: int) -> Tensor:
        return Tensor.empty(self._networks.workspace, height, width, words)

    def _run(
        self, layer: DeviceLayer, inputs: Sequence[Tensor], end: int, positions: int = layers.ALL, **fields: Any
    ) -> None:
        networks = self._networks
        arguments = layer.arguments(networks.constants, inputs, end=end, positions=positions, **fields)
        layers.run_layer(networks.kernels, arguments)


def _prove(networks: _Networks) -> None:
    """Compare every integer of a small input; BackendError unless all are the CPU's."""
    rng = np.random.default_rng(0)
    vq_indices = rng.integers(0, len(networks.host.hyper.codebook), _PROOF_SIZE, np.int32)
    on_host, on_device = networks.host.start(vq_indices), _DeviceEvaluation(networks, vq_indices)
    for nets in networks.host.slices:
        for anchors in (True, False):
            scale_index, means = on_host.predict(nets.slice, anchors=anchors)
            found_index, found_means = on_device.predict(nets.slice, anchors=anchors)
            if not (np.array_equal(found_index, scale_index) and np.array_equal(found_means, means)):
                raise BackendError(f"slice {nets.slice.index} is not what the CPU makes of the same input")
            symbols = rng.integers(-_PROOF_REACH, _PROOF_REACH + 1, means.shape, np.int32)
            symbols.flat[:: _PROOF_REACH + 1] = rng.choice([-MAX_SYMBOL, MAX_SYMBOL])
            values = means + (symbols << GRID_BITS)
            on_host.put(nets.slice, values, anchors=anchors)
            on_device.put(nets.slice, values, anchors=anchors)


def _only_1x1(layer: Layer) -> Layer:
    if any(part.kernel != 1 for part in layer.inputs):
        raise BackendError("the GPU evaluates networks whose layers of scales and means are 1x1")
    return layer
