"""What each specialisation for the fixed loop saves at full size, before and after.

    python tests/bench/specialisation.py > tests/bench/results/specialisation.md

Operations (2 per multiply-add, of convolutions and matrix products) and bytes are those of the full-size networks, at
768x512 and batch 1 in float16; they are traced without weights. ONNX nodes are counted in single blocks exported at
reduced width, which they do not depend on, times the number of such blocks. The last table is read from plans that
TensorRT for RTX builds here, without a GPU; it is left out where that is not installed.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flops
import onnx
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from rdeic_export import onnx_export
from rdeic_export.fold import attention, graphs, steps, text, upsample
from rdeic_export.fold.pixels import PixelsFromVae
from rdeic_export.fold.update import UnetStep
from rdeic_export.modules import signature
from rdeic_export.modules.config import SD21, UNetConfig
from rdeic_export.modules.control import ControlNet
from rdeic_export.modules.model import RdeicModel
from rdeic_export.modules.signature import Signature
from rdeic_export.modules.unet import UNet, UNetEncoder
from rdeic_export.modules.vae import Vae
from rdeic_rt.tensor_spec import TensorSpec

SIZES = {"batch": 1, "hz": 8, "wz": 12}  # 768x512
IMAGE = (512, 768, 3)
RATES = 5
N_STEPS = 2
CONTEXT = TensorSpec("context", "float32", ("batch", SD21.unet.context_tokens, SD21.unet.context_dim))
TIMESTEPS = TensorSpec("timesteps", "int64", (1,))
NARROW = UNetConfig(channels=(64, 128), layers_per_block=1, attention_levels=(True, True), context_dim=64)
CAPABILITIES = [80, 86, 89, 120]


def main() -> None:
    """Print the tables."""
    with torch.device("meta"):
        model = RdeicModel(SD21)
        print(f"# Specialisation\n\n`python tests/bench/specialisation.py`, torch {torch.__version__}\n")
        print("## Operations and weights, one run at 768x512, float16\n")
        report_networks(model)
        print("\n## One shared denoiser\n")
        report_sharing(model)
    print("\n## Bytes and launches around the graphs\n")
    report_transfers()
    print("\n## ONNX nodes\n")
    with tempfile.TemporaryDirectory() as folder:
        report_nodes(model, Path(folder))
        if importlib.util.find_spec("tensorrt_rtx"):
            print("\n## Attention in TensorRT for RTX\n")
            report_plans(Path(folder))


class Unfolded(nn.Module):
    """A UNet or control net as the released code calls it: timesteps and text context at every step."""

    def __init__(self, network: UNetEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor | list[Tensor]) -> Any:
        timesteps, *rest = inputs
        emb = self.network.time_embed(timesteps)
        if isinstance(self.network, ControlNet):
            z_n, hint, context = rest
            return self.network(z_n, hint, emb, context)
        z_n, context, residuals = rest
        return self.network(z_n, emb, context, residuals)


class TextFolded(Unfolded):
    """The same after ``text.fold``: no context."""

    def forward(self, *inputs: Tensor | list[Tensor]) -> Any:
        timesteps, *rest = inputs
        emb = self.network.time_embed(timesteps)
        if isinstance(self.network, ControlNet):
            return self.network(*rest, emb, None)
        z_n, residuals = rest
        return self.network(z_n, emb, None, residuals)


def report_networks(model: RdeicModel) -> None:
    """Apply the folds one by one and count after each."""
    unet, control, vae = copy.deepcopy((model.unet, model.control, model.vae))
    latent = signature.unet_step(SD21, unet, 1).inputs[0]
    hint = signature.synthesis(SD21).outputs[1]
    residuals = signature.residuals(unet)
    widths = [steps.table(network, [0]).shape[1] for network in (unet, control)]
    row("network", "specialisation", "GFLOP", "saved", "weights MB", "saved")
    rule(6)
    ladder = Ladder("UNet", Unfolded(unet), (TIMESTEPS, latent, CONTEXT, *residuals))
    text.fold(unet, model.context)
    ladder.next("constant keys and values of the text", TextFolded(unet), (TIMESTEPS, latent, *residuals))
    steps.fold(unet)
    table = f"step table ({N_STEPS} rows, {2 * N_STEPS * widths[0] / 1e3:.0f} kB) for time-embedding layers"
    ladder.next(table, UnetStep(unet), signature.unet_step(SD21, unet, widths[0]).inputs)
    upsample.fold(unet)
    ladder.next("upsampling convolutions by phases", UnetStep(unet), signature.unet_step(SD21, unet, widths[0]).inputs)
    ladder = Ladder("control net", Unfolded(control), (TIMESTEPS, latent, hint, CONTEXT))
    text.fold(control, model.context)
    ladder.next("constant keys and values of the text", TextFolded(control), (TIMESTEPS, latent, hint))
    steps.fold(control)
    ladder.next(
        f"step table ({N_STEPS} rows, {2 * N_STEPS * widths[1] / 1e3:.0f} kB) for time-embedding layers",
        graphs.FoldedControl(control),
        signature.control(SD21, unet, widths[1]).inputs,
    )
    decoder = signature.vae_decoder(SD21)
    ladder = Ladder("VAE decoder", PixelsFromVae(vae), decoder.inputs)
    upsample.fold(vae)
    ladder.next("upsampling convolutions by phases", PixelsFromVae(vae), decoder.inputs)


class Ladder:
    """Rows of one network, each compared with the previous one."""

    def __init__(self, network: str, module: nn.Module, inputs: Sequence[TensorSpec]) -> None:
        self.network = network
        self.flops, self.bytes = self._count(module, inputs)
        row(network, "none", f"{self.flops / 1e9:.1f}", "", f"{self.bytes / 1e6:.1f}", "")

    def next(self, name: str, module: nn.Module, inputs: Sequence[TensorSpec]) -> None:
        """Print the row of a further specialisation."""
        operations, size = self._count(module, inputs)
        saved, saved_bytes = (self.flops - operations) / 1e9, (self.bytes - size) / 1e6
        row(self.network, name, f"{operations / 1e9:.1f}", f"{saved:.3f}", f"{size / 1e6:.1f}", f"{saved_bytes:.1f}")
        self.flops, self.bytes = operations, size

    def _count(self, module: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[int, int]:
        used = module
        if isinstance(module, PixelsFromVae):
            assert isinstance(module.vae, Vae)  # as the model of SD 2.1 has it
            used = module.vae.kl.decoder
        return flops.count(module, Signature(self.network, tuple(inputs), ()), SIZES), flops.weight_bytes(used)


def report_sharing(model: RdeicModel) -> None:
    """Compare one engine per rate with one for all."""
    unet, control = flops.weight_bytes(model.unet), flops.weight_bytes(model.control)
    row("", "engines", "weights GB")
    rule(3)
    row(f"control net and UNet in one graph, {RATES} rates", RATES, f"{RATES * (unet + control) / 1e9:.2f}")
    row(f"one UNet and {RATES} control nets", 1 + RATES, f"{(unet + RATES * control) / 1e9:.2f}")
    row("plus the unguided prediction for lambda_s, before: a second UNet", 1, f"{unet / 1e9:.2f}")
    row("plus the unguided prediction for lambda_s, after: the same engine at batch 2, zero residuals", 0, "0.00")


def report_transfers() -> None:
    """Count bytes that cross the bus, and host work between the graphs."""
    height, width, channels = IMAGE
    latent = 4 * SD21.vae.latent_channels * height * width // SD21.vae.factor_px**2
    values = height * width * channels
    row("", "before", "after")
    rule(3)
    row(
        "image copied to the host: float32 NCHW before, uint8 NHWC after",
        f"{4 * values / 1e6:.2f} MB",
        f"{values / 1e6:.2f} MB",
    )
    row("host passes over the image: scale, clamp, round, layout", 4, 0)
    row("update outside the graph: kernel launches per step (3 products, 2 sums)", 5, 0)
    row("... or on the host: latents over the bus per step (eps down, z up)", f"{2 * latent / 1e3:.0f} kB", "0 kB")
    row("synchronisations per step (0 allows the loop to be one CUDA graph)", 1, 0)


def report_nodes(model: RdeicModel, folder: Path) -> None:
    """Export one block of each kind before and after its fold."""
    torch.manual_seed(0)
    network = UNet(NARROW, 4).requires_grad_(False)
    resnet, transformer = network.input_blocks[1].children()
    up = next(m for m in network.modules() if isinstance(m, Upsample2D))
    folded = copy.deepcopy(network)
    text.fold(folded, torch.randn(1, 77, 64))
    constant = copy.deepcopy(transformer_of(folded))
    attention.fold(folded)
    steps.fold(folded)
    upsample.fold(folded)
    image = TensorSpec("x", "float32", ("batch", 64, "8*hz", "8*wz"))
    wide = replace(image, shape=("batch", 128, "8*hz", "8*wz"))
    context = replace(CONTEXT, shape=("batch", 77, 64))
    emb = TensorSpec("emb", "float32", (1, NARROW.time_dim))
    step = TensorSpec("emb", "float32", (1, steps.table(network, [0]).shape[1]))
    blocks = {kind: sum(isinstance(m, kind) for m in model.unet.modules()) for kind in (Transformer2DModel, Upsample2D)}
    resnets = sum(isinstance(m, ResnetBlock2D) for m in model.unet.modules())
    row(
        "specialisation",
        "blocks in the UNet",
        "nodes per block",
        "after",
        "saved in the UNet",
        "of these, on floating-point tensors",
    )
    rule(6)

    def compare(name: str, times: int, before: list[int], after: list[int]) -> None:
        saved = [times * (b - a) for b, a in zip(before, after, strict=True)]
        row(name, times, before[0], after[0], *saved)

    count = partial(nodes, folder)
    with_text = count(TransformerBlock(transformer), image, context)
    without = count(TransformerBlock(constant), image)
    compare("constant keys and values", blocks[Transformer2DModel], with_text, without)
    fused = count(TransformerBlock(transformer_of(folded)), image)
    compare("attention: scale in the weights, constants per head", blocks[Transformer2DModel], without, fused)
    resnet_after = next(folded.input_blocks[1].children())
    compare("step table: residual blocks", resnets, count(resnet, image, emb), count(resnet_after, image, step))
    compare("step table: time embedding", 1, count(network.time_embed, TIMESTEPS), [0, 0])
    up_after = next(m for m in folded.modules() if isinstance(m, upsample.PhaseConv))
    compare("upsampling by phases", blocks[Upsample2D], count(up, wide), count(up_after, wide))


def transformer_of(network: UNet) -> nn.Module:
    """Return the transformer of the first level's first block, which has a residual block and it."""
    _, transformer = network.input_blocks[1].children()
    return transformer


