"""A prompt -> the constant text context, computed once when a bundle is built; the runtime has no text encoder.

Stable Diffusion 2.1 uses the text tower of OpenCLIP's ViT-H without its last block: the final layer norm is applied to
the output of the block before. There are two layouts, which are converted to the same CLIPTextModel::

    checkpoint   cond_stage_model.model.*            all blocks; the last is dropped here
    folder       text_encoder/, tokenizer/           stored without the last block; a tokenizer for words

The empty prompt, which the released models are trained with, needs no tokenizer: it is the start token, the end token
and zeros (OpenCLIP pads with token 0).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rdeic_rt.errors import ExportError

from ..modules.config import UNetConfig
from . import folders
from .state import State, listed, read_state

OPENCLIP = "cond_stage_model.model."
HEAD_WIDTH = 64  # of every OpenCLIP text tower; the checkpoint does not contain it
_OTHER_TOWERS = (
    ("cond_stage_model.transformer.", "Stable Diffusion 1.x"),
    ("conditioner.embedders.", "Stable Diffusion XL"),
)
_OPENCLIP_RENAMES = [
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
]
# Parts of a tower that the context does not depend on.
_UNUSED = re.compile(r"^(text_projection|logit_scale|attn_mask|embeddings\.position_ids)")
_OTHERWISE = "or give the context itself: --context FILE, a safetensors file with the tensor 'context'"


@dataclass(frozen=True)
class _Tower:
    """A text tower under the keys of CLIPTextModel, with parameters that its weights do not contain."""

    state: State
    heads: int
    activation: str


def context(stable_diffusion: Path, prompt: str, config: UNetConfig) -> Tensor:
    """Return the text context of a prompt, float32 [1, context_tokens, context_dim].

    Args:
        stable_diffusion: original checkpoint file, or a diffusers folder with ``text_encoder`` and, for words,
            ``tokenizer``.
        prompt: at most context_tokens - 2 tokens; the empty one is what the released models are trained with.
        config: the UNet that the context is for.

    Raises:
        ExportError: no text encoder or tokenizer, an unreadable or unfitting one, or too long a prompt.
    """
    tower = _from_folder(stable_diffusion) if stable_diffusion.is_dir() else _from_checkpoint(stable_diffusion)
    model = _model(tower, stable_diffusion)
    n_tokens, width = model.config.max_position_embeddings, model.config.hidden_size
    if (n_tokens, width) != (config.context_tokens, config.context_dim):
        expected = f"{config.context_tokens} tokens of width {config.context_dim}"
        hint = "; this looks like Stable Diffusion 1.x" if width == 768 else ""
        raise ExportError(
            f"{stable_diffusion}: its text encoder gives {n_tokens} tokens of width {width}, expected {expected}"
            f"{hint}. Pass Stable Diffusion 2.1"
        )
    tokens = _tokens(prompt, stable_diffusion, n_tokens, model.config.vocab_size)
    with torch.inference_mode():
        # Positions are given because the model's own buffer of them has no memory behind it (see _model).
        hidden: Tensor = model(input_ids=tokens, position_ids=torch.arange(n_tokens)[None]).last_hidden_state
    return hidden.clone()  # a plain tensor, not one of inference mode


def _from_checkpoint(path: Path) -> _Tower:
    """Return the tower of an original checkpoint, without its last block."""
    keys = read_state(path)
    state = {_renamed(key.removeprefix(OPENCLIP)): value for key, value in keys.items() if key.startswith(OPENCLIP)}
    if not state:
        other = next((f"; this looks like {name}" for prefix, name in _OTHER_TOWERS if _any(keys, prefix)), "")
        raise ExportError(f"{path}: no text encoder ({OPENCLIP}*){other}. Pass a file that has one, {_OTHERWISE}")
    last = f"encoder.layers.{_n_layers(state) - 1}."
    state = {key: value for key, value in state.items() if not key.startswith(last)}
    for key in [key for key in state if ".in_proj_" in key]:
        block, kind = key.split("in_proj_")
        for name, part in zip("qkv", state.pop(key).chunk(3), strict=True):
            state[f"{block}{name}_proj.{kind}"] = part
    width = state.get("embeddings.token_embedding.weight", torch.empty(0, 0)).shape[1]
    return _Tower(state, max(1, width // HEAD_WIDTH), "gelu")


def _from_folder(folder: Path) -> _Tower:
    """Return the tower of a diffusers folder, which is stored without its last block."""
    encoder = folder / "text_encoder"
    weights = folders.weights_in(encoder, ("model", "pytorch_model"))
    if weights is None or not (encoder / "config.json").exists():
        missing = "config.json" if weights else "model.safetensors or pytorch_model.bin"
        raise ExportError(f"{folder}: no text_encoder/{missing}. Pass a folder that has it, {_OTHERWISE}")
    try:
        settings = json.loads((encoder / "config.json").read_text())
        heads, activation = int(settings["num_attention_heads"]), str(settings.get("hidden_act", "quick_gelu"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{encoder / 'config.json'}: not a text encoder's configuration ({error!r})") from error
    return _Tower({k.removeprefix("text_model."): v for k, v in read_state(weights).items()}, heads, activation)


def _model(tower: _Tower, path: Path) -> CLIPTextModel:
    """Return the tower as a module in float32. Its sizes are taken from the weights, which it shares, not copies.

    Raises:
        ExportError: keys are missing, unexpected or misshapen.
    """
    state = {key: value.float() for key, value in tower.state.items() if not _UNUSED.match(key)}
    try:
        vocabulary, width = state["embeddings.token_embedding.weight"].shape
        config = CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=_n_layers(state),
            num_attention_heads=tower.heads,
            max_position_embeddings=state["embeddings.position_embedding.weight"].shape[0],
            hidden_act=tower.activation,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
        with torch.device("meta"):
            model: CLIPTextModel = CLIPTextModel(config)
        wanted = {key: value.shape for key, value in model.state_dict().items() if not _UNUSED.match(key)}
    except (KeyError, ValueError) as error:
        raise ExportError(f"{path}: its text encoder is not a CLIP text tower ({error})") from error
    problems = [f"missing {key}" for key in sorted(wanted.keys() - state.keys())]
    problems += [f"unexpected {key}" for key in sorted(state.keys() - wanted.keys())]
    problems += [
        f"{key} has shape {list(state[key].shape)}, expected {list(wanted[key])}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key]
    ]
    if problems:
        raise ExportError(listed(f"{path}, text encoder", problems))
    model.load_state_dict(state, strict=False, assign=True)
    model.train(False)
    return model


def _tokens(prompt: str, stable_diffusion: Path, n_tokens: int, vocabulary: int) -> Tensor:
    """Return int64 [1, n_tokens]: start, the prompt's tokens, end, zeros."""
    ids = [vocabulary - 2, vocabulary - 1]
    if prompt:
        ids = _tokenized(prompt, stable_diffusion)
        if max(ids) >= vocabulary:
            raise ExportError(f"{stable_diffusion}: token {max(ids)} is not among the text encoder's {vocabulary}")
    if len(ids) > n_tokens:
        raise ExportError(f"the prompt has {len(ids) - 2} tokens, at most {n_tokens - 2} fit. Shorten it.")
    return torch.tensor([ids + [0] * (n_tokens - len(ids))])


def _tokenized(prompt: str, stable_diffusion: Path) -> list[int]:
    folder = stable_diffusion / "tokenizer"
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if missing:
        raise ExportError(
            f"{stable_diffusion}: no tokenizer/{' or tokenizer/'.join(missing)}, which the prompt {prompt!r} needs. "
            f"Pass a diffusers folder of Stable Diffusion 2.1 that has it, use the empty prompt, {_OTHERWISE}"
        )
    try:
        ids = CLIPTokenizer.from_pretrained(folder, local_files_only=True)(prompt)["input_ids"]
    except Exception as error:  # the tokenizers library raises bare Exception for a bad file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{folder}: not a readable tokenizer ({reason}). Fetch the folder again.") from error
    return [int(token) for token in ids]


def _n_layers(state: State) -> int:
    indices = [int(match[1]) for key in state if (match := re.match(r"encoder\.layers\.(\d+)\.", key))]
    return max(indices, default=-1) + 1


def _renamed(key: str) -> str:
    for pattern, replacement in _OPENCLIP_RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _any(state: State, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)
