"""A wrong checkpoint is named for what it is."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdeic_export.modules.config import SD21
from rdeic_export.weights import architecture

RELEASED = Path(__file__).parents[2] / "data" / "released" / "keys.json.gz"
UNET = "model.diffusion_model."
TEXT = "transformer_blocks.0.attn2.to_k.weight"


@dataclass(frozen=True)
class Shape:
    shape: tuple[int, ...]


def shapes(keys: dict[str, list[int]]) -> dict[str, Shape]:
    return {key: Shape(tuple(shape)) for key, shape in keys.items()}


def released(prefixes: tuple[str, ...]) -> dict[str, Shape]:
    keys = json.loads(gzip.decompress(RELEASED.read_bytes()))
    return shapes({k: v for k, v in keys.items() if k.startswith(prefixes)})


def test_released_checkpoints_are_not_mistaken() -> None:
    own = released(("control_model.", "preprocess_model."))
    stable_diffusion = released((UNET, "first_stage_model."))
    assert architecture.of_rdeic(own) is None
    assert architecture.of_stable_diffusion(stable_diffusion, SD21) is None
    # A Lightning checkpoint may hold Stable Diffusion beside its own keys.
    assert architecture.of_rdeic(own | stable_diffusion) is None
    assert architecture.of_stable_diffusion(own | stable_diffusion, SD21) is None
    assert "pass it as --sd" in str(architecture.of_rdeic(stable_diffusion))
    assert "pass it as --checkpoint" in str(architecture.of_stable_diffusion(own, SD21))
    assert "no released RDEIC checkpoint" in str(architecture.of_rdeic(shapes({"weight": [1]})))


@pytest.mark.parametrize(
    "keys, expected",
    [
        ({f"{UNET}input_blocks.1.1.{TEXT}": [320, 768]}, r"Stable Diffusion 1\.x \(context width 768, expected 1024\)"),
        ({f"{UNET}input_blocks.4.1.{TEXT}": [640, 2048]}, "Stable Diffusion XL .*2048, expected 1024"),
        ({f"{UNET}input_blocks.4.1.{TEXT}": [768, 1280]}, "XL refiner"),
        ({f"down_blocks.0.attentions.0.{TEXT}": [320, 768]}, r"Stable Diffusion 1\.x"),
        ({f"down_blocks.1.attentions.0.{TEXT}": [640, 2048]}, "Stable Diffusion XL"),
        ({f"down_blocks.1.attentions.0.{TEXT}": [640, 1000]}, "another model .context width 1000"),
        ({f"{UNET}input_blocks.0.0.weight": [320, 9, 3, 3]}, "inpainting model .9 input channels, expected 4"),
        ({"conv_in.weight": [320, 5, 3, 3]}, "depth-to-image model"),
        ({f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": [1, 1]}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.qkv.weight": [1, 1]}, "FLUX"),
    ],
)
def test_other_architectures_are_named(keys: dict[str, list[int]], expected: str) -> None:
    hint = architecture.of_stable_diffusion(shapes(keys), SD21)
    assert hint is not None
    assert re.search(expected, hint)


def test_unknown_keys_say_nothing() -> None:
    keys = {"conditioner.embedders.0.conv_in.weight": [8, 5], f"cond_stage_model.{TEXT}": [8, 768]}
    assert architecture.of_stable_diffusion(shapes(keys), SD21) is None
