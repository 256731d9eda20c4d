"""Rate and distortion of a bundle on photos, beside JPEG, WebP, AVIF and JPEG XL; needs the extra ``eval``::

    import rdeic_rt
    from rdeic_eval import evaluate

    evaluation = evaluate(rdeic_rt.load(), sorted(Path("photos").glob("*.jpg")))

Modules in the order data meets them: `run` (one photo after another), `reference_codecs` (the others' files, and the
search for one of some size), `perceptual`, `st_lpips` and `resnet` (networks that judge), `psnr` and `metrics` (how
close an image is), `results` (what is found), `summary` (means, intervals, BD-rates), and `report`, `plot` and `sheet`
(text and JSON, curves, images side by side). docs/evaluation.md describes what is measured, and how.

This package is beside rdeic_rt and not in it, because it imports torch; rdeic_rt imports it in `rdeic-rt eval` alone.

Names are imported when they are first used: training needs `perceptual` alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import Evaluation
    from .run import evaluate

__all__ = ["Evaluation", "evaluate"]

# Hidden from type checkers, for which any name would exist otherwise.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module({"Evaluation": ".results", "evaluate": ".run"}[name], __name__), name)
