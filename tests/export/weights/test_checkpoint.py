"""Released and diffusers checkpoints: every key finds its place, and whatever does not is reported at once."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdeic_export.modules.config import SD21, VaeConfig
from rdeic_export.modules.model import RdeicModel
from rdeic_export.weights import checkpoint, recipe
from rdeic_export.weights.state import read_state
from rdeic_rt.errors import ExportError
from tests.export.weights.test_formats import save_sharded
from tests.micro import make_micro

KEYS = Path(__file__).parents[2] / "data" / "released" / "keys.json.gz"

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


def test_load_few_bad_keys_lists_all_of_them_on_one_line(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    missing = own.pop("preprocess_model.out.bias")
    own["control_model.surprise.weight"] = missing
    sd["model.diffusion_model.out.2.weight"] = torch.zeros(1, 2, 3, 3)
    save_file(own, tmp_path / "rdeic.safetensors")
    save_file(sd, tmp_path / "sd.safetensors")
    with pytest.raises(ExportError) as caught:
        checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.safetensors", model.context)
    message = str(caught.value)
    assert "\n" not in message
    assert "3 problems: " in message
    assert "missing preprocess_model.out.bias [4]" in message
    assert "unexpected control_model.surprise.weight" in message
    assert "model.diffusion_model.out.2.weight has shape [1, 2, 3, 3], expected [4, 16, 3, 3]" in message


def test_load_many_bad_keys_lists_the_first_on_one_line(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    save_file({k: v for k, v in own.items() if not k.startswith("preprocess_model.")}, tmp_path / "rdeic.safetensors")
    save_file(sd, tmp_path / "sd.safetensors")
    wanted = sum(k.startswith("preprocess_model.") and k != "preprocess_model.quantize.embed_prob" for k in own)
    with pytest.raises(ExportError) as caught:
        checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.safetensors", model.context)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{wanted} problems, the first 8: " in message
    assert message.count("missing preprocess_model.") == 8


def test_load_other_context_width_names_the_architecture(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    sd = {k: v.repeat(1, 64) if "attn2.to_k" in k or "attn2.to_v" in k else v for k, v in sd.items()}  # 12 -> 768
    save_file(own, tmp_path / "rdeic.safetensors")
    save_file(sd, tmp_path / "v1-5.safetensors")
    message = r"v1-5.*looks like Stable Diffusion 1\.x \(context width 768, expected 12\): \d+ problems"
    with pytest.raises(ExportError, match=message):
        checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "v1-5.safetensors", model.context)


def test_load_checkpoints_exchanged_says_so(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    save_file(own, tmp_path / "rdeic.safetensors")
    save_file(sd, tmp_path / "sd.safetensors")
    with pytest.raises(ExportError) as caught:
        checkpoint.load(model.config, tmp_path / "sd.safetensors", tmp_path / "rdeic.safetensors", model.context)
    assert "sd.safetensors: this is a Stable Diffusion checkpoint" in str(caught.value)
    assert "rdeic.safetensors: this is an RDEIC checkpoint" in str(caught.value)


def test_load_scheduler_that_predicts_velocity_is_refused(model: RdeicModel, tmp_path: Path) -> None:
    own, _ = split(released_state(model))
    save_file(own, tmp_path / "rdeic.safetensors")
    folder = tmp_path / "sd"
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    for part in ("unet", "vae"):
        (folder / part).mkdir()
        save_file({"conv_in.weight": torch.zeros(1, 4)}, folder / part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ExportError, match="predicts 'v_prediction', expected 'epsilon'"):
        checkpoint.load(model.config, tmp_path / "rdeic.safetensors", folder, model.context)


@pytest.mark.parametrize(
    "name, n_steps, lambda_r",
    [
        ("rdeic_2_step2.ckpt", 2, 2.0),
        ("rdeic_0.25_step5.ckpt", 5, 0.25),
        ("rdeic_0.5_step5.safetensors", 5, 0.5),
        ("model.ckpt", None, None),
        ("rdeic_step2.ckpt", None, None),
    ],
)
def test_released_name_says_steps_and_weight(name: str, n_steps: int | None, lambda_r: float | None) -> None:
    assert checkpoint.n_steps_from_name(Path("weights_step9") / name) == n_steps
    assert checkpoint.lambda_r_from_name(Path("weights_step9") / name) == lambda_r


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


@pytest.mark.parametrize("name", ["evil.ckpt", "evil.pth", "evil.pth.tar"])
def test_read_state_pickle_that_executes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ExportError, match="not a readable checkpoint"):
        read_state(Path(name))
    assert not Path("executed").exists()


def test_read_state_absent_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nothing\.ckpt"):
        read_state(tmp_path / "nothing.ckpt")


class StableDiffusion:
    """A denoiser and an autoencoder of diffusers with random weights, of the sizes of `PLAIN`."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.unet = UNet2DConditionModel(
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
        ).requires_grad_(False)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 16),
            layers_per_block=1,
            norm_num_groups=4,
        ).requires_grad_(False)
        for parameter in self.vae.parameters():  # biases start as zeros, which would hide a mix-up
            parameter.add_(0.1 * torch.randn_like(parameter))
        own, _ = split(released_state(RdeicModel(PLAIN)))
        self.own = own
        self.context = torch.randn(1, 5, 12)

    def save(self, folder: Path, **options: Any) -> Path:
        self.unet.save_pretrained(folder / "unet", **options)
        self.vae.save_pretrained(folder / "vae", **options)
        return folder

    def load(self, folder: Path, tmp_path: Path) -> RdeicModel:
        save_file(self.own, tmp_path / "rdeic.safetensors")
        return checkpoint.load(PLAIN, tmp_path / "rdeic.safetensors", folder, self.context)

    def check(self, loaded: RdeicModel, tolerance: float = 1e-4) -> None:
        z_n, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([7, 7])
        expected = self.unet(z_n, timesteps, self.context.expand(2, -1, -1)).sample
        torch.testing.assert_close(loaded.eps(z_n, None, 7), expected, rtol=tolerance, atol=tolerance)
        image = self.vae.decode(z_n).sample
        torch.testing.assert_close(loaded.vae.decode(z_n * 0.18215), image, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def stable_diffusion() -> StableDiffusion:
    return StableDiffusion()


def with_names_of_2022(folder: Path) -> None:
    """Give the attention of a folder's autoencoder the names that diffusers had for it when 2.1 was published."""
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_out.0": "proj_attn", "to_q": "query", "to_k": "key", "to_v": "value"}
    renamed = {}
    for key, value in load_file(path).items():
        new = re.sub(r"to_out\.0|to_[qkv]", lambda m: names[m[0]], key) if "attentions" in key else key
        renamed[new] = value
    assert {f"encoder.mid_block.attentions.0.{name}.bias" for name in names.values()} <= renamed.keys()
    save_file(renamed, path)


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-4),
        ({"safe_serialization": False}, 1e-4),
        ({"max_shard_size": "20KB"}, 1e-4),
        ({"max_shard_size": "20KB", "safe_serialization": False}, 1e-4),
        ({"variant": "fp16"}, 1e-4),
        ({"variant": "fp16", "safe_serialization": False}, 1e-4),
        ({"variant": "fp16", "max_shard_size": "20KB"}, 1e-4),
        ({"variant": "non_ema"}, 1e-4),
    ],
)
def test_load_diffusers_folder_computes_what_diffusers_does(
    stable_diffusion: StableDiffusion, tmp_path: Path, options: dict[str, Any], tolerance: float
) -> None:
    folder = stable_diffusion.save(tmp_path / "sd", **options)
    stable_diffusion.check(stable_diffusion.load(folder, tmp_path), tolerance)


