"""Module + signature -> checked ONNX with dynamic batch and size, the same bytes for the same inputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rdeic_rt.errors import ExportError
from rdeic_rt.tensor_spec import TensorSpec

from . import onnx_file
from .modules.signature import Dim, Signature, sample

# 20 is the newest opset in which TensorRT for RTX builds the VAE with dynamic sizes and still fuses its attention.
OPSET = 20
# Smaller initialisers are biases, norms and constants, where half precision saves nothing worth having.
HALF_FROM_ELEMENTS = 1024


def run(module: nn.Module, signature: Signature, path: Path, *, half_weights: bool) -> None:
    """Export the module to ``path``; inputs, outputs and free dimensions are named as in the signature.

    Args:
        module: in evaluation mode; called with the signature's inputs in order, residuals as one list.
        signature: names, dtypes and symbolic shapes.
        path: the file to write.
        half_weights: store large weights as float16 behind a Cast; the arithmetic stays float32.

    Raises:
        ExportError: the exporter or the ONNX checker rejects the graph.
    """
    arguments, dynamic = _arguments(signature)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of deprecations of its own and of shared dimensions
            program = torch.onnx.export(
                module.eval(),
                arguments,
                input_names=[tensor.name for tensor in signature.inputs],
                output_names=[tensor.name for tensor in signature.outputs],
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"graph {signature.name}: torch.onnx.export failed: {error}") from error
    assert program is not None  # dynamo=True always returns a program
    if _stored_bytes(program.model, half_weights) >= onnx_file.EXTERNAL_FROM_BYTES:
        _externalise(program.model, path, half_weights)
    model = program.model_proto
    _strip(model)
    _name_shapes(model, signature)
    if half_weights:
        _halve_weights(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)


def _arguments(signature: Signature) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Return sample arguments and their dynamic shapes."""
    dims = {
        "batch": torch.export.Dim("batch", min=1, max=64),
        "hz": torch.export.Dim("hz", min=1, max=1024),
        "wz": torch.export.Dim("wz", min=1, max=1024),
    }
    generator = torch.Generator().manual_seed(0)

    def dynamic(tensor: TensorSpec) -> dict[int, object]:
        return {axis: _dim(dim, dims) for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)}

    samples = signature.arguments([sample(tensor, generator) for tensor in signature.inputs])
    return samples, signature.arguments([dynamic(tensor) for tensor in signature.inputs])


def _dim(dim: str, dims: Mapping[str, Any]) -> object:
    factor, _, name = dim.rpartition("*")
    return int(factor) * dims[name] if factor else dims[name]


def _strip(model: onnx.ModelProto) -> None:
    """Remove what depends on where and how the graph was made: stack traces, node origins, documentation."""
    model.ClearField("metadata_props")
    model.doc_string = ""
    model.graph.doc_string = ""
    for container in (model.graph.node, model.graph.value_info, model.graph.input, model.graph.output):
        for item in container:
            item.ClearField("metadata_props")
            item.doc_string = ""
    for initialiser in model.graph.initializer:
        initialiser.ClearField("metadata_props")
        initialiser.doc_string = ""
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for function in model.functions:
        function.ClearField("metadata_props")


def _name_shapes(model: onnx.ModelProto, signature: Signature) -> None:
    for values, tensors in ((model.graph.input, signature.inputs), (model.graph.output, signature.outputs)):
        for value, tensor in zip(values, tensors, strict=True):
            if value.name != tensor.name:
                raise ExportError(f"graph {signature.name}: exported {value.name} where {tensor.name} was expected")
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, tensor.shape, strict=True):
                _set_dim(dim, size)


def _set_dim(dim: onnx.TensorShapeProto.Dimension, size: Dim) -> None:
    if isinstance(size, int):
        dim.dim_value = size
    else:
        dim.dim_param = size


def _is_halved(dtype: object, elements: int) -> bool:
    return dtype == np.float32 and elements >= HALF_FROM_ELEMENTS


def _stored_bytes(model: onnx_ir.Model, half_weights: bool) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    return sum(x.nbytes // (2 if half_weights and _is_halved(x.dtype.numpy(), x.size) else 1) for x in tensors)


def _externalise(model: onnx_ir.Model, path: Path, half_weights: bool) -> None:
    """Write large weights to the file beside an ONNX file, in float16 if asked for, and refer to it in their place."""
    with onnx_file.WeightFile(path) as file:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < onnx_file.PAGE_BYTES:
                continue
            array = tensor.numpy()
            if half_weights and _is_halved(array.dtype, array.size):
                array = array.astype(np.float16)
            value.const_value = onnx_ir.ExternalTensor(
                file.path.name,
                file.append(array),
                array.nbytes,
                onnx_ir.DataType.from_numpy(array.dtype),
                shape=onnx_ir.Shape(array.shape),
                name=str(name),
                base_dir=path.parent,
            )


def _halve_weights(model: onnx.ModelProto) -> None:
    """Put every large weight behind a Cast from float16; external ones are float16 already."""
    graph = model.graph
    casts = []
    for initialiser in graph.initializer:
        name = initialiser.name
        if initialiser.data_location == TensorProto.EXTERNAL:
            if initialiser.data_type != TensorProto.FLOAT16:
                continue
            initialiser.name = f"{name}.half"
        elif initialiser.data_type == TensorProto.FLOAT and _is_halved(np.float32, math.prod(initialiser.dims)):
            values = numpy_helper.to_array(initialiser)
            initialiser.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        else:
            continue
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def tensors_of(outputs: Tensor | list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    """Return a module's outputs as a list, whatever it returns."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