class TransformerBlock(nn.Module):
    """A transformer with its context as an argument or none, in its own precision between float32 ends."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.dtype = next(block.parameters()).dtype

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        y: Tensor = self.block(x.to(self.dtype), encoder_hidden_states=context, return_dict=False)[0]
        return y.to(torch.float32)


def nodes(folder: Path, module: nn.Module, *inputs: TensorSpec) -> list[int]:
    """Return how many ONNX nodes a module exports to, and how many of them make floats."""
    path = export(folder / "block.onnx", module, *inputs)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {x.name: x.type.tensor_type.elem_type for x in (*graph.value_info, *graph.output)}
    floats = [node for node in graph.node if types.get(node.output[0]) == onnx.TensorProto.FLOAT]
    return [len(graph.node), len(floats)]


def export(path: Path, module: nn.Module, *inputs: TensorSpec) -> Path:
    """Export a module of one output to a file and return its path."""
    with torch.no_grad():
        shape = module(*(signature.sample(x, torch.Generator()) for x in inputs)).shape
    output = TensorSpec("y", "float32", tuple(f"d{i}" for i in range(len(shape))))
    onnx_export.run(module, Signature("block", inputs, (output,)), path, half_weights=False)
    return path


def report_plans(folder: Path) -> None:
    """Build a transformer block of the UNet's first level in three forms and read the plans."""
    torch.manual_seed(0)
    config = UNetConfig(channels=(320,), layers_per_block=1, attention_levels=(True,))
    network = UNet(config, 4).requires_grad_(False)
    text.fold(network, torch.randn(1, config.context_tokens, config.context_dim))
    plain = copy.deepcopy(transformer_of(network))
    attention.fold(network)
    folded = transformer_of(network)
    x = TensorSpec("x", "float32", ("batch", 320, "8*hz", "8*wz"))
    row(
        "variant of the block (5 heads of 64, up to 1024x1024)",
        "fused attention kernels",
        "accumulator of QK",
        "scratch MB",
        "kernels",
    )
    rule(5)
    report_plan("float32", folder, copy.deepcopy(plain), x)
    report_plan("float16, attention as in diffusers", folder, plain.half(), x)
    report_plan("float16, attention folded", folder, folded.half(), x)
    report_plan("float16, attention folded, batch of 1 only", folder, folded, x, max_batch=1)


