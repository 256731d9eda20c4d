"""Largest error of every stage against the released code's golden tensors, over each tensor's rms.

    RDEIC_RT_REFERENCE=reference python -m tests.bench.golden_errors

Runs the checks of ``tests/export/modules/test_golden.py`` and prints what they compare.
"""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.metadata import version

import numpy as np
import torch
from tests.export import reference
from tests.export.modules import test_golden


def main() -> None:
    """Print one line per stage."""
    errors: dict[str, float] = defaultdict(float)

    def record(value: torch.Tensor, expected: np.ndarray, what: str) -> None:
        stage = re.sub(r"slice \d+ |ddpm_L\d_|ddim_L\d_|s\d\.\d|__step\d", "", what).strip()
        errors[stage] = max(errors[stage], reference.relative_error(value, expected))

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
    print(f"torch {version('torch')}, diffusers {version('diffusers')}, limit {test_golden.LIMIT}")
    for stage, error in errors.items():
        print(f"{stage:32s} {error:.1e}")


if __name__ == "__main__":
    main()
