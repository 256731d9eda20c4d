"""A family that shares nothing with RDEIC but the runtime: other grids, other tensors, no control, one step.

encode    codes, tone = means of red over 8x8 pixels and of green over 32x32
look_up   z_c = (codes, tone), both on the grid of codes
refine    z_0 = z_c + 4 noise
paint     image = z_0's channels as red, green and blue, 8x8 pixels a position

Codes are coded as bytes, and tones as bytes too, so that a file is exact. All that it takes to add it is one row of
`rdeic_rt.families.FAMILIES`, and as it has an entropy model of its own, one of `rdeic_rt.entropy.MODELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rdeic_rt import noise
from rdeic_rt.entropy import Decoded, Encoded
from rdeic_rt.entropy.arrays import Arrays, model_id
from rdeic_rt.errors import BitstreamError
from rdeic_rt.families.base import Loader, Role, graph_stage
from rdeic_rt.placement import Placement, Stage, Value
from rdeic_rt.schedule import Schedule

from .. import micro

UNIT_PX = 32
VERSION = 1000
U8, I64, F32 = TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT
IMAGE: list[int | str] = ["batch", "32*hz", "32*wz", 3]
CODES: list[int | str] = ["batch", "4*hz", "4*wz"]
TONE: list[int | str] = ["batch", 1, "hz", "wz"]
LATENT: list[int | str] = ["batch", 2, "4*hz", "4*wz"]
TENSORS: micro.Tensors = {
    "encode": ([("image", U8, IMAGE)], [("codes", I64, CODES), ("tone", F32, TONE)]),
    "look_up": ([("codes", I64, CODES), ("tone", F32, TONE)], [("z_c", F32, LATENT)]),
    "refine": ([("z_c", F32, LATENT), ("noise", F32, LATENT)], [("z_0", F32, LATENT)]),
    "paint": ([("z_0", F32, LATENT)], [("image", U8, IMAGE)]),
}


@dataclass(frozen=True)
class Loaded:
    """Stages in order."""

    stages: tuple[Stage, ...]


class Toy:
    """The family ``toy``."""

    name = "toy"
    roles: Mapping[str, Role] = {
        role: Role(frozenset(t[0] for t in inputs), frozenset(t[0] for t in outputs))
        for role, (inputs, outputs) in TENSORS.items()
    }
    encoding = frozenset({"encode"})
    alike = frozenset({"z_c", "z_0", "noise"})
    has_steps = False
    coded = ("codes", "tone")
    latents: Mapping[str, str] = {"codes": "look_up", "tone": "look_up"}

    def n_parts(self, schedule: Schedule | None, *, preview: bool) -> int:
        return 2 if preview else 3

    def load_encoder(self, load: Loader) -> Loaded:
        return Loaded((graph_stage("encode", load, "encode", self.coded),))

    def load_decoder(self, load: Loader, schedule: Schedule | None) -> Loaded:
        assert schedule is None
        look_up, paint = self.load_preview(load).stages
        return Loaded((look_up, graph_stage("refine", load, "refine", ("z_0",)), paint))

    def load_preview(self, load: Loader) -> Loaded:
        paint = graph_stage("paint", load, "paint", ("image",), finite="z_0")
        return Loaded((graph_stage("look_up", load, "look_up", ("z_c",)), paint))

    def noise(self, decoder: Loaded, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[Any]]:
        return {"noise": noise.gaussian(decoder.stages[-1].inputs["z_0"].resolve(sizes), seed, 0)}

    def guidance(self, sharpness: float) -> dict[str, NDArray[Any]]:
        return {}

    def encode(self, at: Placement, encoder: Loaded, given: Mapping[str, Value]) -> tuple[Value, ...]:
        return at.each(encoder.stages[0], image=given["image"])

    def decode(self, at: Placement, decoder: Loaded, given: Mapping[str, Value]) -> Value:
        look_up, refine, paint = decoder.stages
        (z_c,) = at.each(look_up, codes=given["codes"], tone=given["tone"])
        (z_0,) = at.each(refine, z_c=z_c, noise=given["noise"])
        (image,) = at.each(paint, z_0=z_0)
        return image

    def preview(self, at: Placement, preview: Loaded, given: Mapping[str, Value]) -> Value:
        look_up, paint = preview.stages
        (z_c,) = at.each(look_up, codes=given["codes"], tone=given["tone"])
        (image,) = at.each(paint, z_0=z_c)
        return image


@dataclass(frozen=True)
class Bytes:
    """The entropy model: one byte a value."""

    model_id: bytes

    @staticmethod
    def load(arrays: Arrays, threads: int | None) -> Bytes:
        return Bytes(model_id(arrays))

    @property
    def position_px(self) -> Mapping[str, int]:
        return {"codes": 8, "tone": 32}

    def evaluated_by(self, choose: object) -> Bytes:
        return self

    def fixed_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        return int(sum(np.prod(shape) for shape in shapes.values()))

    def encode(
        self, tensors: Mapping[str, NDArray[Any]], *, bit_worth: float = 0.0, fixed_size: bool = False
    ) -> Encoded:
        codes, tone = (np.rint(tensors[name]).astype(np.uint8) for name in ("codes", "tone"))
        return Encoded(codes.tobytes(), False, tone.tobytes(), {})

    def decode(
        self, z: bytes, z_is_plain: bool, y: bytes, shapes: Mapping[str, tuple[int, ...]], *, missing_bytes: int = 0
    ) -> Decoded:
        if len(z) != np.prod(shapes["codes"]) or len(y) + missing_bytes != np.prod(shapes["tone"]):
            raise BitstreamError("sections of another length")
        codes = np.frombuffer(z, np.uint8).reshape(shapes["codes"]).astype(np.int64)
        tone = np.frombuffer(y + bytes(missing_bytes), np.uint8).reshape(shapes["tone"]).astype(np.float32)
        return Decoded({"codes": codes, "tone": tone}, 1, 1)


def graph(role: str) -> onnx.ModelProto:
    """Return the graph of a role as the module docstring gives it."""
    node = helper.make_node

    def ints(name: str, *values: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    def floats(name: str, *values: float, shape: tuple[int, ...] = (-1,)) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.float32).reshape(shape), name)

    nodes, constants = {
        "encode": (
            [
                node("Cast", ["image"], ["image_f"], to=F32),
                node("Transpose", ["image_f"], ["nchw"], perm=[0, 3, 1, 2]),
                node("Split", ["nchw"], ["red", "green", "blue"], axis=1, num_outputs=3),
                node("AveragePool", ["red"], ["mean"], kernel_shape=[8, 8], strides=[8, 8]),
                node("Squeeze", ["mean", "one"], ["mean_hw"]),
                node("Cast", ["mean_hw"], ["codes"], to=I64),
                node("AveragePool", ["green"], ["tone"], kernel_shape=[32, 32], strides=[32, 32]),
            ],
            [ints("one", 1)],
        ),
        "look_up": (
            [
                node("Cast", ["codes"], ["codes_f"], to=F32),
                node("Unsqueeze", ["codes_f", "one"], ["red"]),
                node("Resize", ["tone", "", "scales"], ["green"], mode="nearest"),
                node("Concat", ["red", "green"], ["z_c"], axis=1),
            ],
            [ints("one", 1), floats("scales", 1, 1, 4, 4)],
        ),
        "refine": (
            [node("Mul", ["noise", "four"], ["some"]), node("Add", ["z_c", "some"], ["z_0"])],
            [floats("four", 4.0, shape=())],
        ),
        "paint": (
            [
                node("Resize", ["z_0", "", "scales"], ["large"], mode="nearest"),
                node("Split", ["large"], ["red", "green"], axis=1, num_outputs=2),
                node("Concat", ["red", "green", "red"], ["rgb"], axis=1),
                node("Transpose", ["rgb"], ["nhwc"], perm=[0, 2, 3, 1]),
                node("Clip", ["nhwc", "low", "high"], ["clipped"]),
                node("Round", ["clipped"], ["rounded"]),
                node("Cast", ["rounded"], ["image"], to=U8),
            ],
            [floats("scales", 1, 1, 8, 8), floats("low", 0, shape=()), floats("high", 255, shape=())],
        ),
    }[role]
    return micro.model(role, TENSORS[role], nodes, constants)


def write(folder: Path) -> Path:
    """Write a bundle of the family into a new folder; return the folder."""
    folder.mkdir(parents=True)
    for role in TENSORS:
        onnx.save(graph(role), folder / f"{role}.onnx")
    version = np.array([VERSION], np.int32)
    np.savez(folder / "entropy.npz", version=version)
    rate = {
        "index": 0,
        "label": "only",
        "bpp": 0.1,
        "guided": False,
        "model_id": model_id({"version": version}).hex(),
        "graphs": {role: role for role in TENSORS},
        "entropy": "entropy.npz",
    }
    document = {
        "schema": 2,
        "name": "toy",
        "family": "toy",
        "licence": "Apache-2.0",
        "provenance": {"made_by": "tests/runtime/families/toy.py"},
        "size_multiple_px": UNIT_PX,
        "files": {},
        "graphs": micro.graph_entries(TENSORS),
        "preferred": {},
        "schedules": {},
        "rates": [rate],
        "default_rate": 0,
        "calibration": {},
    }
    micro.write_manifest(folder, document)
    return folder