@torch.no_grad()
def test_load_diffusers_folder_in_half_precision(stable_diffusion: StableDiffusion, tmp_path: Path) -> None:
    folder = stable_diffusion.save(tmp_path / "sd", variant="fp16")
    for path in folder.rglob("*.fp16.safetensors"):
        save_file({key: value.half() for key, value in load_file(path).items()}, path)
    loaded = stable_diffusion.load(folder, tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
    stable_diffusion.check(loaded, 0.02)


@torch.no_grad()
def test_load_diffusers_folder_prefers_full_to_half_precision(
    stable_diffusion: StableDiffusion, tmp_path: Path
) -> None:
    folder = stable_diffusion.save(tmp_path / "sd")
    for part in ("unet", "vae"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        half = {key: torch.zeros_like(value).half() for key, value in load_file(path).items()}
        save_file(half, folder / part / "diffusion_pytorch_model.fp16.safetensors")
    stable_diffusion.check(stable_diffusion.load(folder, tmp_path))


@torch.no_grad()
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_load_diffusers_folder_with_the_names_of_2022(
    stable_diffusion: StableDiffusion, tmp_path: Path, wrapper: str
) -> None:
    folder = stable_diffusion.save(tmp_path / "sd")
    with_names_of_2022(folder)
    for path in folder.rglob("*.safetensors"):
        save_file({f"{wrapper}{key}": value for key, value in load_file(path).items()}, path)
    stable_diffusion.check(stable_diffusion.load(folder, tmp_path))


def test_load_diffusers_folder_with_old_names_still_lists_every_bad_key(
    stable_diffusion: StableDiffusion, tmp_path: Path
) -> None:
    folder = stable_diffusion.save(tmp_path / "sd")
    with_names_of_2022(folder)
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["encoder.mid_block.attentions.0.query.weight"]
    state["decoder.mid_block.attentions.0.value.bias"] = torch.zeros(5)
    state["decoder.mid_block.attentions.0.values.bias"] = torch.zeros(5)
    save_file(state, path)
    with pytest.raises(ExportError, match="3 problems") as caught:
        stable_diffusion.load(folder, tmp_path)
    message = str(caught.value)
    assert "vae: missing encoder.mid_block.attentions.0.to_q.weight [16, 16]" in message
    assert "vae: unexpected decoder.mid_block.attentions.0.values.bias [5]" in message
    assert "decoder.mid_block.attentions.0.to_v.bias has shape [5], expected [16]" in message


@torch.no_grad()
def test_load_diffusers_folder_of_averaged_weights_alone(stable_diffusion: StableDiffusion, tmp_path: Path) -> None:
    folder = stable_diffusion.save(tmp_path / "sd")
    (folder / "unet").rename(folder / "unet_ema")
    stable_diffusion.check(stable_diffusion.load(folder, tmp_path))


def test_load_folder_without_unet_says_what_is_missing(stable_diffusion: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "sd").mkdir()
    with pytest.raises(ExportError, match=r"sd/unet: no diffusion_pytorch_model\.safetensors or \.bin.*original"):
        stable_diffusion.load(tmp_path / "sd", tmp_path)


def averaged(sd: dict[str, Tensor], value: float | None = None) -> dict[str, Tensor]:
    """The averages of a denoiser's weights as the release names them, with counters; of one value where it is given."""
    made = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): tensor if value is None else tensor * 0 + value
        for key, tensor in sd.items()
        if key.startswith("model.diffusion_model.")
    }
    return made | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


