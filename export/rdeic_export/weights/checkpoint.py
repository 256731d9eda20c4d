"""Released RDEIC and Stable Diffusion 2.1 weights -> :class:`RdeicModel`, tensors only, every key accounted for.

Two sources are merged: the RDEIC checkpoint (``control_model.*`` and ``preprocess_model.*``) and Stable Diffusion, as
its original checkpoint (``model.diffusion_model.*``, ``first_stage_model.*``) or as a diffusers folder. Each parameter
of our modules is looked up under the name the source gives it; see ``released_key`` and ``diffusers_unet_key``.

Of Stable Diffusion's denoiser a checkpoint may hold the weights of the last step, their average over many
(``model_ema.*``, names without dots), or both. The average is taken where it is alone, as in diffusers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rdeic_rt.errors import ExportError

from ..modules.config import ModelConfig, VaeConfig
from ..modules.model import RdeicModel
from . import architecture, folders, released_names
from .state import State, listed, read_state, take

# Keys under our prefixes that carry no weights: buffers recomputed from the method, and training statistics.
IGNORED = re.compile(r"preprocess_model\.(gaussian_conditional\..*|quantize\.embed_prob)$")
SCALE_LIST = "control_model.scale_list"  # gain of each connection; 1 in the release

# The names of released checkpoints give their training parameters: rdeic_<lambda_r>_step<L>.ckpt.
_RELEASED_FILE = re.compile(r"rdeic_(?P<lambda_r>\d+(?:\.\d+)?)_step(?P<n_steps>\d+)")

_RENAMES_CODEC = [
    (r"^codec\.g_a\.", "preprocess_model.encoder.g_a."),
    (r"^codec\.hyper_enc\.", "preprocess_model.hyper_enc.hyper_enc."),
    (r"^codec\.hyper_dec\.", "preprocess_model.hyper_dec.hyper_dec."),
    (r"^codec\.g_s\.", "preprocess_model.decoder.g_s."),
    (r"^codec\.channel_context\.(\d+)\.", r"preprocess_model.channel_context.\1.fushion."),
    (r"^codec\.(entropy_parameters_\w+)\.(\d+)\.", r"preprocess_model.\1.\2.fusion."),
    (r"^codec\.", "preprocess_model."),
]


def load(config: ModelConfig, rdeic: Path, stable_diffusion: Path, context: Tensor) -> RdeicModel:
    """Return the model with all weights loaded, in evaluation mode, fp32.

    Args:
        config: the networks' sizes.
        rdeic: released checkpoint, as `state.read_state` takes it.
        stable_diffusion: original checkpoint, or a diffusers folder with ``unet`` and ``vae``.
        context: text context, float [1, tokens, context_dim].

    Raises:
        ExportError: a file cannot be read, keys are missing, unexpected or misshapen, or the denoiser does not predict
            noise; the message names the architecture if the shapes identify it.
    """
    model = RdeicModel(config)
    merged = read_state(rdeic)
    problems: list[str] = []
    hints = [architecture.of_rdeic(merged)]
    gains = merged.pop(SCALE_LIST, None)
    if gains is None or not torch.all(gains == 1):
        problems.append(f"{rdeic.name}: {SCALE_LIST} must be all ones, the only gain this exporter supports")
    _take(model, merged, rdeic, ("control.", "codec."), _released_name(config), problems)
    if stable_diffusion.is_dir():
        _check_predicts_noise(stable_diffusion, problems)
        unet = read_state(_diffusers_file(stable_diffusion, ("unet", "unet_ema")))
        hints.append(architecture.of_stable_diffusion(unet, config))
        _take(model, unet, stable_diffusion / "unet", ("unet.",), _diffusers_unet_name(config), problems)
        vae = _attention_names(read_state(_diffusers_file(stable_diffusion, ("vae",))))
        _take(model, vae, stable_diffusion / "vae", ("vae.",), lambda key: key.removeprefix("vae.kl."), problems)
    else:
        released = _average_where_alone(read_state(stable_diffusion), model)
        hints.append(architecture.of_stable_diffusion(released, config))
        _take(model, released, stable_diffusion, ("unet.", "vae."), _released_name(config), problems)
    if context.shape != model.context.shape:
        problems.append(f"text context: shape {list(context.shape)}, expected {list(model.context.shape)}")
    elif not torch.isfinite(context).all():
        problems.append("text context: has values that are not finite")
    if problems:
        told = [f"{path}: {hint}" for path, hint in zip((rdeic, stable_diffusion), hints, strict=True) if hint]
        raise ExportError(listed("; ".join(told) or f"{rdeic}, {stable_diffusion}", problems))
    model.context.copy_(context)
    return model.eval().requires_grad_(False)


def n_steps_from_name(path: Path) -> int | None:
    """Return L, which a released checkpoint is trained for, from its name; None if it has another kind of name."""
    match = _RELEASED_FILE.match(path.name)
    return int(match["n_steps"]) if match else None


def lambda_r_from_name(path: Path) -> float | None:
    """Return the rate's weight lambda_r of a released checkpoint from its name; None if it has another kind of name."""
    match = _RELEASED_FILE.match(path.name)
    return float(match["lambda_r"]) if match else None


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex, for the bundle's provenance."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def released_key(key: str, config: ModelConfig) -> str:
    """Return the name the released checkpoints give to one of our parameters.

    Args:
        key: a key of ``RdeicModel.state_dict()``.
        config: decides how many connections and VAE levels there are.
    """
    if key.startswith("codec."):
        return released_names.renamed(key, _RENAMES_CODEC)
    if key.startswith("vae."):
        assert isinstance(config.vae, VaeConfig)  # what has a released layout has a trained autoencoder
        path = key.removeprefix("vae.kl.")
        return "first_stage_model." + released_names.autoencoder_key(path, len(config.vae.channels))
    if key.startswith("control.connections."):
        _, _, index, kind = key.split(".")
        return f"control_model.{_connection(int(index), config)}.{kind}"
    prefix, owner = ("control", "control_model.control_model") if key.startswith("control.") else ("unet", _UNET)
    return owner + released_names.renamed(key, released_names.UNET).removeprefix(prefix)


