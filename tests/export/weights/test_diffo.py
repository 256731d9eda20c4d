"""Released DiffO checkpoints: every key of the three files has its place; what has none is reported at once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rdeic_export.modules.diffo.config import DIFFO
from rdeic_export.modules.diffo.model import DiffoModel
from rdeic_export.weights import diffo, diffo_recipe
from rdeic_export.weights.state import State
from rdeic_rt.errors import ExportError
from tests.export.weights.test_checkpoint import forms_of
from tests.micro import make_diffo

KEYS = Path(__file__).parents[2] / "data" / "released" / "diffo_keys.json.gz"
MICRO = make_diffo.MICRO_DIFFO


def released_states(model: DiffoModel) -> dict[str, State]:
    """The three files' tensors, with what they hold besides weights."""
    states: dict[str, dict[str, Tensor]] = {"unet": {}, "codec": {}, "vqgan": {}}
    for key, value in model.state_dict().items():
        states[key.partition(".")[0]][diffo.released_key(key, model.config)] = value.clone().contiguous()
    states["unet"]["input_blocks.1.1.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    states["unet"]["input_blocks.1.1.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    states["vqgan"]["quantize.embedding.weight"] = torch.zeros(16, 8)
    states["vqgan"]["loss.discriminator.main.0.weight"] = torch.zeros(4)
    return states


def save(states: dict[str, State], folder: Path) -> tuple[Path, Path, Path]:
    paths = folder / "unet.safetensors", folder / "vq.safetensors", folder / "gt.safetensors"
    for path, part in zip(paths, ("unet", "codec", "vqgan"), strict=True):
        save_file(states[part], path)
    return paths


@pytest.fixture
def model() -> DiffoModel:
    return make_diffo.model()


def test_released_key_full_size_covers_the_released_layout() -> None:
    with torch.device("meta"):
        full = DiffoModel(DIFFO)
    released = json.loads(gzip.decompress(KEYS.read_bytes()))
    for part, keys in released.items():
        ours = {
            diffo.released_key(k, DIFFO): list(v.shape)
            for k, v in full.state_dict().items()
            if k.startswith(f"{part}.")
        }
        extra = keys.keys() - ours.keys()
        assert all(diffo.IGNORED[part].match(key) for key in extra), part
        assert not ours.keys() - keys.keys(), part
        for key, shape in ours.items():
            assert [n for n in keys[key] if n != 1] == [n for n in shape if n != 1], key


def test_load_released_layout_restores_every_weight(model: DiffoModel, tmp_path: Path) -> None:
    states = released_states(model)
    torch.save(states["unet"], tmp_path / "ema_model_60000.pth")
    for part, name in (("codec", "vq_model_60000.pth.tar"), ("vqgan", "GT_vq_model_60000.pth.tar")):
        torch.save({"state_dict": {f"module.{k}": v for k, v in states[part].items()}}, tmp_path / name)
    loaded = diffo.load(
        MICRO,
        tmp_path / "ema_model_60000.pth",
        tmp_path / "vq_model_60000.pth.tar",
        tmp_path / "GT_vq_model_60000.pth.tar",
    )
    for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert not loaded.training


@pytest.mark.parametrize("form", ["before zip", "module", "ema", "shards"])
def test_load_released_layout_in_every_form(model: DiffoModel, tmp_path: Path, form: str) -> None:
    files = {part: forms_of(state, tmp_path / part, form) for part, state in released_states(model).items()}
    loaded = diffo.load(MICRO, files["unet"], files["codec"], files["vqgan"])
    for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("form", ["before zip", "module", "ema", "shards"])
def test_from_checkpoints_reads_the_codebook_of_every_form(model: DiffoModel, tmp_path: Path, form: str) -> None:
    files = {part: forms_of(state, tmp_path / part, form) for part, state in released_states(model).items()}
    made = diffo_recipe.from_checkpoints(
        "x", files["unet"], files["codec"], files["vqgan"], sqrt_eta=None, half_weights=True
    )
    assert made.rates[0].config.codebook_size == model.config.codebook_size


def test_load_half_weights_become_single_precision(model: DiffoModel, tmp_path: Path) -> None:
    states = {part: {k: v.half() for k, v in state.items()} for part, state in released_states(model).items()}
    loaded = diffo.load(MICRO, *save(states, tmp_path))
    for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a.half().float(), b), key


def test_load_bad_keys_of_all_files_are_in_one_error(model: DiffoModel, tmp_path: Path) -> None:
    states = released_states(model)
    states["unet"]["surprise.weight"] = states["unet"].pop("conv_in_extended.bias")
    del states["codec"]["quantize.embedding.embed_avg"]
    states["vqgan"]["decoder.up.1.block.0.norm1.weight"] = torch.zeros(3)
    with pytest.raises(ExportError) as caught:
        diffo.load(MICRO, *save(states, tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert "4 problems: " in message
    assert "unet.safetensors: missing conv_in_extended.bias [4]" in message
    assert "unet.safetensors: unexpected surprise.weight [4]" in message
    assert "vq.safetensors: missing quantize.embedding.embed_avg [32, 8]" in message
    assert "gt.safetensors: decoder.up.1.block.0.norm1.weight has shape [3], expected [16]" in message


def test_load_files_exchanged_says_so(model: DiffoModel, tmp_path: Path) -> None:
    unet, latent, vqgan = save(released_states(model), tmp_path)
    with pytest.raises(ExportError) as caught:
        diffo.load(MICRO, latent, vqgan, unet)
    message = str(caught.value)
    assert "vq.safetensors: this is the latent autoencoder, expected the UNet" in message
    assert "gt.safetensors: this is the VQGAN, expected the latent autoencoder" in message
    assert "unet.safetensors: this is the UNet, expected the VQGAN" in message


def test_load_file_of_something_else_lists_its_keys(model: DiffoModel, tmp_path: Path) -> None:
    unet, latent, vqgan = save(released_states(model), tmp_path)
    save_file({"nothing": torch.zeros(1)}, unet)
    with pytest.raises(ExportError, match=r"problems, the first 8: unet\.safetensors: missing "):
        diffo.load(MICRO, unet, latent, vqgan)
