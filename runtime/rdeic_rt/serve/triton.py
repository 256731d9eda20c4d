"""What the models in serving/triton do, on the codec (docs/triton.md).

    serving/triton/rdeic_decode/1/model.py    Triton's requests ─ decode ─▶ a response for each
    serving/triton/rdeic_encode/1/model.py    Triton's requests ─ encode ─▶ a response for each

It needs neither the extra ``serve`` nor Triton: a ``model.py`` hands over ``triton_python_backend_utils``, here called
``backend_utils``, which there is only inside a Triton server.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codec as codecs
from .. import container, pixels
from ..codec import Codec
from ..decode_options import DecodeOptions
from ..errors import (
    BackendError,
    BundleMismatchError,
    CancelledError,
    FileFormatError,
    ImageError,
    RdeicError,
    UnsupportedVersionError,
)
from ..limits import DEFAULT_LIMITS
from ..manifest import rate_from
from .warm_up import warm_up

_Image = NDArray[np.uint8]
_Converters = Mapping[str, Callable[[Any], Any]]

_IMAGE_FORMATS = ("png", "jpeg", "webp")
_OF_TRITON = {"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"}  # parameters that are meant for its backend
_OF_PROTOCOL = {"binary_data_output"}  # some clients send it along

# The first class that an error is of decides; the names are those of TritonError.
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (UnsupportedVersionError, "UNSUPPORTED"),
    (FileFormatError, "INVALID_ARG"),
    (ImageError, "INVALID_ARG"),
    (BundleMismatchError, "INVALID_ARG"),
    (BackendError, "UNAVAILABLE"),
    (CancelledError, "CANCELLED"),
    (RdeicError, "INTERNAL"),
    (ValueError, "INVALID_ARG"),
)

_log = logging.getLogger("rdeic_rt.serve")


def _flag(value: Any) -> bool:
    texts = {"true": True, "1": True, "false": False, "0": False}
    try:
        return texts[str(value).lower()]
    except KeyError:
        raise ValueError(f"{value!r} is neither true nor false") from None


def _image_format(value: Any) -> str:
    if value not in _IMAGE_FORMATS:
        raise ValueError(f"{value!r} is none of {', '.join(_IMAGE_FORMATS)}")
    return str(value)


_LIMIT_PARAMETERS: _Converters = {"max_pixels": int, "max_memory_bytes": int, "max_seconds": float}
MODEL_PARAMETERS: _Converters = {
    "bundle": str,
    "backend": str,
    "precision": str,
    "threads": int,
    **_LIMIT_PARAMETERS,
}
DECODE_PARAMETERS: _Converters = {
    "sharpness": float,
    "seed": int,
    "steps": int,
    "preview": _flag,
    "allow_partial": _flag,
    "format": _image_format,
}
ENCODE_PARAMETERS: _Converters = {
    "rate": rate_from,
    "target_bytes": int,
    "target_bpp": float,
    "fixed_size": _flag,
    "effort": int,
    "strip": _flag,
}


@dataclass(frozen=True)
class _Decoding:
    """What a request to decode asks for.

    Attributes:
        files: .rdc files.
        options: of all of them.
        format: of image files.
        outputs: names of the tensors that are wanted.
    """

    files: list[bytes]
    options: DecodeOptions
    format: str
    outputs: frozenset[str]


def load(args: Mapping[str, str]) -> Codec:
    """Return the codec that a model's parameters describe, once it has decoded something.

    Args:
        args: as Triton gives them to ``initialize``.

    Raises:
        ValueError: there is no such parameter, or its value makes no sense.
        RdeicError: as `rdeic_rt.load`.
    """
    parameters = json.loads(args["model_config"]).get("parameters", {})
    texts = {name: given.get("string_value", "") for name, given in parameters.items() if name not in _OF_TRITON}
    values = _converted({name: text for name, text in texts.items() if text}, MODEL_PARAMETERS)
    limits = {name: values.pop(name) for name in _LIMIT_PARAMETERS if name in values}
    codec = codecs.load(**values, limits=replace(DEFAULT_LIMITS, **limits))
    warm_up(codec)
    return codec


def decode(codec: Codec, requests: Sequence[Any], backend_utils: Any) -> list[Any]:
    """Return an ``InferenceResponse`` for each request to decode files: images, or what is wrong with it.

    The files of all requests are one queue, in which the next is read while one is denoised.
    """
    asked = [_attempt(_decoding, request, backend_utils) for request in requests]
    files = [(data, one.options) for one in asked if isinstance(one, _Decoding) for data in one.files]
    images = iter(_images_in(codec, files))
    responses = []
    for one in asked:
        results = [one] if isinstance(one, Exception) else [*itertools.islice(images, len(one.files))]
        responses.append(_response(results, partial(_decoded_tensors, codec, one, backend_utils), backend_utils))
    return responses


def encode(codec: Codec, requests: Sequence[Any], backend_utils: Any) -> list[Any]:
    """Return an ``InferenceResponse`` for each request to encode images: files, or what is wrong with it."""
    responses = []
    for request in requests:
        work = _attempt(_encodings, codec, request, backend_utils)
        results = [work] if isinstance(work, Exception) else [_attempt(one) for one in work]
        responses.append(_response(results, partial(_encoded_tensors, backend_utils), backend_utils))
    return responses


def _decoding(request: Any, backend_utils: Any) -> _Decoding:
    given = _options_of(request, DECODE_PARAMETERS)
    format_name = given.pop("format", _IMAGE_FORMATS[0])
    files = _files_in(backend_utils.get_input_tensor_by_name(request, "rdc"))
    return _Decoding(files, DecodeOptions(**given), format_name, frozenset(request.requested_output_names()))


def _images_in(codec: Codec, files: Sequence[tuple[bytes, DecodeOptions]]) -> list[_Image | Exception]:
    """Return the image in each file, uint8 [H, W, 3], or what is wrong with it, in order."""
    results: list[_Image | Exception] = []
    for options, alike in itertools.groupby(files, key=itemgetter(1)):
        results += _images_alike(codec, [data for data, _ in alike], options)
    return results


def _images_alike(codec: Codec, files: list[bytes], options: DecodeOptions) -> list[_Image | Exception]:
    results: list[_Image | Exception] = []
    while len(results) < len(files):
        left = files[len(results) :]
        try:
            for _, image in codec.decode_many(left, options, on_error=lambda _, error: results.append(error)):
                results.append(image)
        except Exception as error:  # of the file whose turn it was: it ends the iteration, and not the others
            results.append(error)
    return results


def _decoded_tensors(codec: Codec, asked: _Decoding, backend_utils: Any, images: list[_Image]) -> list[Any]:
    tensors = []
    if "pixels" in asked.outputs:
        tensors.append(backend_utils.Tensor("pixels", _stacked(images)))
    if "image" in asked.outputs:
        written = [_image_file(codec, data, image, asked) for data, image in zip(asked.files, images, strict=True)]
        tensors.append(backend_utils.Tensor("image", _array_of(written)))
    return tensors


def _stacked(images: Sequence[_Image]) -> _Image:
    sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images})
    if len(sizes) > 1:
        raise ValueError(
            f"the images of this request are of several sizes, {', '.join(sizes)}: send each in a request of its own, "
            "or ask for the output 'image' alone"
        )
    return np.stack(images)


def _image_file(codec: Codec, data: bytes, image: _Image, asked: _Decoding) -> bytes:
    """Return an image file, with what the .rdc file has of metadata."""
    kept = container.parse(data, codec.limits, allow_partial=asked.options.allow_partial).metadata
    written = BytesIO()
    pixels.write_image(written, image, pixels.for_upright_image(kept), asked.format)
    return written.getvalue()


def _encodings(codec: Codec, request: Any, backend_utils: Any) -> list[Callable[[], bytes]]:
    """Return what makes the file of each image of a request."""
    given = _options_of(request, ENCODE_PARAMETERS)
    tensors = {name: backend_utils.get_input_tensor_by_name(request, name) for name in ("image", "pixels")}
    if sum(tensor is not None for tensor in tensors.values()) != 1:
        raise ValueError("give one of the inputs 'image' and 'pixels'")
    strip = given.pop("strip", False)
    if tensors["pixels"] is not None:
        return [partial(codec.encode, image, **given) for image in tensors["pixels"].as_numpy()]
    return [partial(_encode_file, codec, data, strip, given) for data in _files_in(tensors["image"])]


def _encode_file(codec: Codec, data: bytes, strip: bool, options: Mapping[str, Any]) -> bytes:
    image, metadata = pixels.read_image(BytesIO(data), codec.limits)
    if strip:
        image, metadata = pixels.stripped(image, metadata)
    return codec.encode(image, metadata=metadata, **options)


def _encoded_tensors(backend_utils: Any, files: list[bytes]) -> list[Any]:
    return [backend_utils.Tensor("rdc", _array_of(files))]


def _options_of(request: Any, known: _Converters) -> dict[str, Any]:
    """Return the options in a request's parameters, which may all be given as text; raise for what is none."""
    if request.is_cancelled():
        raise CancelledError("the client has cancelled the request")
    given = json.loads(request.parameters() or "{}")
    return _converted({name: value for name, value in given.items() if name not in _OF_PROTOCOL}, known)