def report_plan(name: str, folder: Path, block: nn.Module, x: TensorSpec, max_batch: int = 2) -> None:
    """Build a plan in a process of its own, as the exporter does, and print what it runs."""
    path = export(folder / "block.onnx", TransformerBlock(block), x)
    sizes = ({"batch": 1, "hz": 1, "wz": 1}, SIZES, {"batch": max_batch, "hz": 16, "wz": 16})
    request = {
        "library": "tensorrt-rtx",
        "onnx": str(path),
        "output": str(folder / "block.plan"),
        "shapes": {"x": [x.resolve(size) for size in sizes]},
        "capabilities": CAPABILITIES,
        "workspace_bytes": None,
        "tf32": True,
    }
    (folder / "request.json").write_text(json.dumps(request))
    subprocess.run([sys.executable, "-m", "rdeic_export.plans.builder", folder / "request.json"], check=True)
    plan = (folder / "block.plan").read_bytes()
    report = json.loads((folder / "block.plan.report.json").read_text())
    # The plan holds its program and the source of its kernels as text.
    fused = len(re.findall(rb"function=\{ name=_gemm_mha_v2 ", plan))
    sums = re.findall(rb"initialize\(DATA_TYPE_\w+, DATA_TYPE_\w+, DATA_TYPE_(\w+),", plan)
    kernels = len(re.findall(rb"(?:function|fully_connected|runtime_fusion|corrltn)=\{ name=", plan))
    scratch = f"{report['scratch_bytes'] / 1e6:.0f}"
    row(name, fused, ", ".join(s.decode().lower() for s in sums) or "not fused", scratch, kernels)


def row(*cells: object) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def rule(columns: int) -> None:
    """Print the line between head and body."""
    print("|" + "---|" * columns, flush=True)


if __name__ == "__main__":
    main()
