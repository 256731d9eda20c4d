"""A DiffO bundle of a few kilobytes: four graphs with the right names and shapes, and arithmetic numpy can repeat.

analysis      vq_indices = means of the red channel over 16x16 pixels, an eighth of them
synthesis     z_c = 8 vq_indices + 4, hint = vq_indices
unet_step     z_0 = 2 z_n + hint / 4
vae_decoder   image = 16x16 pixels of round(clip(z_0)), in all three channels
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rdeic_rt.entropy.arrays import Arrays, model_id

from .. import micro
from ..entropy import random_model

U8, I64, F32 = TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT
UNIT_PX, INDEX_PX, N_CODES, ABAR = 64, 16, 32, 0.81
IMAGE: list[int | str] = ["batch", "64*hz", "64*wz", 3]
INDICES: list[int | str] = ["batch", "4*hz", "4*wz"]
LATENT: list[int | str] = ["batch", 1, "4*hz", "4*wz"]
TENSORS: micro.Tensors = {
    "analysis": ([("image", U8, IMAGE)], [("vq_indices", I64, INDICES)]),
    "synthesis": ([("vq_indices", I64, INDICES)], [("z_c", F32, LATENT), ("hint", F32, LATENT)]),
    "unet_step": ([("z_n", F32, LATENT), ("hint", F32, LATENT)], [("z_0", F32, LATENT)]),
    "vae_decoder": ([("z_0", F32, LATENT)], [("image", U8, IMAGE)]),
}
SCHEDULE: dict[str, Any] = {
    "sampler": "resshift",
    "timesteps": [1],
    "abar_start": ABAR,
    "a": [0.0],
    "b": [1.0],
    "c": [0.0],
}


def entropy_arrays(*, in_context: bool = False) -> Arrays:
    """Return a prior under which codes get rarer from one to the next, or a random context model."""
    if in_context:
        return random_model.context_arrays(codes=N_CODES)
    masses = np.maximum(2.0 ** (22 - np.arange(N_CODES)), 1).astype(np.int32)
    masses[0] += (1 << 24) - masses.sum()
    return {
        "version": np.array([2], np.int32),
        "index_px": np.array([INDEX_PX], np.int32),
        "prior_masses": masses,
    }


def in_numpy(image: NDArray[np.uint8], noise: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """Return what an image whose sides are multiples of 64 is decoded to; its preview without noise [1, 1, h, w]."""
    height, width, _ = image.shape
    means = image[..., 0].astype(np.float32).reshape(height // 16, 16, width // 16, 16).mean((1, 3))
    indices = np.floor(means / 8)
    z = 8 * indices + 4
    if noise is not None:
        z = 2 * (np.sqrt(ABAR) * z + np.sqrt(1 - ABAR) * noise[0, 0]) + indices / 4
    return np.kron(np.rint(z.clip(0, 255)), np.ones((16, 16)))[..., None].repeat(3, 2).astype(np.uint8)


def graph(role: str) -> onnx.ModelProto:
    """Return the graph of a role as the module docstring gives it."""
    node = helper.make_node

    def ints(name: str, *values: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    def floats(name: str, *values: float, shape: tuple[int, ...] = (-1,)) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.float32).reshape(shape), name)

    one = ints("one", 1)
    nodes, constants = {
        "analysis": (
            [
                node("Cast", ["image"], ["image_f"], to=F32),
                node("Transpose", ["image_f"], ["nchw"], perm=[0, 3, 1, 2]),
                node("Split", ["nchw"], ["red", "green", "blue"], axis=1, num_outputs=3),
                node("AveragePool", ["red"], ["mean"], kernel_shape=[16, 16], strides=[16, 16]),
                node("Squeeze", ["mean", "one"], ["mean_hw"]),
                node("Mul", ["mean_hw", "eighth"], ["index_f"]),
                node("Cast", ["index_f"], ["vq_indices"], to=I64),
            ],
            [one, floats("eighth", 0.125, shape=())],
        ),
        "synthesis": (
            [
                node("Cast", ["vq_indices"], ["index_f"], to=F32),
                node("Unsqueeze", ["index_f", "one"], ["hint"]),
                node("Mul", ["hint", "eight"], ["scaled"]),
                node("Add", ["scaled", "four"], ["z_c"]),
            ],
            [one, floats("eight", 8.0, shape=()), floats("four", 4.0, shape=())],
        ),
        "unet_step": (
            [
                node("Mul", ["z_n", "two"], ["twice"]),
                node("Mul", ["hint", "quarter"], ["some"]),
                node("Add", ["twice", "some"], ["z_0"]),
            ],
            [floats("two", 2.0, shape=()), floats("quarter", 0.25, shape=())],
        ),
        "vae_decoder": (
            [
                node("Clip", ["z_0", "low", "high"], ["clipped"]),
                node("Round", ["clipped"], ["rounded"]),
                node("Resize", ["rounded", "", "scales"], ["grey"], mode="nearest"),
                node("Concat", ["grey", "grey", "grey"], ["rgb"], axis=1),
                node("Transpose", ["rgb"], ["nhwc"], perm=[0, 2, 3, 1]),
                node("Cast", ["nhwc"], ["image"], to=U8),
            ],
            [floats("scales", 1, 1, 16, 16), floats("low", 0, shape=()), floats("high", 255, shape=())],
        ),
    }[role]
    return micro.model(role, TENSORS[role], nodes, constants)


def write(folder: Path, *, in_context: bool = False) -> Path:
    """Write a bundle of one rate into a new folder; return the folder. Its entropy model is `entropy_arrays`."""
    folder.mkdir(parents=True)
    for role in TENSORS:
        onnx.save(graph(role), folder / f"{role}.onnx")
    arrays = entropy_arrays(in_context=in_context)
    np.savez(folder / "entropy.npz", allow_pickle=False, **arrays)
    rate = {
        "index": 0,
        "label": "only",
        "bpp": 0.02,
        "guided": False,
        "schedule": "resshift",
        "model_id": model_id(arrays).hex(),
        "graphs": {role: role for role in TENSORS},
        "entropy": "entropy.npz",
    }
    document = {
        "schema": 2,
        "name": "micro-diffo",
        "family": "diffo",
        "licence": "Apache-2.0",
        "provenance": {"made_by": "tests/runtime/families/micro_diffo.py"},
        "size_multiple_px": UNIT_PX,
        "files": {},
        "graphs": micro.graph_entries(TENSORS),
        "preferred": {},
        "schedules": {"resshift": SCHEDULE},
        "rates": [rate],
        "default_rate": 0,
        "calibration": {},
    }
    micro.write_manifest(folder, document)
    return folder
