"""The kernels that TensorRT for RTX compiles for this GPU when a plan first runs, kept beside the plan.

The library itself says whether a kept cache fits it, the GPU and the driver; one that does not is ignored and written
anew. Where the plan's folder cannot be written to, the user's cache folder is used.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from ... import user_cache
from ...errors import BackendError
from ..gpu.cuda import Device
from .plans import Plan

_log = logging.getLogger("rdeic_rt.backends.tensorrt.backend")


class RuntimeCache:
    """The cache of one plan on one GPU, shared by all its contexts.

    Attributes:
        path: the file; its name has the graph, the GPU and the driver.
    """

    def __init__(self, plan: Plan, device: Device) -> None:
        gpu = re.sub(r"\W+", "_", f"{device.name}-{device.driver}")
        self.path = _writable_folder(plan) / f"{plan.path.stem}-{gpu}.kernels"
        self._cache: Any = None
        self._saved_bytes = 0

    def attach(self, config: Any) -> None:
        """Give the cache to a runtime configuration, filled with what is on disk.

        Raises:
            BackendError: the library does not take it.
        """
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            blob = self._read()
            if blob and self._cache.deserialize(blob):
                self._saved_bytes = len(blob)
            elif blob:
                _log.info("%s: made by another version, driver or GPU; it will be written anew", self.path)
        if not config.set_runtime_cache(self._cache):
            raise BackendError(f"set_runtime_cache: TensorRT for RTX does not take its own cache for {self.path.stem}")

    def save(self) -> None:
        """Write what has been compiled since, in one step; a folder that cannot be written to is not worth an error."""
        if self._cache is None:
            return
        blob = bytes(self._cache.serialize())
        if len(blob) == self._saved_bytes:
            return
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(blob)
            temporary.replace(self.path)
        except OSError as error:
            _log.info("%s: not kept (%s)", self.path, error)
        self._saved_bytes = len(blob)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""


def _writable_folder(plan: Plan) -> Path:
    folder = plan.path.parent
    if os.access(folder, os.W_OK):
        return folder
    cache = user_cache.folder("kernels")
    return folder if cache is None else cache / f"{folder.name}-{plan.sha256[:12]}"
