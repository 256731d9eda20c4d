"""The definition of a family: roles of graphs, coded tensors, and the stages of encode, decode and preview."""

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
    """Inputs and outputs of the graph of a role.

    Attributes:
        inputs, outputs: names of tensors; ``residual_*`` stands for all of residual_0, residual_1, ... that the graphs
            of the rate have.
        at_a_level: whether it also has the input `manifest.LEVEL` in bundles with levels.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]
    at_a_level: bool = False


class Loader(Protocol):
    """Loads graphs and tables of one rate to the backend's device."""

    @property
    def backend(self) -> Backend:
        """The backend that runs the graphs."""

    def graph(self, role: str) -> Graph:
        """Return the rate's graph for a role, ready to run."""

    def step_rows(self, schedule: Schedule) -> Mapping[str, NDArray[np.float32]]:
        """Return role -> float32 [L, D], its input ``step`` at each step of the schedule."""


class Stages(Protocol):
    """The loaded stages of one list, with whatever else the family needs."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages that `Placement.each` is called with, in order."""


@dataclass(frozen=True)
class Encoder:
    """The stages of `Family.encode` for families with a single encoding graph."""

    analysis: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The analysis alone."""
        return (self.analysis,)


class Family(Protocol):
    """How the graphs of a bundle are chained."""

    @property
    def name(self) -> str:
        """Its name in ``bundle.json``."""

    @property
    def roles(self) -> Mapping[str, Role]:
        """Every role that a rate must have, in the order of execution."""

    @property
    def encoding(self) -> frozenset[str]:
        """The roles that only encoding needs."""

    @property
    def alike(self) -> frozenset[str]:
        """Names of tensors that all have the same type and shape."""

    @property
    def has_steps(self) -> bool:
        """Whether it decodes in the steps of a schedule, which every rate then must have."""

    @property
    def coded(self) -> tuple[str, ...]:
        """Names of the tensors that `encode` returns and the entropy model codes."""

    @property
    def latents(self) -> Mapping[str, str]:
        """Names of the tensors that files are decoded to, each with the role that reads it."""

    def n_parts(self, schedule: Schedule | None, *, preview: bool) -> int:
        """Return how many parts `decode` or `preview` reports to progress."""

    def load_encoder(self, load: Loader) -> Stages:
        """Return what `encode` needs."""

    def load_decoder(self, load: Loader, schedule: Schedule | None) -> Stages:
        """Return what `decode` needs."""

    def load_preview(self, load: Loader) -> Stages:
        """Return what `preview` needs."""

    def noise(self, decoder: Any, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[Any]]:
        """Return the noise inputs of `decode` by name, on the host.

        Args:
            decoder: from `load_decoder`.
            sizes: batch, hz and wz of the image.
            seed: 0 <= seed < 2**64.
        """

    def guidance(self, sharpness: float) -> dict[str, NDArray[Any]]:
        """Return the inputs of `decode` by name for a sharpness, lambda_s; empty for 1."""

    def encode(self, at: Placement, encoder: Any, given: Mapping[str, Value]) -> tuple[Value, ...]:
        """Return the tensors named `coded`, for ``image``, uint8 [1, H, W, 3]."""

    def decode(self, at: Placement, decoder: Any, given: Mapping[str, Value]) -> Value:
        """Return the padded image, uint8 [1, H, W, 3].

        Args:
            at: the placement that runs it.
            decoder: from `load_decoder`.
            given: the tensors that a file was decoded to, rows of levels under the names of `level_input`, and the
                results of `noise` and `guidance`.
        """

    def preview(self, at: Placement, preview: Any, given: Mapping[str, Value]) -> Value:
        """Return the padded image decoded without denoising, uint8 [1, H, W, 3]."""


def level_input(role: str) -> str:
    """Return the name of the input of a family that holds a role's level row."""
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
    """Return the stage that computes z_N = sqrt(abar_N) z_c + sqrt(1 - abar_N) noise from ``z_c`` and ``noise``."""
    weights = backend.put(schedule.start_weights())

    def run(inputs: Mapping[str, Buffer]) -> tuple[Buffer, ...]:
        return (backend.weighted_sum(inputs["z_c"], inputs["noise"], weights),)

    return Stage("start", (), {"z_c": latent, "noise": latent}, (latent,), run, is_part=False)
