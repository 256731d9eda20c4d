"""The text context is that of OpenCLIP's tower without its last block, whichever way the tower is stored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from rdeic_export.modules.config import UNetConfig
from rdeic_export.weights import text_encoder
from rdeic_rt.errors import ExportError

WIDTH, TOKENS = 128, 77
CONFIG = UNetConfig(context_dim=WIDTH, context_tokens=TOKENS)
# A byte-level vocabulary: "!" is 0, as in CLIP, and start and end are the last two.
WORDS = ["!", *"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"), "hi</w>"]
VOCABULARY = {word: index for index, word in enumerate([*WORDS, "<|startoftext|>", "<|endoftext|>"])}


class Block(nn.Module):
    """OpenCLIP's residual attention block, written with torch's own attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        out: Tensor = x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))
        return out


class OpenClipText(nn.Module):
    """OpenCLIP's text tower, under the names it has in Stable Diffusion 2.1's checkpoint."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.text_projection = nn.Parameter(torch.randn(WIDTH, 40))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.token_embedding = nn.Embedding(len(VOCABULARY), WIDTH)
        blocks = nn.ModuleList(Block(WIDTH, WIDTH // 64) for _ in range(layers))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(WIDTH)

    def blocks(self) -> list[Block]:
        resblocks = self.transformer["resblocks"]
        assert isinstance(resblocks, nn.ModuleList)
        return [cast(Block, block) for block in resblocks]

    def penultimate(self, tokens: Tensor) -> Tensor:
        mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding
        for block in self.blocks()[:-1]:
            x = block(x, mask)
        out: Tensor = self.ln_final(x)
        return out


@pytest.fixture(scope="module")
def tower() -> OpenClipText:
    torch.manual_seed(0)
    tower = OpenClipText().requires_grad_(False)
    for parameter in tower.parameters():  # norms and biases start as ones and zeros, which would hide a mix-up
        parameter.add_(0.1 * torch.randn_like(parameter))
    return tower


def checkpoint(tower: OpenClipText, path: Path) -> Path:
    state = {f"cond_stage_model.model.{k}": v for k, v in tower.state_dict().items()}
    torch.save({"state_dict": state | {"model.diffusion_model.out.0.weight": torch.zeros(1)}}, path)
    return path


def folder(tower: OpenClipText, path: Path) -> Path:
    """The same weights as diffusers stores them, named by hand and saved by transformers."""
    config = CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        hidden_act="gelu",
        bos_token_id=0,
        eos_token_id=2,
    )
    model = CLIPTextModel(config)
    model.embeddings.token_embedding.weight.data.copy_(tower.token_embedding.weight)
    model.embeddings.position_embedding.weight.data.copy_(tower.positional_embedding)
    for ours, theirs in zip(tower.blocks(), model.encoder.layers, strict=False):
        assert isinstance(theirs, CLIPEncoderLayer)
        for index, name in enumerate("qkv"):
            rows = slice(index * WIDTH, (index + 1) * WIDTH)
            projection = getattr(theirs.self_attn, f"{name}_proj")
            projection.weight.data.copy_(ours.attn.in_proj_weight[rows])
            projection.bias.data.copy_(ours.attn.in_proj_bias[rows])
        theirs.self_attn.out_proj.load_state_dict(ours.attn.out_proj.state_dict())
        theirs.layer_norm1.load_state_dict(ours.ln_1.state_dict())
        theirs.layer_norm2.load_state_dict(ours.ln_2.state_dict())
        theirs.mlp.fc1.load_state_dict(ours.mlp["c_fc"].state_dict())
        theirs.mlp.fc2.load_state_dict(ours.mlp["c_proj"].state_dict())
    model.final_layer_norm.load_state_dict(tower.ln_final.state_dict())
    model.save_pretrained(path / "text_encoder")
    return path


def tokenizer(path: Path) -> None:
    (path / "tokenizer").mkdir(parents=True)
    (path / "tokenizer" / "vocab.json").write_text(json.dumps(VOCABULARY))
    (path / "tokenizer" / "merges.txt").write_text("#version: 0.2\nh i</w>\n")


def tokens_of(*words: str) -> Tensor:
    ids = [VOCABULARY[w] for w in ("<|startoftext|>", *words, "<|endoftext|>")]
    return torch.tensor([ids + [0] * (TOKENS - len(ids))])


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_context_both_layouts_match_the_reference(tower: OpenClipText, tmp_path: Path) -> None:
    expected = tower.penultimate(tokens_of())
    from_checkpoint = text_encoder.context(checkpoint(tower, tmp_path / "sd.ckpt"), "", CONFIG)
    assert from_checkpoint.shape == (1, TOKENS, WIDTH) and from_checkpoint.dtype == torch.float32
    close(from_checkpoint, expected)
    close(text_encoder.context(folder(tower, tmp_path / "sd"), "", CONFIG), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "fp16"},
        {"max_shard_size": "50KB"},
        {"variant": "fp16", "max_shard_size": "50KB"},
    ],
)
def test_context_folder_in_every_form_matches_the_reference(
    tower: OpenClipText, tmp_path: Path, options: dict[str, Any]
) -> None:
    saved = folder(tower, tmp_path / "sd") / "text_encoder"
    model = CLIPTextModel.from_pretrained(saved)
    for path in saved.glob("*.safetensors"):
        path.unlink()
    model.save_pretrained(saved, **options)
    assert not (saved / "model.safetensors").exists()
    close(text_encoder.context(tmp_path / "sd", "", CONFIG), tower.penultimate(tokens_of()))


def test_context_checkpoint_of_before_zip_matches_the_reference(tower: OpenClipText, tmp_path: Path) -> None:
    state = {f"module.cond_stage_model.model.{k}": v for k, v in tower.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "sd.ckpt", _use_new_zipfile_serialization=False)
    close(text_encoder.context(tmp_path / "sd.ckpt", "", CONFIG), tower.penultimate(tokens_of()))


def test_context_half_checkpoint_gives_float32(tower: OpenClipText, tmp_path: Path) -> None:
    state = {f"cond_stage_model.model.{k}": v.half() for k, v in tower.state_dict().items()}
    save_file(state, tmp_path / "sd.safetensors")
    actual = text_encoder.context(tmp_path / "sd.safetensors", "", CONFIG)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, tower.penultimate(tokens_of()), rtol=0.02, atol=0.02)


def test_context_last_block_is_not_used_the_one_before_is(tower: OpenClipText, tmp_path: Path) -> None:
    before = text_encoder.context(checkpoint(tower, tmp_path / "sd.ckpt"), "", CONFIG)
    for index, used in ((2, False), (1, True)):
        changed = OpenClipText().requires_grad_(False)
        changed.load_state_dict(tower.state_dict())
        projection = changed.blocks()[index].mlp["c_proj"]
        assert isinstance(projection, nn.Linear)
        projection.bias.add_(torch.randn(WIDTH))
        after = text_encoder.context(checkpoint(changed, tmp_path / f"{index}.ckpt"), "", CONFIG)
        assert torch.equal(before, after) is not used


def test_context_words_are_tokenized_with_the_folder(tower: OpenClipText, tmp_path: Path) -> None:
    sd = folder(tower, tmp_path / "sd")
    tokenizer(sd)
    close(text_encoder.context(sd, "Hi  ab", CONFIG), tower.penultimate(tokens_of("hi</w>", "a", "b</w>")))
    longest = " ".join("a" * (TOKENS - 2))
    close(text_encoder.context(sd, longest, CONFIG), tower.penultimate(tokens_of(*["a</w>"] * (TOKENS - 2))))
    with pytest.raises(ExportError, match="the prompt has 76 tokens, at most 75 fit"):
        text_encoder.context(sd, longest + " b", CONFIG)


@pytest.mark.parametrize("kind", ["checkpoint", "folder"])
def test_context_words_without_tokenizer_says_what_to_pass(tower: OpenClipText, tmp_path: Path, kind: str) -> None:
    sd = checkpoint(tower, tmp_path / "sd.ckpt") if kind == "checkpoint" else folder(tower, tmp_path / "sd")
    with pytest.raises(ExportError) as caught:
        text_encoder.context(sd, "a photo", CONFIG)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("tokenizer/vocab.json or tokenizer/merges.txt", "'a photo'", "diffusers folder", "--context"):
        assert part in message


def test_context_damaged_tokenizer_is_one_line(tower: OpenClipText, tmp_path: Path) -> None:
    sd = folder(tower, tmp_path / "sd")
    tokenizer(sd)
    (sd / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(ExportError, match="not a readable tokenizer") as caught:
        text_encoder.context(sd, "a", CONFIG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keys, hint",
    [
        ({"model.diffusion_model.out.0.weight": torch.zeros(1)}, r"no text encoder .*\*\)\. Pass .*--context FILE"),
        ({"cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.zeros(1)}, "Stable Diffusion 1.x"),
        ({"conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": torch.zeros(1)}, "Diffusion XL"),
        ({"cond_stage_model.model.ln_final.bias": torch.zeros(1)}, "not a CLIP text tower"),
    ],
)
def test_context_checkpoint_without_tower_is_refused(keys: dict[str, Tensor], hint: str, tmp_path: Path) -> None:
    save_file(keys, tmp_path / "sd.safetensors")
    with pytest.raises(ExportError, match=hint):
        text_encoder.context(tmp_path / "sd.safetensors", "", CONFIG)


def test_context_incomplete_tower_is_refused(tower: OpenClipText, tmp_path: Path) -> None:
    state = {f"cond_stage_model.model.{k}": v for k, v in tower.state_dict().items()}
    del state["cond_stage_model.model.transformer.resblocks.0.ln_1.bias"]
    state["cond_stage_model.model.ln_final.weight"] = torch.ones(3)
    save_file(state, tmp_path / "sd.safetensors")
    with pytest.raises(ExportError, match=r"2 problems: missing encoder\.layers\.0\.layer_norm1\.bias; final_layer"):
        text_encoder.context(tmp_path / "sd.safetensors", "", CONFIG)


def test_context_other_width_is_refused(tower: OpenClipText, tmp_path: Path) -> None:
    wide = dataclasses.replace(CONFIG, context_dim=1024)
    with pytest.raises(ExportError, match="77 tokens of width 128, expected 77 tokens of width 1024"):
        text_encoder.context(checkpoint(tower, tmp_path / "sd.ckpt"), "", wide)


@pytest.mark.parametrize("gone", ["text_encoder/model.safetensors", "text_encoder/config.json"])
def test_context_folder_without_tower_is_refused(tower: OpenClipText, tmp_path: Path, gone: str) -> None:
    sd = folder(tower, tmp_path / "sd")
    (sd / gone).unlink()
    with pytest.raises(ExportError, match=f"no {gone}.*--context FILE"):
        text_encoder.context(sd, "", CONFIG)
    (sd / "text_encoder" / "model.safetensors").touch()
    (sd / "text_encoder" / "config.json").write_text('{"hidden_act": "gelu"}')
    with pytest.raises(ExportError, match="not a text encoder's configuration"):
        text_encoder.context(sd, "", CONFIG)
