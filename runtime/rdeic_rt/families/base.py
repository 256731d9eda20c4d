"""What a family is: roles of graphs, the tensors that are coded, and encode, decode and preview as lists of stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Backend, Buffer, Graph, run_checked
from ..placement import Placement, Stage, Value
from ..schedule import Schedule
from ..tensor_spec import TensorSpec


@dataclass(frozen=True)
class Role:
    """What the graph of a role is called with and returns.

    Attributes:
        inputs, outputs: names of tensors; ``residual_*`` stands for residual_0, residual_1, ...: all that the graphs of
            the rate have.
        at_a_level: whether it has the input `manifest.LEVEL` too where rates share their graphs.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]
    at_a_level: bool = False


class Loader(Protocol):
    """Graphs and tables of one rate, where they run."""

    @property
    def backend(self) -> Backend:
        """Where the graphs run."""

    def graph(self, role: str) -> Graph:
        """Return the rate's graph for a role, ready to run."""

    def step_rows(self, schedule: Schedule) -> Mapping[str, NDArray[np.float32]]:
        """Return role -> float32 [L, D], what its input ``step`` is at each step of the schedule."""


class Stages(Protocol):
    """The stages of one list, loaded, with whatever the family needs beside them."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All that `Placement.each` is called with, in order."""


@dataclass(frozen=True)
class Encoder:
    """What `Family.encode` needs where one graph does it all."""

    analysis: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The analysis alone."""
        return (self.analysis,)


class Family(Protocol):
    """How the graphs of a bundle follow each other."""

    @property
    def name(self) -> str:
        """What ``bundle.json`` calls it."""

    @property
    def roles(self) -> Mapping[str, Role]:
        """Every role that a rate must have, in the order data meets them."""

    @property
    def encoding(self) -> frozenset[str]:
        """The roles that only encoding needs."""

    @property
    def alike(self) -> frozenset[str]:
        """Tensors that go by several names and are all of one type and shape."""

    @property
    def has_steps(self) -> bool:
        """Whether it decodes in the steps of a schedule, which every rate then must have."""

    @property
    def coded(self) -> tuple[str, ...]:
        """Names of the tensors that `encode` returns, which the entropy model takes."""

    @property
    def latents(self) -> Mapping[str, str]:
        """Names of the tensors that files are decoded to, and the role that has each as an input."""

    def n_parts(self, schedule: Schedule | None, *, preview: bool) -> int:
        """Return how many parts `decode` or `preview` tells progress of."""

    def load_encoder(self, load: Loader) -> Stages:
        """Return what `encode` needs."""

    def load_decoder(self, load: Loader, schedule: Schedule | None) -> Stages:
        """Return what `decode` needs."""

    def load_preview(self, load: Loader) -> Stages:
        """Return what `preview` needs."""

    def noise(self, decoder: Any, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[Any]]:
        """Return the noise that `decode` is given by name, on the host.

        Args:
            decoder: from `load_decoder`.
            sizes: batch, hz and wz of the image.
            seed: 0 <= seed < 2**64.
        """

    def guidance(self, sharpness: float) -> dict[str, NDArray[Any]]:
        """Return what `decode` is given by name for a sharpness, lambda_s; nothing for 1."""

    def encode(self, at: Placement, encoder: Any, given: Mapping[str, Value]) -> tuple[Value, ...]:
        """Return the tensors named `coded`, for ``image``, uint8 [1, H, W, 3]."""

    def decode(self, at: Placement, decoder: Any, given: Mapping[str, Value]) -> Value:
        """Return the padded image, uint8 [1, H, W, 3].

        Args:
            at: where to do it.
            decoder: from `load_decoder`.
            given: the tensors that a file was decoded to, rows of levels as `level_input` names them, and what `noise`
                and `guidance` return.
        """

    def preview(self, at: Placement, preview: Any, given: Mapping[str, Value]) -> Value:
        """Return the padded image that the latents alone give, uint8 [1, H, W, 3]."""


def level_input(role: str) -> str:
    """Return the name that the row of a role's level has among what is given to a family."""
    return f"{role}.level"


def graph_stage(name: str, load: Loader, role: str, outputs: tuple[str, ...], *, finite: str | None = None) -> Stage:
    """Return the stage that runs one graph.

    Args:
        name, finite: of the `Stage`.
        load: has the graph.
        role: of the graph.
        outputs: what the stage returns, in order.
    """
    graph = load.graph(role)

    def run(inputs: Mapping[str, Buffer]) -> tuple[Buffer, ...]:
        made = run_checked(graph, inputs)
        return tuple(made[output] for output in outputs)

    spec = graph.spec
    inputs = {tensor.name: tensor for tensor in spec.inputs}
    return Stage(name, (graph,), inputs, tuple(spec.output(output) for output in outputs), run, finite=finite)


def start_stage(backend: Backend, schedule: Schedule, latent: TensorSpec) -> Stage:
    """Return the stage that makes z_N = sqrt(abar_N) z_c + sqrt(1 - abar_N) noise of ``z_c`` and ``noise``."""
    weights = backend.put(schedule.start_weights())

    def run(inputs: Mapping[str, Buffer]) -> tuple[Buffer, ...]:
        return (backend.weighted_sum(inputs["z_c"], inputs["noise"], weights),)

    return Stage("start", (), {"z_c": latent, "noise": latent}, (latent,), run, is_part=False)