_UNET = "model.diffusion_model"
_AVERAGE = "model_ema."
_AVERAGE_COUNTERS = {"model_ema.decay", "model_ema.num_updates"}
_DIFFUSERS_STEM = "diffusion_pytorch_model"

# Names that diffusers had for an attention of its own kind until 2023, and that published folders still have.
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(?=\.(?:weight|bias)$)")


def diffusers_unet_key(key: str, config: ModelConfig) -> str:
    """Return the name a diffusers ``UNet2DConditionModel`` gives to one of our ``unet.*`` parameters."""
    layers = config.unet.layers_per_block
    path = key.removeprefix("unet.").replace("time_embed.mlp.", "time_embedding.")
    path = re.sub(r"^out\.0\.", "conv_norm_out.", re.sub(r"^out\.2\.", "conv_out.", path))
    if path.startswith("input_blocks.0.0."):
        return path.replace("input_blocks.0.0.", "conv_in.")
    middle = re.match(r"middle_block\.(\d)\.", path)
    if middle:
        module = ("resnets.0", "attentions.0", "resnets.1")[int(middle[1])]
        return f"mid_block.{module}.{path[middle.end() :]}"
    stage = re.match(r"(input|output)_blocks\.(\d+)\.(\d)\.", path)
    if not stage:
        return path
    rest, position = path[stage.end() :], int(stage[3])
    block, layer = divmod(int(stage[2]) - (stage[1] == "input"), layers + 1)
    side = "down" if stage[1] == "input" else "up"
    if rest.startswith("conv."):
        return f"{side}_blocks.{block}.{side}samplers.0.{rest}"
    return f"{side}_blocks.{block}.{'attentions' if position else 'resnets'}.{layer}.{rest}"


def _released_name(config: ModelConfig) -> Callable[[str], str]:
    return lambda key: released_key(key, config)


def _diffusers_unet_name(config: ModelConfig) -> Callable[[str], str]:
    return lambda key: diffusers_unet_key(key, config)


def _check_predicts_noise(folder: Path, problems: list[str]) -> None:
    """Add a problem if a diffusers folder's scheduler states that its UNet predicts anything but the noise."""
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.exists():
        return
    try:
        prediction = json.loads(path.read_text()).get("prediction_type", "epsilon")
    except (OSError, ValueError, AttributeError) as error:
        raise ExportError(
            f"{path}: not a readable scheduler configuration ({error}). Fetch the folder again."
        ) from error
    if prediction != "epsilon":
        problems.append(
            f"{path.name}: the UNet predicts {prediction!r}, expected 'epsilon'; pass Stable Diffusion 2.1-base"
        )


def _take(
    model: nn.Module,
    source: Mapping[str, Tensor],
    path: Path,
    prefixes: tuple[str, ...],
    name_in_source: Callable[[str], str],
    problems: list[str],
) -> None:
    """Copy the parameters under ``prefixes`` from the source; keys of networks that we have no part of may stay."""
    wanted = {name_in_source(k): v for k, v in model.state_dict().items() if k.startswith(prefixes)}
    roots = tuple({name.split(".")[0] + "." for name in wanted})
    owned = {k: v for k, v in source.items() if k in wanted or (k.startswith(roots) and not IGNORED.match(k))}
    take(wanted, owned, path.name, problems)


def _connection(index: int, config: ModelConfig) -> str:
    unet = config.unet
    stages = len(unet.channels) * (unet.layers_per_block + 1)
    if index < stages:
        return f"enc_zero_convs_out.{index}.0"
    return "middle_block_out.0" if index == stages else f"dec_zero_convs_out.{index - stages - 1}.0"


def _diffusers_file(folder: Path, parts: tuple[str, ...]) -> Path:
    """Return the file of weights of the first part that the folder has; of a UNet, there may be averaged ones alone."""
    found = (folders.weights_in(folder / part, (_DIFFUSERS_STEM,)) for part in parts)
    path = next((path for path in found if path), None)
    if path is None:
        raise ExportError(
            f"{folder / parts[0]}: no {_DIFFUSERS_STEM}.safetensors or .bin, nor one in shards or of a variant. Is "
            "this a diffusers folder? Where it holds the original checkpoint, give that file."
        )
    return path


def _attention_names(vae: State) -> State:
    """Return an autoencoder's state under the names that diffusers has given its attention since 2023."""
    return {_OLD_ATTENTION.sub(lambda m: m[1] + _ATTENTION[m[2]], key): value for key, value in vae.items()}


def _average_where_alone(released: State, model: RdeicModel) -> State:
    """Return a checkpoint with the averaged weights under the names of the others, where these are not there."""
    if any(key.startswith(f"{_UNET}.") for key in released):
        return released
    names = {
        _without_dots(released_key(key, model.config)): released_key(key, model.config)
        for key in model.state_dict()
        if key.startswith("unet.")
    }
    weights = {key: value for key, value in released.items() if key not in _AVERAGE_COUNTERS}
    return {
        names.get(_without_dots(key), f"{_UNET}.{key}") if key.startswith(_AVERAGE) else key: value
        for key, value in weights.items()
    }


def _without_dots(key: str) -> str:
    """Return what the name of a weight and that of its average have in common."""
    return key.removeprefix(_AVERAGE).removeprefix("model.").replace(".", "")
