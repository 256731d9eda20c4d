"""Released DiffO weights -> :class:`DiffoModel`, tensors only, every key accounted for.

One rate is three files: the UNet (``ema_model_<N>.pth``, a bare state), the latent autoencoder with its codebook
(``vq_model_<N>.pth.tar``) and the VQGAN (``GT_vq_model_<N>.pth.tar``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from rdeic_rt.errors import ExportError

from ..modules.diffo.config import AutoencoderConfig, DiffoConfig
from ..modules.diffo.model import DiffoModel
from . import released_names
from .state import State, listed, read_state, take

# What the files hold that the method does not read: tables and masks of the window attention, which follow from sizes
# (the stored mask is not even used by the released code), and the VQGAN's discriminator and codebook.
IGNORED = {
    "unet": re.compile(r".*\.(attn\.relative_position_index|attn_mask)$"),
    "codec": re.compile(r"loss\."),
    "vqgan": re.compile(r"loss\.|quantize\."),
}
_FILES = {"unet": "the UNet", "codec": "the latent autoencoder", "vqgan": "the VQGAN"}
_RENAMES_SWIN: released_names.Renames = (
    (r"^unet\.", ""),
    (r"^condition\.", "conv_in_extended."),
    (r"\.(embed|unembed)\.", r".patch_\1.proj."),
    (r"\.(fc[12])\.", r".mlp.\1."),
)


def load(config: DiffoConfig, unet: Path, latent: Path, vqgan: Path) -> DiffoModel:
    """Return the model with all weights loaded, in evaluation mode, fp32.

    Args:
        config: the networks' sizes.
        unet, latent, vqgan: the three files, as `state.read_state` takes them.

    Raises:
        ExportError: a file cannot be read, or keys are missing, unexpected or misshapen in any of the three; the
            message states if files are interchanged.
    """
    model = DiffoModel(config)
    problems: list[str] = []
    hints: list[str] = []
    for part, path in (("unet", unet), ("codec", latent), ("vqgan", vqgan)):
        state = read_state(path)
        found = _part_of(state)
        if found is not None and found != part:
            hints.append(f"{path}: this is {_FILES[found]}, expected {_FILES[part]}")
        wanted = {released_key(k, config): v for k, v in model.state_dict().items() if k.startswith(f"{part}.")}
        take(wanted, dict(_read_by_the_method(part, state)), path.name, problems)
    if problems:
        raise ExportError(listed("; ".join(hints) or f"{unet}, {latent}, {vqgan}", problems))
    return model.eval().requires_grad_(False)


def released_key(key: str, config: DiffoConfig) -> str:
    """Return the name that the released files give to one of our parameters.

    Args:
        key: a key of ``DiffoModel.state_dict()``; its first part identifies the file.
        config: decides how many levels the autoencoders have.
    """
    part, _, path = key.partition(".")
    if part == "unet":
        return released_names.renamed(released_names.renamed(key, _RENAMES_SWIN), released_names.UNET)
    if path.startswith("quantize."):
        return f"quantize.embedding.{path.rpartition('.')[2]}"
    autoencoder = config.latent if part == "codec" else config.vqgan
    assert isinstance(autoencoder, AutoencoderConfig)  # no released model has a linear transform
    levels = len(autoencoder.channels)
    return released_names.autoencoder_key(path, levels)


def _read_by_the_method(part: str, state: State) -> Iterator[tuple[str, Tensor]]:
    return ((key, value) for key, value in state.items() if not IGNORED[part].match(key))


def _part_of(state: Mapping[str, Tensor]) -> str | None:
    """Return which of the three files a state is from, by keys that the others lack; None if it is not recognised."""
    if any(key.startswith("input_blocks.") for key in state):
        return "unet"
    if "quantize.embedding.cluster_size" in state:
        return "codec"
    return "vqgan" if "encoder.conv_in.weight" in state else None
