"""Names that released checkpoints give to the parts of diffusers' blocks.

Checkpoints of the CompVis line (Stable Diffusion, RDEIC, VQGAN, ResShift) share two layouts: that of an autoencoder,
and that of a UNet whose stages are ``input_blocks``, ``middle_block`` and ``output_blocks``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Renames = Sequence[tuple[str, str]]

UNET: Renames = (
    (r"(^|\.)time_embed\.mlp\.linear_1\.", r"\1time_embed.0."),
    (r"(^|\.)time_embed\.mlp\.linear_2\.", r"\1time_embed.2."),
    (r"(input_blocks\.\d+\.0)\.conv\.", r"\1.op."),
    (r"((?:put_blocks|middle_block)(?:\.\d+)+)\.norm1\.", r"\1.in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"((?:put_blocks|middle_block)(?:\.\d+)+)\.norm2\.", r"\1.out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
_AUTOENCODER: Renames = (
    (r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1.\2.block.\3."),
    (r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.", r"\1.\2.attn.\3."),
    (r"(down|up)_blocks\.(\d+)\.\1samplers\.0\.", r"\1.\2.\1sample."),
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"(\.attn(?:_1|\.\d+))\.group_norm\.", r"\1.norm."),
    (r"(\.attn(?:_1|\.\d+))\.to_([qkv])\.", r"\1.\2."),
    (r"(\.attn(?:_1|\.\d+))\.to_out\.0\.", r"\1.proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)


def renamed(key: str, rules: Renames) -> str:
    """Return the key after every rule, a pattern and its replacement, has been applied in turn."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def autoencoder_key(key: str, levels: int) -> str:
    """Return the released name of a parameter of diffusers' autoencoder, whose decoder counts levels from the end."""
    return re.sub(r"\.up\.(\d+)\.", lambda m: f".up.{levels - 1 - int(m[1])}.", renamed(key, _AUTOENCODER))
