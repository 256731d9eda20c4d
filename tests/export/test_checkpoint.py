"""Released and diffusers checkpoints: every key finds its place, and whatever does not is reported at once."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from rdeic_export import checkpoint, recipe
from rdeic_export.modules.config import SD21, VaeConfig
from rdeic_export.modules.model import RdeicModel
from rdeic_rt.errors import ExportError
from tests.micro import make_micro

KEYS = Path(__file__).parents[1] / "data" / "released" / "keys.json.gz"

# A micro model without pixel-unshuffle, so that stock diffusers models of the same sizes exist.
PLAIN = dataclasses.replace(
    make_micro.MICRO, name="plain", vae=VaeConfig(channels=(8, 8, 8, 16), layers_per_block=1, norm_groups=4)
)


def released_state(model: RdeicModel) -> dict[str, Tensor]:
    state = {
        checkpoint.released_key(k, model.config): v.clone().contiguous()
        for k, v in model.state_dict().items()
        if k != "context"
    }
    state["control_model.scale_list"] = torch.ones(len(model.control.connections))
    state["preprocess_model.quantize.embed_prob"] = torch.zeros(4)
    return state


def split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    own = {k: v for k, v in state.items() if k.startswith(("control_model.", "preprocess_model."))}
    return own, {k: v for k, v in state.items() if k not in own}


@pytest.fixture
def model() -> RdeicModel:
    return make_micro.model()


def test_released_key_full_size_covers_the_released_layout() -> None:
    with torch.device("meta"):
        full = RdeicModel(SD21)
    released = json.loads(gzip.decompress(KEYS.read_bytes()))
    ours = {checkpoint.released_key(k, SD21): list(v.shape) for k, v in full.state_dict().items() if k != "context"}
    extra = {k for k in released.keys() - ours.keys() if not checkpoint.IGNORED.match(k)}
    assert extra == {checkpoint.SCALE_LIST}
    assert not ours.keys() - released.keys()
    for key, shape in ours.items():
        stored = released[key]
        assert [n for n in stored if n != 1] == [n for n in shape if n != 1], key


def test_load_released_layout_restores_every_weight(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    save_file(own, tmp_path / "rdeic.safetensors")
    torch.save({"state_dict": sd}, tmp_path / "sd.ckpt")
    loaded = checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.ckpt", model.context)
    for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_build_model_released_recipe_loads_both_checkpoints(
    model: RdeicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, sd = split(released_state(model))
    save_file(own, tmp_path / "rdeic_2_step2.safetensors")
    torch.save({"state_dict": sd}, tmp_path / "sd.ckpt")
    save_file({"context": model.context}, tmp_path / "context.safetensors")
    (tmp_path / "recipe.toml").write_text(
        'name = "full"\nmodel = "micro"\nlicence = "the weights\' own"\ndefault_rate = 0\nhalf_weights = false\n'
        'layout = "released"\nbase = ["sd.ckpt"]\ncontext = "context.safetensors"\n'
        '[[rates]]\nlabel = "2"\nlambda_r = 2.0\nn_steps = 2\nweights = "rdeic_2_step2.safetensors"\n'
    )
    monkeypatch.setitem(recipe.MODELS, "micro", model.config)
    chosen = recipe.load(tmp_path / "recipe.toml")
    loaded = recipe.build_model(chosen, chosen.rates[0])
    for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    save_file({"prompt": model.context}, tmp_path / "context.safetensors")
    with pytest.raises(ExportError, match="no tensor 'context', only prompt"):
        recipe.build_model(chosen, chosen.rates[0])


def test_load_bad_keys_lists_all_of_them_in_one_error(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    missing = own.pop("preprocess_model.out.bias")
    own["control_model.surprise.weight"] = missing
    sd["model.diffusion_model.out.2.weight"] = torch.zeros(1, 2, 3, 3)
    save_file(own, tmp_path / "rdeic.safetensors")
    save_file(sd, tmp_path / "sd.safetensors")
    with pytest.raises(ExportError) as caught:
        checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.safetensors", model.context)
    message = str(caught.value)
    assert "3 problems" in message
    assert "missing preprocess_model.out.bias [4]" in message
    assert "unexpected control_model.surprise.weight" in message
    assert "model.diffusion_model.out.2.weight has shape [1, 2, 3, 3], expected [4, 16, 3, 3]" in message


def test_load_other_gain_is_refused(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    own["control_model.scale_list"] *= 0.5
    save_file(own, tmp_path / "rdeic.safetensors")
    save_file(sd, tmp_path / "sd.safetensors")
    with pytest.raises(ExportError, match="scale_list"):
        checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.safetensors", model.context)


class Payload:
    """Pickles to a call; loading it must not make that call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def test_read_state_pickle_that_executes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.ckpt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ExportError, match="not a readable checkpoint"):
        checkpoint.read_state(Path("evil.ckpt"))
    assert not Path("executed").exists()


def test_read_state_absent_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nothing\.ckpt"):
        checkpoint.read_state(tmp_path / "nothing.ckpt")


@torch.no_grad()
def test_load_diffusers_folder_computes_what_diffusers_does(tmp_path: Path) -> None:
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),  # diffusers' name for the number of heads
        cross_attention_dim=12,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
    )
    unet.save_pretrained(tmp_path / "sd" / "unet")
    vae.save_pretrained(tmp_path / "sd" / "vae")
    source = RdeicModel(PLAIN)
    own, _ = split(released_state(source))
    save_file(own, tmp_path / "rdeic.safetensors")
    context = torch.randn(1, 5, 12)
    loaded = checkpoint.load(PLAIN, tmp_path / "rdeic.safetensors", tmp_path / "sd", context)

    z_n, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([7, 7])
    expected = unet(z_n, timesteps, context.expand(2, -1, -1)).sample
    torch.testing.assert_close(loaded.eps(z_n, None, 7), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loaded.vae.decode(z_n * 0.18215), vae.decode(z_n).sample, rtol=1e-4, atol=1e-4)
