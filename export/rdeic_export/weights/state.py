"""Weights as tensors by name, and their way into a module: every key is accounted for.

Whatever wrapped a network when it was saved has left its name in the keys: ``module.`` (DataParallel and averaged
models), ``_orig_mod.`` (compiled ones), ``ema.`` and the like. These are removed from names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rdeic_rt.errors import ExportError

from . import folders, formats

State = dict[str, Tensor]

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module"}
_AVERAGES = ("ema_model.", "model_ema.", "ema.")
_COUNTERS = {"n_averaged", "decay", "num_updates", "initted", "step"}  # beside averages, not of the network
# Problems that one error lists; a checkpoint of another model has hundreds.
LISTED_PROBLEMS = 8


def read_state(path: Path) -> State:
    """Return the tensors of a file of weights under the names that the network gives them; nothing in it is executed.

    Where the format allows, tensors are mapped, not read: memory is used where they are.

    Args:
        path: safetensors, a checkpoint of torch in either of its formats, the index of one in shards, or a folder that
            holds one of these.

    Raises:
        ExportError: the file is absent, unreadable or holds more than tensors, or a name twice.
    """
    path = folders.only_weights(path)
    return _unwrapped(formats.read(path), path)


def _unwrapped(state: State, path: Path) -> State:
    names = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in state}
    weights = [name for key, name in names.items() if key not in _COUNTERS]
    prefix = next((prefix for prefix in _AVERAGES if weights and all(n.startswith(prefix) for n in weights)), "")
    if prefix or any(key != name for key, name in names.items()):
        names = {key: name.removeprefix(prefix) for key, name in names.items() if key not in _COUNTERS}
    unwrapped: State = {}
    for key, name in names.items():
        if name in unwrapped:
            raise ExportError(f"{path}: holds {name} twice, once as {key}. Keep one of them.")
        unwrapped[name] = state[key]
    return unwrapped


def take(wanted: Mapping[str, Tensor], source: Mapping[str, Tensor], file_name: str, problems: list[str]) -> None:
    """Copy into each wanted tensor its namesake in the source, adding what does not fit to ``problems``.

    Args:
        wanted: a module's tensors under the names that the source gives them; they are changed.
        source: all of it is expected to be wanted.
        file_name: what problems begin with.
        problems: receives one line for every key that is missing, unexpected or misshapen, or holds no weights: whole
            numbers, or values that are not finite.
    """
    for name in sorted(wanted.keys() - source.keys()):
        problems.append(f"{file_name}: missing {name} {list(wanted[name].shape)}")
    for name in sorted(source.keys() - wanted.keys()):
        problems.append(f"{file_name}: unexpected {name} {list(source[name].shape)}")
    for name in sorted(wanted.keys() & source.keys()):
        target, value = wanted[name], source[name]
        if value.shape != target.shape and _squeezed(value) != _squeezed(target):
            problems.append(f"{file_name}: {name} has shape {list(value.shape)}, expected {list(target.shape)}")
        elif target.is_floating_point() and not value.is_floating_point():
            problems.append(
                f"{file_name}: {name} is {str(value.dtype).removeprefix('torch.')}, expected weights in float"
            )
        else:
            target.copy_(value.reshape(target.shape))
            if not torch.isfinite(target).all():
                problems.append(f"{file_name}: {name} has values that are not finite")


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