def _converted(given: Mapping[str, Any], known: _Converters) -> dict[str, Any]:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"there is no parameter {unknown[0]!r}; there are {', '.join(known)}")
    values = {}
    for name, value in given.items():
        try:
            values[name] = known[name](value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"parameter {name}: {error}") from None
    return values


def _files_in(tensor: Any) -> list[bytes]:
    """Return the files in a tensor of type ``TYPE_STRING``."""
    return [bytes(one) for one in tensor.as_numpy().reshape(-1)]


def _array_of(files: Sequence[bytes]) -> NDArray[np.object_]:
    """Return what a tensor of type ``TYPE_STRING`` is made of, [N, 1]."""
    return np.array(files, np.object_).reshape(-1, 1)


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or the error that it raises: one bad request does not stop the others."""
    try:
        return function(*arguments)
    except Exception as error:
        return error


def _response(results: list[Any], tensors_of: Callable[[list[Any]], list[Any]], backend_utils: Any) -> Any:
    """Return the ``InferenceResponse`` to a request: tensors of its results, or the first error among them."""
    for number, result in enumerate(results, 1):
        if isinstance(result, Exception):
            where = f"file {number} of {len(results)}: " if len(results) > 1 else ""
            return _error_response(result, where, backend_utils)
    tensors = _attempt(tensors_of, results)
    if isinstance(tensors, Exception):
        return _error_response(tensors, "", backend_utils)
    return backend_utils.InferenceResponse(output_tensors=tensors)


def _error_response(error: Exception, where: str, backend_utils: Any) -> Any:
    """Return the ``InferenceResponse`` that tells of an error; of one that is a bug, the log has the traceback."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    text = " ".join(str(error).split())
    if code is None:
        _log.error("a request ran into a bug", exc_info=error)
        code, text = "INTERNAL", "a bug in rdeic-rt; the server's log has the traceback"
    message = f"{type(error).__name__}: {where}{text}"
    return backend_utils.InferenceResponse(
        error=backend_utils.TritonError(message, getattr(backend_utils.TritonError, code))
    )
