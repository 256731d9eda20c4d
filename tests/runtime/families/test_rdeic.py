"""The family's steps against the paper's formulas, with the networks of tests/runtime/micro.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt import bundle, noise, timing
from rdeic_rt.backends.base import Buffer, Graph
from rdeic_rt.backends.ort import OrtBackend
from rdeic_rt.errors import BundleCorruptError
from rdeic_rt.families.rdeic import Rdeic
from rdeic_rt.lazy import Cache
from rdeic_rt.limits import Size
from rdeic_rt.loading import RateLoader
from rdeic_rt.placement import Placement, Stage, Tiled, Whole
from rdeic_rt.tiles import tiles_of

Floats = NDArray[np.float32]
SEED = 7


class Counting:
    """A graph that remembers the batch of each run."""

    def __init__(self, graph: Graph) -> None:
        self.spec = graph.spec
        self.batches: list[int] = []
        self._graph = graph

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        self.batches.append(inputs["z_n"].shape[0])
        return self._graph.run(inputs)


class Steps:
    """The steps of the micro bundle in one placement, with graphs that count."""

    def __init__(self, folder: Path, schedule: str = "ddpm-2") -> None:
        self.bundle = bundle.read(folder)
        self.backend = OrtBackend(threads=1)
        self.graphs: dict[str, Counting] = {}

        def load(key: tuple[str, str]) -> Graph:
            self.graphs[key[0]] = Counting(self.backend.load(self.bundle.graphs[key[0]][key[1]]))
            return self.graphs[key[0]]

        self.loader = RateLoader(self.bundle, self.bundle.rates[0], self.backend, "fp32", Cache(load))
        self.schedule = self.bundle.schedules[schedule]
        self.stages: tuple[Stage, ...] = Rdeic().load_decoder(self.loader, self.schedule).steps

    def __call__(
        self, z_n: Floats, hint: Floats, *, seed: int = SEED, sharpness: float, at: Placement | None = None
    ) -> Floats:
        """Return z_0."""
        at = at or Whole(self.backend)
        guidance = None if sharpness == 1.0 else np.array([sharpness, 1 - sharpness], np.float32)
        for number, stage in enumerate(self.stages):
            drawn = noise.gaussian(z_n.shape, seed, number + 1) if self.schedule.c[number] else None
            (z_n,) = at.each(stage, z_n=z_n, hint=hint, noise=drawn, guidance=guidance)  # type: ignore[assignment]
        return at.get(z_n)

    def in_numpy(self, z_n: Floats, hint: Floats, sharpness: float) -> Floats:
        """Return z_0 by the paper's formulas."""
        schedule, rows = self.schedule, self.loader.step_rows(self.schedule)
        for step in range(schedule.n_steps):
            residual = z_n + hint * rows["control"][step, 0]
            eps = z_n * rows["unet_step"][step, 0] + sharpness * residual
            drawn = noise.gaussian(z_n.shape, SEED, step + 1)
            z_n = (schedule.a[step] * z_n + schedule.b[step] * eps + schedule.c[step] * drawn).astype(np.float32)
        return z_n


@pytest.fixture
def steps(micro_folder: Path) -> Steps:
    return Steps(micro_folder)


def latents(height: int = 8, width: int = 16) -> tuple[Floats, Floats]:
    return noise.gaussian((1, 4, height, width), 1, 0), noise.gaussian((1, 4, height, width), 2, 0)


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.0, 1.5])
def test_steps_agree_with_the_formulas_at_every_sharpness(steps: Steps, sharpness: float) -> None:
    z_n, hint = latents()
    z_0 = steps(z_n, hint, sharpness=sharpness)
    np.testing.assert_allclose(z_0, steps.in_numpy(z_n, hint, sharpness), rtol=0, atol=1e-5)


def test_plain_steps_need_batch_one_and_guided_ones_two(steps: Steps) -> None:
    z_n, hint = latents()
    steps(z_n, hint, sharpness=1.0)
    steps(z_n, hint, sharpness=0.5)
    assert steps.graphs["unet_step"].batches == [1, 1, 2, 2]
    assert steps.graphs["control"].batches == [1, 1, 1, 1]


def test_guided_just_beside_one_agrees_with_plain(steps: Steps) -> None:
    z_n, hint = latents()
    plain, guided = (steps(z_n, hint, sharpness=sharpness) for sharpness in (1.0, 1.0 + 1e-7))
    np.testing.assert_allclose(guided, plain, rtol=0, atol=1e-5)


def test_two_sizes_in_a_row_repeat_the_first(steps: Steps) -> None:
    z_n, hint = latents()
    first = steps(z_n, hint, sharpness=1.0).copy()
    steps(*latents(24, 8), sharpness=1.0)
    np.testing.assert_array_equal(first, steps(z_n, hint, sharpness=1.0))


def test_another_seed_changes_the_result_and_inputs_stay(steps: Steps) -> None:
    z_n, hint = latents()
    copies = z_n.copy(), hint.copy()
    first = steps(z_n, hint, sharpness=0.5)
    other = steps(z_n, hint, seed=SEED + 1, sharpness=0.5)
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_array_equal(z_n, copies[0])
    np.testing.assert_array_equal(hint, copies[1])


def test_each_step_is_booked_inside_a_collector(steps: Steps) -> None:
    z_n, hint = latents()
    with timing.collect() as times:
        steps(z_n, hint, sharpness=1.0)
    assert {name: len(values) for name, values in times.seconds.items()} == {
        "denoise.control": 2,
        "denoise.unet_step": 2,
    }
    steps(z_n, hint, sharpness=1.0)
    assert len(times.seconds["denoise.control"]) == 2


@pytest.mark.parametrize("sharpness", [1.0, 0.5])
def test_steps_in_tiles_are_those_of_the_whole(steps: Steps, sharpness: float) -> None:
    """The micro bundle's networks look at one position, so that tiles are exact."""
    z_n, hint = latents(64, 56)
    tiling = tiles_of(Size(512, 448), 256, None, 64)
    assert not tiling.is_single
    tiled = steps(z_n, hint, sharpness=sharpness, at=Tiled(steps.backend, tiling))
    np.testing.assert_array_equal(tiled, steps(z_n, hint, sharpness=sharpness))


@pytest.mark.parametrize("tiled", [False, True])
def test_latents_that_are_not_finite_are_refused_before_they_become_an_image(steps: Steps, tiled: bool) -> None:
    vae_decoder = Rdeic().load_preview(steps.loader).vae_decoder
    z_0, _ = latents(64, 56)
    z_0[0, 0, -1, -1] = np.nan
    tiling = tiles_of(Size(512, 448), 256, None, 64)
    at: Placement = Tiled(steps.backend, tiling) if tiled else Whole(steps.backend)
    with pytest.raises(BundleCorruptError, match="not finite"):
        at.each(vae_decoder, z_0=z_0)
