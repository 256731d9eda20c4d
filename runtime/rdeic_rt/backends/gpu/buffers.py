"""DeviceBuffer: an array in GPU memory, which torch, CuPy and others take as it is.

Both ways of handing it over keep the memory alive and make the consumer's stream wait for what was queued before:
``__dlpack__`` (torch.from_dlpack, jax.dlpack.from_dlpack, cupy.from_dlpack) and ``__cuda_array_interface__`` version 3
(cupy.asarray, numba.cuda.as_cuda_array).
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...limits import Size
from .cuda import Stream
from .memory import LEGACY_STREAM, UNKNOWN_STREAM, Block

_CUDA_DEVICE = 2  # kDLCUDA
_DLPACK_KINDS = {"i": 0, "u": 1, "f": 2}  # kDLInt, kDLUInt, kDLFloat


class DeviceBuffer:
    """An array in GPU memory; the memory is freed when the last buffer and the last consumer of it go.

    Attributes:
        block: the memory it lies in.
        offset_bytes: where it begins in that.
        shape: its dimensions.
        dtype: of its elements.
        strides: bytes between neighbours along each dimension.
    """

    __slots__ = ("block", "dtype", "offset_bytes", "shape", "strides")

    def __init__(
        self,
        block: Block,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        offset_bytes: int = 0,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self.block = block
        self.shape = tuple(int(dim) for dim in shape)
        self.dtype = np.dtype(dtype)
        self.offset_bytes = offset_bytes
        self.strides = self._dense() if strides is None else strides

    def __repr__(self) -> str:
        return f"<rdeic_rt.DeviceBuffer {self.dtype} {list(self.shape)} at {self.address:#x}>"

    @property
    def address(self) -> int:
        """Where its first element is."""
        return self.block.address + self.offset_bytes

    @property
    def size_bytes(self) -> int:
        """What its elements take."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stream(self) -> Stream:
        """The stream in whose order it is written and freed."""
        return self.block.memory.stream

    def is_dense(self) -> bool:
        """Return whether its elements lie in C order without gaps."""
        return self.strides == self._dense()

    def items(self) -> tuple[DeviceBuffer, ...]:
        """Return the items along the first axis of a dense buffer, each [1, ...], in the same memory."""
        shape = (1, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        return tuple(
            DeviceBuffer(self.block, shape, self.dtype, offset_bytes=self.offset_bytes + item * size)
            for item in range(self.shape[0])
        )

    def corner(self, size: Size) -> DeviceBuffer:
        """Return the top left [H, W, C] of an image [1, h, w, C], in the same memory."""
        shape = (size.height, size.width, self.shape[3])
        return DeviceBuffer(self.block, shape, self.dtype, offset_bytes=self.offset_bytes, strides=self.strides[1:])

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The CUDA array interface, version 3; a consumer is to wait for ``stream``."""
        self.block.users.add(UNKNOWN_STREAM)
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None if self.is_dense() else self.strides,
            "stream": self.stream.handle or LEGACY_STREAM,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's type and number of the device."""
        return _CUDA_DEVICE, self.block.memory.device.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """Return a DLPack capsule of this memory; the arguments are those of the Python array API.

        Args:
            stream: the consumer's, made to wait; None for the default one, -1 for no waiting.
            max_version: any; the capsule is an unversioned one.
            dl_device: None or this device.
            copy: not True.

        Raises:
            BufferError: a copy, or another device, was asked for.
            ValueError: stream is 0, which DLPack does not define.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("a buffer in GPU memory is handed over as it is; copy it where it is used")
        if stream == 0:
            raise ValueError("stream 0 is ambiguous; use 1 for the default stream, 2 for that of the thread")
        if stream == -1:
            self.block.users.add(UNKNOWN_STREAM)
        else:
            consumer = Stream(LEGACY_STREAM if stream is None else stream)
            with self.block.memory.device.active():
                consumer.wait_for(self.stream.handle)
            self.block.users.add(consumer.handle)
        return _capsule(self)

    def _dense(self) -> tuple[int, ...]:
        return tuple(math.prod(self.shape[axis + 1 :]) * self.dtype.itemsize for axis in range(len(self.shape)))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


# What each capsule points to, with the buffer it keeps alive, until its consumer calls the deleter.
_lent: dict[int, tuple[_DLManagedTensor, Any, DeviceBuffer]] = {}

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_new_capsule.restype = ctypes.py_object
_is_capsule = ctypes.pythonapi.PyCapsule_IsValid
_is_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_pointer_of.restype = ctypes.c_void_p


def _delete(managed: int) -> None:
    _lent.pop(managed, None)


def _destroy(capsule: int) -> None:
    # A consumer renames the capsule that it takes over; one that keeps its name was never used.
    if _is_capsule(capsule, b"dltensor"):
        _delete(_pointer_of(capsule, b"dltensor"))


_callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_delete_pointer, _destroy_pointer = _callback(_delete), _callback(_destroy)


def _capsule(buffer: DeviceBuffer) -> object:
    n_dims = len(buffer.shape)
    dims = (ctypes.c_int64 * (2 * n_dims))(
        *buffer.shape, *(stride // buffer.dtype.itemsize for stride in buffer.strides)
    )
    strides = ctypes.byref(dims, n_dims * ctypes.sizeof(ctypes.c_int64))
    managed = _DLManagedTensor()
    tensor = managed.tensor
    tensor.data, tensor.byte_offset = buffer.address, 0
    tensor.device_type, tensor.device_id = buffer.__dlpack_device__()
    tensor.ndim = n_dims
    tensor.code, tensor.bits, tensor.lanes = _DLPACK_KINDS[buffer.dtype.kind], 8 * buffer.dtype.itemsize, 1
    tensor.shape = ctypes.cast(dims, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
    managed.deleter = ctypes.cast(_delete_pointer, ctypes.c_void_p)
    address = ctypes.addressof(managed)
    _lent[address] = (managed, dims, buffer)
    return _new_capsule(address, b"dltensor", ctypes.cast(_destroy_pointer, ctypes.c_void_p))
