"""Kernels of our own: loaded on a device, and launched with one structure as their argument."""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Sequence
from typing import Any

from ...errors import BackendError
from . import nvrtc
from .cuda import Device, Stream, driver_call, settle

_log = logging.getLogger("rdeic_rt.backends.gpu.kernels")


class Kernels:
    """The kernels of one source on one device."""

    def __init__(self, name: str, source: bytes, names: Sequence[str], device: Device, stream: Stream) -> None:
        """Compile and load them; the device is active.

        Args:
            name, source: as of `nvrtc.compiled`.
            names: of the kernels.
            device: where they run.
            stream: where all of them are launched.

        Raises:
            BackendError: as of `nvrtc.compiled`, or the driver does not take what was compiled.
        """
        module = driver_call("cuModuleLoadData", nvrtc.compiled(name, source, device.capability))
        weakref.finalize(self, _unload, module, stream, device).atexit = False
        self._functions = {each: driver_call("cuModuleGetFunction", module, each.encode()) for each in names}
        self._stream = stream

    def launch(self, name: str, arguments: ctypes.Structure, grid: tuple[int, int], block: tuple[int, int]) -> None:
        """Queue a kernel; the device is active.

        Args:
            name: of the kernel.
            arguments: its only argument, which is copied before the call returns.
            grid: blocks along x and y.
            block: threads of each along x and y.

        Raises:
            BackendError: the driver does not take it, or an earlier kernel has failed.
        """
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        function, stream = self._functions[name], self._stream.handle
        driver_call("cuLaunchKernel", function, *grid, 1, *block, 1, 0, stream, ctypes.addressof(pointers), 0)


def _unload(module: Any, stream: Stream, device: Device) -> None:
    try:
        with device.active():
            settle(stream)
            driver_call("cuModuleUnload", module)
    except BackendError as error:  # nobody is there to hear it
        _log.warning("not released: %s", str(error))
