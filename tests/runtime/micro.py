"""A bundle of a few hundred bytes: five graphs with the right names and shapes, and arithmetic that numpy can repeat.

synthesis     z_c, hint = the first C and K channels of y_hat, twice as large in each direction
control       residual_0 = z_n + hint * step[0, 0]
unet_step     eps = z_n * step[0, 0] + residual_0;  z_prev = a z_n + b eps + c noise
vae_decoder   image = 8x8 blocks of round(clip(z_0[first 3 channels]))
analysis      y, vq_indices = means of the red channel over 16x16 and 64x64 blocks
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

U8, I64, F32 = TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT
_DTYPE: dict[int, str] = {U8: "uint8", I64: "int64", F32: "float32"}
IMAGE: list[int | str] = ["batch", "64*hz", "64*wz", 3]
LATENT: list[int | str] = ["batch", 4, "8*hz", "8*wz"]
Y: list[int | str] = ["batch", 4, "4*hz", "4*wz"]
Tensor = tuple[str, int, list[int | str]]
"""Name, type and shape."""
Tensors = dict[str, tuple[list[Tensor], list[Tensor]]]
"""Role -> inputs, outputs."""
TENSORS: Tensors = {
    "analysis": (
        [("image", U8, IMAGE)],
        [("y", F32, Y), ("vq_indices", I64, ["batch", "hz", "wz"])],
    ),
    "synthesis": ([("y_hat", F32, Y)], [("z_c", F32, LATENT), ("hint", F32, LATENT)]),
    "control": (
        [("z_n", F32, LATENT), ("hint", F32, LATENT), ("step", F32, [1, 2])],
        [("residual_0", F32, LATENT)],
    ),
    "unet_step": (
        [
            ("z_n", F32, LATENT),
            ("step", F32, [1, 3]),
            ("coefficients", F32, [3]),
            ("noise", F32, LATENT),
            ("residual_0", F32, LATENT),
        ],
        [("z_prev", F32, LATENT)],
    ),
    "vae_decoder": ([("z_0", F32, LATENT)], [("image", U8, IMAGE)]),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "ddpm-2": {
        "sampler": "ddpm",
        "timesteps": [299, 0],
        "abar_start": 0.5,
        "a": [0.9, 1.1],
        "b": [-0.3, -0.2],
        "c": [0.25, 0.0],
    },
    "ddpm-1": {"sampler": "ddpm", "timesteps": [299], "abar_start": 0.5, "a": [1.0], "b": [-0.5], "c": [0.0]},
    "ddim-3": {
        "sampler": "ddim",
        "timesteps": [299, 150, 0],
        "abar_start": 0.5,
        "a": [1.0, 1.0, 1.0],
        "b": [0.1, 0.1, 0.1],
        "c": [0.0, 0.0, 0.0],
    },
}


def _constant(name: str, values: list[int] | list[float] | float, dtype: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def graph(role: str) -> onnx.ModelProto:
    """Return the graph of a role as the module docstring gives it."""
    node = helper.make_node
    constants = [_constant("i0", 0, np.int64), _constant("row", [0], np.int64), _constant("axis1", [1], np.int64)]
    if role == "analysis":
        nodes = [
            node("Slice", ["image", "row", "one", "axis3"], ["red"]),
            node("Cast", ["red"], ["red_f"], to=F32),
            node("Transpose", ["red_f"], ["red_nchw"], perm=[0, 3, 1, 2]),
            node("AveragePool", ["red_nchw"], ["mean16"], kernel_shape=[16, 16], strides=[16, 16]),
            node("Concat", ["mean16"] * 4, ["y"], axis=1),
            node("AveragePool", ["red_nchw"], ["mean64"], kernel_shape=[64, 64], strides=[64, 64]),
            node("Squeeze", ["mean64", "axis1"], ["mean64_hw"]),
            node("Cast", ["mean64_hw"], ["vq_indices"], to=I64),
        ]
        constants += [_constant("one", [1], np.int64), _constant("axis3", [3], np.int64)]
    elif role == "synthesis":
        nodes = [
            node("Resize", ["y_hat", "", "scales"], ["z_c"], mode="nearest"),
            node("Identity", ["z_c"], ["hint"]),
        ]
        constants += [_constant("scales", [1.0, 1.0, 2.0, 2.0], np.float32)]
    elif role == "control":
        nodes = [
            node("Gather", ["step", "i0"], ["step_1d"], axis=0),
            node("Gather", ["step_1d", "i0"], ["step_0"], axis=0),
            node("Mul", ["hint", "step_0"], ["scaled"]),
            node("Add", ["z_n", "scaled"], ["residual_0"]),
        ]
    elif role == "unet_step":
        nodes = [
            node("Gather", ["step", "i0"], ["step_1d"], axis=0),
            node("Gather", ["step_1d", "i0"], ["step_0"], axis=0),
            node("Mul", ["z_n", "step_0"], ["own"]),
            node("Add", ["own", "residual_0"], ["eps"]),
            node("Split", ["coefficients"], ["a", "b", "c"], axis=0, num_outputs=3),
            node("Mul", ["z_n", "a"], ["a_z"]),
            node("Mul", ["eps", "b"], ["b_eps"]),
            node("Mul", ["noise", "c"], ["c_noise"]),
            node("Add", ["a_z", "b_eps"], ["drift"]),
            node("Add", ["drift", "c_noise"], ["z_prev"]),
        ]
    else:
        nodes = [
            node("Slice", ["z_0", "row", "three", "axis1"], ["rgb"]),
            node("Resize", ["rgb", "", "scales"], ["large"], mode="nearest"),
            node("Transpose", ["large"], ["nhwc"], perm=[0, 2, 3, 1]),
            node("Clip", ["nhwc", "low", "high"], ["clipped"]),
            node("Round", ["clipped"], ["rounded"]),
            node("Cast", ["rounded"], ["image"], to=U8),
        ]
        constants += [_constant("three", [3], np.int64), _constant("scales", [1.0, 1.0, 8.0, 8.0], np.float32)]
        constants += [_constant("low", 0.0, np.float32), _constant("high", 255.0, np.float32)]
    return model(role, TENSORS[role], nodes, constants)


def model(
    name: str,
    tensors: tuple[list[Tensor], list[Tensor]],
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    """Return a checked graph of these nodes, with those of the constants that they read."""
    used = {name for n in nodes for name in n.input}
    inputs, outputs = ([helper.make_tensor_value_info(*t) for t in side] for side in tensors)
    body = helper.make_graph(nodes, name, inputs, outputs, [c for c in constants if c.name in used])
    made = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def write(folder: Path) -> Path:
    """Write the bundle into a new folder, with one rate and an entropy file that nothing reads; return the folder."""
    folder.mkdir(parents=True)
    for role in TENSORS:
        onnx.save(graph(role), folder / f"{role}.onnx")
    tables = {}
    for name, schedule in SCHEDULES.items():
        n_steps = len(schedule["timesteps"])
        tables[name] = f"steps/{name}.npz"
        (folder / "steps").mkdir(exist_ok=True)
        rows = np.linspace(0.5, 1.5, 3 * n_steps, dtype=np.float32).reshape(n_steps, 3)
        np.savez(folder / tables[name], control=rows[:, :2], unet_step=rows)
    np.savez(folder / "entropy.npz", nothing=np.zeros(1, np.int32))
    document = {
        "schema": 2,
        "name": "micro",
        "family": "rdeic",
        "licence": "Apache-2.0",
        "provenance": {"made_by": "tests/runtime/micro.py"},
        "size_multiple_px": 64,
        "files": {},
        "graphs": graph_entries(TENSORS),
        "preferred": {"cpu": ["int8-cpu", "fp32"], "tensorrt": ["fp16", "int8", "fp32"]},
        "schedules": SCHEDULES,
        "rates": [
            {
                "index": 0,
                "label": "only",
                "lambda_r": 1.0,
                "bpp": 0.1,
                "schedule": "ddpm-2",
                "model_id": "00c0ffee",
                "graphs": {role: role for role in TENSORS},
                "step_tables": tables,
                "entropy": "entropy.npz",
            }
        ],
        "default_rate": 0,
        "calibration": {},
    }
    write_manifest(folder, document)
    return folder


def write_manifest(folder: Path, document: dict[str, Any]) -> None:
    """Write bundle.json with the length and hash of every other file in the folder."""
    names = sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != "bundle.json"
    )
    document["files"] = {name: entry(folder / name) for name in names}
    (folder / "bundle.json").write_text(json.dumps(document), encoding="utf-8")


def entry(path: Path) -> dict[str, str | int]:
    """Return what bundle.json says of a file."""
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def graph_entries(tensors: Tensors) -> dict[str, Any]:
    """Return what bundle.json says of graphs in float32, each in a file of its role's name."""
    return {
        role: {"inputs": _specs(inputs), "outputs": _specs(outputs), "forms": {"fp32": f"{role}.onnx"}}
        for role, (inputs, outputs) in tensors.items()
    }


def _specs(tensors: list[Tensor]) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": _DTYPE[dtype], "shape": shape} for name, dtype, shape in tensors]