def forms_of(state: dict[str, Tensor], path: Path, form: str) -> Path:
    """Save a state in one of the forms that checkpoints come in, and return what to pass."""
    if form == "before zip":
        torch.save({"state_dict": state}, path.with_suffix(".ckpt"), _use_new_zipfile_serialization=False)
        return path.with_suffix(".ckpt")
    if form == "module":
        torch.save({f"module.{key}": value for key, value in state.items()}, path.with_suffix(".pth"))
        return path.with_suffix(".pth")
    if form == "ema":
        torch.save({"epoch": 1, "ema": state}, path.with_suffix(".pt"))
        return path.with_suffix(".pt")
    assert form == "shards"
    index = path.with_suffix(".safetensors.index.json")
    save_sharded(state, index)
    return index


@pytest.mark.parametrize("form", ["before zip", "module", "ema", "shards"])
def test_load_released_layout_in_every_form(model: RdeicModel, tmp_path: Path, form: str) -> None:
    own, sd = split(released_state(model))
    rdeic, stable = forms_of(own, tmp_path / "rdeic", form), forms_of(sd, tmp_path / "sd", form)
    loaded = checkpoint.load(model.config, rdeic, stable, model.context)
    for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_load_averaged_weights_where_they_are_alone(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    save_file(own, tmp_path / "rdeic.safetensors")
    rest = {key: value for key, value in sd.items() if not key.startswith("model.")}
    alone = averaged(sd)
    save_file(rest | alone, tmp_path / "sd.safetensors")
    loaded = checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.safetensors", model.context)
    for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), key

    missing = alone.pop("model_ema.diffusion_modelout2bias")
    save_file(rest | alone | {"model_ema.surprise": missing}, tmp_path / "sd.safetensors")
    with pytest.raises(ExportError, match="2 problems") as caught:
        checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.safetensors", model.context)
    assert "missing model.diffusion_model.out.2.bias [4]" in str(caught.value)
    assert "model_ema.surprise [4]" in str(caught.value)


def test_load_averages_beside_other_weights_are_left(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    save_file(own, tmp_path / "rdeic.safetensors")
    save_file(sd | averaged(sd, 0.0), tmp_path / "sd.safetensors")
    loaded = checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.safetensors", model.context)
    for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_load_context_that_is_not_finite_is_refused(model: RdeicModel, tmp_path: Path) -> None:
    own, sd = split(released_state(model))
    save_file(own, tmp_path / "rdeic.safetensors")
    save_file(sd, tmp_path / "sd.safetensors")
    context = torch.full_like(model.context, float("nan"))
    with pytest.raises(ExportError, match="text context: has values that are not finite"):
        checkpoint.load(model.config, tmp_path / "rdeic.safetensors", tmp_path / "sd.safetensors", context)
