from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt import bundle, denoise, noise, timing
from rdeic_rt.backends.base import Buffer, Graph
from rdeic_rt.backends.ort import OrtBackend
from rdeic_rt.schedule import load_step_rows

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


@pytest.fixture
def backend() -> OrtBackend:
    return OrtBackend(threads=1)


@pytest.fixture
def denoiser(micro_folder: Path, backend: OrtBackend) -> denoise.Denoiser:
    found = bundle.read(micro_folder)
    return denoise.prepare(
        backend,
        Counting(backend.load(found.graphs["control"])),
        Counting(backend.load(found.graphs["unet_step"])),
        found.schedules["ddpm-2"],
        load_step_rows(found.rates[0].step_tables["ddpm-2"], 2, 2, 3),
    )


def denoised(
    backend: OrtBackend, denoiser: denoise.Denoiser, z_n: Floats, hint: Floats, *, seed: int = SEED, sharpness: float
) -> Floats:
    noises = [noise.gaussian(z_n.shape, seed, k + 1) if c else None for k, c in enumerate(denoiser.schedule.c)]
    guidance = None if sharpness == 1.0 else denoise.guidance_weights(sharpness)
    return backend.get(denoise.run(backend, denoiser, z_n, hint, noises, guidance))


def latents(height: int = 3, width: int = 5) -> tuple[Floats, Floats]:
    return noise.gaussian((1, 4, height, width), 1, 0), noise.gaussian((1, 4, height, width), 2, 0)


def in_numpy(denoiser: denoise.Denoiser, z_n: Floats, hint: Floats, sharpness: float) -> Floats:
    """Return z_0 by the paper's formulas, with the networks of tests/runtime/micro.py."""
    schedule = denoiser.schedule
    control_rows, unet_rows = np.array(denoiser.control_rows), np.array(denoiser.unet_rows)
    for step in range(schedule.n_steps):
        residual = z_n + hint * control_rows[step, 0, 0]
        eps_plain = z_n * unet_rows[step, 0, 0]
        eps = eps_plain + sharpness * residual
        drawn = noise.gaussian(z_n.shape, SEED, step + 1)
        z_n = (schedule.a[step] * z_n + schedule.b[step] * eps + schedule.c[step] * drawn).astype(np.float32)
    return z_n


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.0, 1.5])
def test_run_agrees_with_the_formulas_at_every_sharpness(
    backend: OrtBackend, denoiser: denoise.Denoiser, sharpness: float
) -> None:
    z_n, hint = latents()
    z_0 = denoised(backend, denoiser, z_n, hint, sharpness=sharpness)
    np.testing.assert_allclose(z_0, in_numpy(denoiser, z_n, hint, sharpness), rtol=0, atol=1e-5)


def test_run_plain_needs_batch_one_and_guided_batch_two(backend: OrtBackend, denoiser: denoise.Denoiser) -> None:
    z_n, hint = latents()
    denoised(backend, denoiser, z_n, hint, sharpness=1.0)
    denoised(backend, denoiser, z_n, hint, sharpness=0.5)
    assert denoiser.unet_step.batches == [1, 1, 2, 2]  # type: ignore[attr-defined]
    assert denoiser.control.batches == [1, 1, 1, 1]  # type: ignore[attr-defined]


def test_run_guided_just_beside_one_agrees_with_plain(backend: OrtBackend, denoiser: denoise.Denoiser) -> None:
    z_n, hint = latents()
    plain = denoised(backend, denoiser, z_n, hint, sharpness=1.0)
    guided = denoised(backend, denoiser, z_n, hint, sharpness=1.0 + 1e-7)
    np.testing.assert_allclose(guided, plain, rtol=0, atol=1e-5)


def test_run_two_sizes_in_a_row_repeats_the_first(backend: OrtBackend, denoiser: denoise.Denoiser) -> None:
    z_n, hint = latents()
    first = denoised(backend, denoiser, z_n, hint, sharpness=1.0).copy()
    denoised(backend, denoiser, *latents(8, 4), sharpness=1.0)
    again = denoised(backend, denoiser, z_n, hint, sharpness=1.0)
    np.testing.assert_array_equal(first, again)


def test_run_other_seed_changes_the_result_and_inputs_stay(backend: OrtBackend, denoiser: denoise.Denoiser) -> None:
    z_n, hint = latents()
    copies = z_n.copy(), hint.copy()
    first = denoised(backend, denoiser, z_n, hint, sharpness=0.5)
    other = denoised(backend, denoiser, z_n, hint, seed=SEED + 1, sharpness=0.5)
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_array_equal(z_n, copies[0])
    np.testing.assert_array_equal(hint, copies[1])


def test_run_inside_a_collector_books_each_step(backend: OrtBackend, denoiser: denoise.Denoiser) -> None:
    z_n, hint = latents()
    with timing.collect() as times:
        denoised(backend, denoiser, z_n, hint, sharpness=1.0)
    assert {name: len(values) for name, values in times.seconds.items()} == {
        "denoise.control": 2,
        "denoise.unet_step": 2,
    }
    denoised(backend, denoiser, z_n, hint, sharpness=1.0)
    assert len(times.seconds["denoise.control"]) == 2
