"""Files of weights as tensors by name, and their way into a module: nothing is executed, every key is accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rdeic_rt.errors import ExportError

State = dict[str, Tensor]

TORCH_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin", ".tar"}
# Problems that one error lists; a checkpoint of another model has hundreds.
LISTED_PROBLEMS = 8


def read_state(path: Path) -> State:
    """Return the tensors of a safetensors or torch file; nothing in it is executed.

    Tensors of a file are mapped, not read: memory is used where they are.

    Raises:
        ExportError: the file is absent, unreadable or holds more than tensors.
    """
    try:
        if path.suffix in TORCH_SUFFIXES:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            state = loaded.get("state_dict", loaded)
        else:
            state = load_file(path)
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # torch and safetensors raise a dozen unrelated types for a bad file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{path}: not a readable checkpoint ({reason}). Fetch it again.") from error


def take(wanted: Mapping[str, Tensor], source: Mapping[str, Tensor], file_name: str, problems: list[str]) -> None:
    """Copy into each wanted tensor its namesake in the source, adding what does not fit to ``problems``.

    Args:
        wanted: a module's tensors under the names that the source gives them; they are changed.
        source: all of it is expected to be wanted.
        file_name: what problems begin with.
        problems: receives one line for every missing, unexpected and misshapen key.
    """
    for name in sorted(wanted.keys() - source.keys()):
        problems.append(f"{file_name}: missing {name} {list(wanted[name].shape)}")
    for name in sorted(source.keys() - wanted.keys()):
        problems.append(f"{file_name}: unexpected {name} {list(source[name].shape)}")
    for name in sorted(wanted.keys() & source.keys()):
        target, value = wanted[name], source[name]
        if value.shape != target.shape and _squeezed(value) != _squeezed(target):
            problems.append(f"{file_name}: {name} has shape {list(value.shape)}, expected {list(target.shape)}")
        else:
            target.copy_(value.reshape(target.shape))


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round all parameters to what float16 holds, which is how a bundle may store them."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


@torch.no_grad()
def draw(model: nn.Module, generator: torch.Generator) -> None:
    """Draw weights, but not biases, that keep activations near unit variance."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)


def listed(where: str, problems: Sequence[str]) -> str:
    """Return one line: where the problems are, how many there are, and the first of them."""
    if len(problems) == 1:
        return f"{where}: {problems[0]}"
    more = f", the first {LISTED_PROBLEMS}" if len(problems) > LISTED_PROBLEMS else ""
    return f"{where}: {len(problems)} problems{more}: {'; '.join(problems[:LISTED_PROBLEMS])}"


def _squeezed(tensor: Tensor) -> list[int]:
    """Shape without trailing ones: a 1x1 convolution and a linear layer hold the same weights."""
    shape = list(tensor.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return shape
