"""What a training step does that a CUDA graph cannot record."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class HostCopies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names operations that, on a GPU, would read a value back or copy one from the host: no CUDA graph has these."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "lift_fresh", "nonzero", "_unique2", "bincount", "masked_select"):
            self.found.add(name)
        return func(*args, **(kwargs or {}))


class WatchedLoop:
    """Stands for `training.loop.run`: runs one step.

    Attributes:
        found: what was found, of each stage that ran.
    """

    def __init__(self) -> None:
        self.found: list[set[str]] = []

    def __call__(self, trained: object, batch: Any, loss: Any, *rest: object, after_step: Any, **options: Any) -> None:
        """Take the arguments of `training.loop.run`."""
        crops = batch(0)
        with HostCopies() as copies, torch.autocast("cpu", torch.bfloat16):
            value, parts = loss(crops)
            value.backward()
        after_step(0, 0.0)
        assert all(isinstance(part, Tensor) and not part.requires_grad for part in parts.values())
        self.found.append(copies.found)
