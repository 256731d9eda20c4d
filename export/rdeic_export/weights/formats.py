"""Files of weights in whichever format people have them -> tensors by name; nothing in a file is executed.

The format of a file is recognised by its first bytes, not by its name::

    PK 03 04              torch since 1.6: mapped
    8 bytes, then {       safetensors: mapped; tensors that it refers to in a bundle are read (`in_graphs`)
    80                    torch before, a row of pickles: read, as it cannot be mapped
    {                     the index of a file in shards, *.safetensors.index.json or *.bin.index.json

Checkpoints of Lightning hold the state of its callbacks beside the tensors. Its classes, and numpy's numbers, are read
as objects without content; any other class is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rdeic_rt.errors import ExportError

from . import in_graphs

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_ZIP_END = b"PK\x05\x06"  # of one that holds nothing
_OTHERS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the weights. Run `git lfs pull` where it comes from"),
    (b"GGUF", "a GGUF file. Give the weights as safetensors or torch saves them"),
    (b"\x1f\x8b", "a compressed archive. Unpack it and give the file in it"),
    (b"BZh", "a compressed archive. Unpack it and give the file in it"),
    (b"\xfd7zXZ", "a compressed archive. Unpack it and give the file in it"),
    (b"7z\xbc\xaf", "a compressed archive. Unpack it and give the file in it"),
    (b"<", "a web page, not the weights. Fetch it again"),
)
_HEAD_BYTES = 32
_MAX_INDEX_BYTES = 64 * 2**20
# Where a file has several dictionaries of tensors, the first of these; averaged weights are those to decode with.
_PARTS = (
    "state_dict",
    "params_ema",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_model",
    "ema",
    "model_state_dict",
    "model",
    "params",
    "module",
)
_WITHOUT_CONTENT = re.compile(r"(pytorch_lightning|lightning|lightning_fabric|numpy)\.|argparse\.Namespace$")
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
_MOST_CLASSES = 64


class _Nothing:
    """Stands for an object of a class that is not loaded."""

    def __new__(cls, *_: object, **__: object) -> _Nothing:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, or of all shards that an index names.

    Raises:
        ExportError: the file is absent, damaged, of another format, or holds more than tensors.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except IsADirectoryError:
        raise ExportError(f"{path}: a folder, expected a file of weights") from None
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    if head.startswith((_ZIP, _ZIP_END)):
        return _from_torch(path, mapped=True)
    if head[8:9] == b"{":  # before the next, as a header of 128 bytes begins as a pickle does
        return _from_safetensors(path)
    if head.startswith(_PICKLE):
        return _from_torch(path, mapped=False)
    if head.lstrip().startswith(b"{"):
        return _from_shards(path)
    for magic, what in _OTHERS:
        if head.lstrip().startswith(magic):
            raise ExportError(f"{path}: {what}.")
    raise unreadable(path, "neither torch nor safetensors" if head else "the file is empty")


def shards(index: Path) -> list[Path]:
    """Return the files that an index names, each once.

    Raises:
        ExportError: it is no index, names what is not in its folder, or files are missing, all of which are listed.
    """
    try:
        with index.open("rb") as stream:
            text = stream.read(_MAX_INDEX_BYTES + 1)
        names = set(json.loads(text)["weight_map"].values()) if len(text) <= _MAX_INDEX_BYTES else set()
        plain = all(isinstance(name, str) and name == Path(name).name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{index}: not the index of weights in shards ({_first_line(error)}).") from error
    if not names or not plain:
        raise ExportError(f"{index}: its weight_map must name files beside it, and no others.")
    paths = [index.parent / name for name in sorted(names)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ExportError(f"{index}: shards are missing: {', '.join(missing)}. Fetch them too.")
    return paths


def unreadable(path: Path, reason: str) -> ExportError:
    """Return the error of a file that may be damaged."""
    return ExportError(f"{path}: not a readable checkpoint ({reason}). Fetch it again.")


def _from_shards(index: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path in shards(index):
        with path.open("rb") as stream:
            if stream.read(1) == b"{":
                raise ExportError(f"{path}: an index, named as a shard by {index.name}.")
        state |= read(path)
    return state


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise unreadable(path, _first_line(error)) from error
    return {**state, **in_graphs.read(path)}


def _from_torch(path: Path, *, mapped: bool) -> dict[str, Tensor]:
    content = _loaded(path, mapped=mapped)
    state = _tensors(content)
    if state is None:
        there = f": at its top are {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else ""
        raise ExportError(f"{path}: holds no tensors by name{there}. Save the state_dict alone.")
    return state


def _loaded(path: Path, *, mapped: bool) -> object:
    """Return what torch reads without executing anything."""
    inert: list[str] = []
    while True:
        try:
            with (
                torch.serialization.safe_globals([(_Nothing, name) for name in inert]),
                # By its name, torch would take a file for safetensors; one that it did not name cannot be mapped.
                path.open("rb") if path.suffix == ".safetensors" else nullcontext(path) as source,
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # of other pickle protocols
                mmap = mapped and source is path
                return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            refused = _REFUSED.search(str(error))
            if refused is None:
                raise unreadable(path, _first_line(error)) from error
            name = refused[1]
            if not _WITHOUT_CONTENT.match(name) or name in inert or len(inert) == _MOST_CLASSES:
                raise ExportError(
                    f"{path}: not a readable checkpoint: it holds {name}, and nothing but tensors is loaded. Where you "
                    "trust it, save its state_dict alone, as safetensors."
                ) from error
            inert.append(name)
        except Exception as error:  # torch raises a dozen unrelated types for a bad file
            if "TorchScript" in str(error):
                raise ExportError(f"{path}: a TorchScript program, not weights. Save its state_dict.") from error
            raise unreadable(path, _first_line(error)) from error


def _tensors(content: object) -> dict[str, Tensor] | None:
    """Return the tensors by name in what torch has read: at the top, or in the part that has them."""
    if not isinstance(content, Mapping):
        return None
    for name in _PARTS:
        if isinstance(content.get(name), Mapping):
            return _tensors(content[name])
    if own := _named(content):
        return own
    parts = [named for part in content.values() if isinstance(part, Mapping) and (named := _named(part))]
    return parts[0] if len(parts) == 1 else None


def _named(content: Mapping[object, object]) -> dict[str, Tensor]:
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _first_line(error: BaseException) -> str:
    """Return the first line of an error, without torch's advice to trust a file."""
    text = str(error).replace("Weights only load failed. ", "")
    return (text.strip().splitlines() or [type(error).__name__])[0].removesuffix(".")
