"""Evaluators of a hyperprior's networks: the CPU, or another device that gives the same integers.

evaluation = evaluator.start(indices)
for each slice, anchors before non-anchors:
    scale_index, means = evaluation.predict(part, anchors=...)
    ...                                                  code the symbols
    evaluation.put(part, values, anchors=...)            input of later predictions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .layers import Levels, MatMul, Wide
from .nets import HyperNet, SliceNets
from .order import Slice, scatter, squeeze
from .tables import Tables


class Evaluation(Protocol):
    """The networks' state for one image."""

    def predict(self, part: Slice, *, anchors: bool) -> tuple[NDArray[np.uint8], Wide]:
        """Return (scale index, means) of a pass, uint8 and int32, both [H, W/2, width of the slice].

        Scale indices are those of `Tables.scale_index`. Called in coding order, after `put` for all previous passes.
        """

    def put(self, part: Slice, values: Wide, *, anchors: bool) -> None:
        """Set y_hat of a pass, int32 [H, W/2, width of the slice], on the grid of y."""


class Evaluator(Protocol):
    """Evaluates the networks of one model. May be used by several threads at once."""

    def start(self, vq_indices: NDArray[np.int32]) -> Evaluation:
        """Begin an image with VQ indices [hz, wz], each in 0 ... K - 1."""


@dataclass(frozen=True)
class HostEvaluator:
    """Evaluates on the CPU.

    Attributes:
        hyper, slices, tables, matmul: see `hyperprior.Hyperprior`.
    """

    hyper: HyperNet
    slices: tuple[SliceNets, ...]
    tables: Tables
    matmul: MatMul

    def start(self, vq_indices: NDArray[np.int32]) -> Evaluation:
        """Return an evaluation, after running the hyper network."""
        return _HostEvaluation(self, vq_indices)


class _HostEvaluation:
    def __init__(self, networks: HostEvaluator, vq_indices: NDArray[np.int32]) -> None:
        self._networks = networks
        hyper = networks.hyper(networks.matmul, vq_indices)
        self._hyper = {anchors: squeeze(hyper, anchors=anchors) for anchors in (True, False)}
        self._levels = np.empty((*hyper.shape[:2], networks.slices[-1].slice.stop), np.uint16)
        self._channel: tuple[int, Levels | None] = (-1, None)  # of which slice, and what

    def predict(self, part: Slice, *, anchors: bool) -> tuple[NDArray[np.uint8], Wide]:
        networks = self._networks
        nets, matmul = networks.slices[part.index], networks.matmul
        if self._channel[0] != part.index:
            self._channel = (part.index, nets.channel_context(matmul, self._levels))
        _, channel = self._channel
        contexts = [self._hyper[anchors]]
        if channel is not None:
            contexts.append(squeeze(channel, anchors=anchors))
        if not anchors:
            contexts.append(nets.local_context(matmul, self._levels))
        scales, means = nets.parameters(matmul, contexts, anchors=anchors)
        return networks.tables.scale_index(scales.ravel()).reshape(scales.shape), means

    def put(self, part: Slice, values: Wide, *, anchors: bool) -> None:
        nets, own = self._networks.slices[part.index], self._levels[..., part.channels]
        if anchors:
            own[:] = nets.zero
        scatter(own, nets.quantise(values), anchors=anchors)
