"""Largest error of every stage against the released codes' golden tensors, over each tensor's rms.

    RDEIC_RT_REFERENCE=reference RDEIC_RT_REFERENCE_DIFFO=reference-diffo python -m tests.bench.golden_errors

Runs the checks of ``test_golden.py`` in ``tests/export/modules`` and in its folder ``diffo``, and prints what they
compare. A family without golden data is left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.metadata import version
from typing import Protocol

import numpy as np
import torch
from tests.export import reference, reference_diffo
from tests.export.modules import test_golden
from tests.export.modules.diffo import test_golden as test_golden_diffo

Errors = dict[str, float]


class Record(Protocol):
    """What stands in for the tests' ``check``."""

    def __call__(self, value: torch.Tensor, expected: np.ndarray, what: str) -> None: ...


def main() -> None:
    """Print one line per stage."""
    print(f"torch {version('torch')}, diffusers {version('diffusers')}, limit {test_golden.LIMIT}")
    for family, folder, run in (("RDEIC", reference.SMALL, rdeic), ("DiffO", reference_diffo.SMALL, diffo)):
        if not folder.is_dir():
            print(f"{family}: no golden data in {folder}")
            continue
        print(family)
        errors: Errors = defaultdict(float)
        run(recorder(errors))
        for stage, error in errors.items():
            print(f"{stage:32s} {error:.1e}")


def recorder(errors: Errors) -> Record:
    """Return a stand-in for the tests' ``check`` that keeps the largest error of every stage in ``errors``."""

    def record(value: torch.Tensor, expected: np.ndarray, what: str) -> None:
        stage = re.sub(r"slice \d+ |ddpm_L\d_|ddim_L\d_|s\d\.\d|__step\d| step \d", "", what).strip()
        errors[stage] = max(errors[stage], reference.relative_error(value, expected))

    return record


def rdeic(record: Record) -> None:
    """Run RDEIC's checks with ``record`` in place of their limit."""
    test_golden.check = record
    model = reference.small_model()
    for image in test_golden.IMAGES:
        test_golden.test_analysis_released_weights_match_golden(model, image)
        test_golden.test_entropy_model_released_weights_match_golden(model, image)
        test_golden.test_synthesis_released_weights_match_golden(model, image)
        test_golden.test_start_released_weights_match_golden(image)
        for n_steps in (2, 5):
            for sampler, sharpness in [*(("ddpm", s) for s in test_golden.SHARPNESS), ("ddim", 1.0)]:
                test_golden.test_denoising_released_weights_match_golden(model, image, sampler, sharpness, n_steps)


def diffo(record: Record) -> None:
    """Run DiffO's checks with ``record`` in place of their limit."""
    test_golden_diffo.check = record
    model = reference_diffo.small_model()
    for image in test_golden_diffo.IMAGES:
        run = reference_diffo.golden(f"run_{image}")
        test_golden_diffo.test_analysis_matches_golden(model, run)
        test_golden_diffo.test_synthesis_matches_golden(model, run)
        test_golden_diffo.test_one_step_from_indices_matches_golden(model, run)
    test_golden_diffo.test_two_ddpm_steps_match_golden(model)
    test_golden_diffo.test_two_ddim_steps_match_golden(model)
    test_golden_diffo.test_every_traced_activation_matches_golden(model)
    test_golden_diffo.test_training_arrays_match_golden(model)
    test_golden_diffo.test_codebook_update_matches_golden()


if __name__ == "__main__":
    main()
