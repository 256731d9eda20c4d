"""The models of serving/triton, driven by a stand-in of Triton: the codec's own files and images, and errors apart."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from rdeic_rt import Codec, DecodeOptions, Metadata, pixels, read_header
from rdeic_rt.serve import triton

from . import backend_utils
from .backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonError

MODELS = Path(__file__).resolve().parents[2] / "serving" / "triton"
NAMES = ("rdeic_decode", "rdeic_encode")


def model(name: str, **parameters: str) -> Any:
    """Return an instance of a model, as Triton makes one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", backend_utils)
        spec = importlib.util.spec_from_file_location(name, MODELS / name / "1" / "model.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    instance = module.TritonPythonModel()
    given = {"bundle": {"string_value": ""}, "backend": {"string_value": "cpu"}}
    given |= {parameter: {"string_value": value} for parameter, value in parameters.items()}
    instance.initialize({"model_config": json.dumps({"parameters": given})})
    return instance


@pytest.fixture(scope="module")
def decoder() -> Any:
    return model("rdeic_decode")


@pytest.fixture(scope="module")
def encoder() -> Any:
    return model("rdeic_encode")


@pytest.fixture(scope="module")
def images(photo: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Two of one size, and one of another."""
    return [photo[:90, :130], photo[100:190, 50:180], photo[:64, :64]]


@pytest.fixture(scope="module")
def files(codec: Codec, images: list[NDArray[np.uint8]]) -> list[bytes]:
    return [codec.encode(image) for image in images]


def strings(name: str, *files: bytes) -> Tensor:
    return Tensor(name, np.array(files, np.object_).reshape(-1, 1))


def to_decode(*files: bytes, outputs: tuple[str, ...] = ("pixels",), **options: Any) -> InferenceRequest:
    return InferenceRequest([strings("rdc", *files)], options, [*outputs])


def tensors(response: InferenceResponse) -> dict[str, NDArray[Any]]:
    assert response.error is None, response.error.message()
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}


def refusal(response: InferenceResponse) -> str:
    assert response.error is not None
    assert not response.output_tensors
    return response.error.message()


def test_decoding_gives_the_images_of_the_codec(codec: Codec, decoder: Any, files: list[bytes]) -> None:
    responses = decoder.execute([to_decode(data) for data in files])

    for data, response in zip(files, responses, strict=True):
        assert np.array_equal(tensors(response)["pixels"], codec.decode(data)[None])


def test_decoding_to_image_files_keeps_pixels_and_metadata(
    codec: Codec, decoder: Any, photo: NDArray[np.uint8]
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = codec.encode(photo[:64, :64], metadata=Metadata(icc=profile))
    png, webp = decoder.execute(
        [to_decode(data, outputs=("image",)), to_decode(data, outputs=("image",), format="webp")]
    )

    with Image.open(BytesIO(tensors(png)["image"][0, 0])) as image:
        assert image.format == "PNG"
        assert image.info["icc_profile"] == profile
        assert np.array_equal(np.asarray(image), codec.decode(data))
    with Image.open(BytesIO(tensors(webp)["image"][0, 0])) as image:
        assert image.format == "WEBP"


def test_a_bad_file_is_one_error_and_the_others_are_answered(codec: Codec, decoder: Any, files: list[bytes]) -> None:
    changed = bytearray(files[1])
    changed[-1] ^= 1
    later = bytearray(files[1])
    later[4] += 1
    bad = [b"no such file", files[0][:-9], bytes(changed), b"", bytes(later)]
    requests = [to_decode(data) for one in bad for data in (one, files[2])]
    requests[1:1] = [to_decode(files[0], steps=999), to_decode(files[0], sharpnes=1)]
    responses = decoder.execute(requests)

    assert len(responses) == len(requests)
    good = [response for response in responses if response.error is None]
    assert len(good) == len(bad)
    assert all(np.array_equal(tensors(response)["pixels"][0], codec.decode(files[2])) for response in good)
    told = [(refusal(response), response.error.code()) for response in responses if response.error]
    assert [text.split(":")[0] for text, _ in told] == [
        "NotRdcError",
        "ValueError",
        "ValueError",
        "TruncatedError",
        "ChecksumError",
        "TruncatedError",
        "UnsupportedVersionError",
    ]
    assert [code for _, code in told] == [TritonError.INVALID_ARG] * 6 + [TritonError.UNSUPPORTED]
    assert "decodes in 1 or 2 or 5 steps" in told[1][0]
    assert "no parameter 'sharpnes'; there are sharpness, " in told[2][0]


def test_options_reach_the_codec(codec: Codec, decoder: Any, files: list[bytes]) -> None:
    options: list[tuple[dict[str, Any], DecodeOptions]] = [
        ({"sharpness": 1.5, "seed": 7}, DecodeOptions(sharpness=1.5, seed=7)),
        ({"sharpness": "1.5", "seed": "18446744073709551615"}, DecodeOptions(sharpness=1.5, seed=2**64 - 1)),
        ({"steps": 5, "binary_data_output": True}, DecodeOptions(steps=5)),
        ({"preview": "true"}, DecodeOptions(preview=True)),
        ({}, DecodeOptions()),
    ]
    responses = decoder.execute([to_decode(files[2], **given) for given, _ in options])
    cut = decoder.execute([to_decode(files[0][:-30], outputs=("image", "pixels"), allow_partial=True)])[0]

    made = [tensors(response)["pixels"][0] for response in responses]
    expected = [codec.decode(files[2], meant) for _, meant in options]
    assert all(map(np.array_equal, made, expected))
    assert len({one.tobytes() for one in made}) == len(options)
    assert np.array_equal(tensors(cut)["pixels"][0], codec.decode(files[0][:-30], DecodeOptions(allow_partial=True)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preview": "maybe"}, "parameter preview: 'maybe' is neither true nor false"),
        ({"steps": "two"}, "parameter steps: invalid literal"),
        ({"format": "gif"}, "parameter format: 'gif' is none of png, jpeg, webp"),
        ({"sharpness": -1}, "sharpness is -1"),
    ],
)
def test_options_that_make_no_sense_are_told(
    decoder: Any, files: list[bytes], options: dict[str, Any], message: str
) -> None:
    assert message in refusal(decoder.execute([to_decode(files[2], **options)])[0])


def test_files_of_one_request_are_one_tensor_if_their_images_are_of_one_size(
    codec: Codec, decoder: Any, files: list[bytes]
) -> None:
    alike, different, as_files, damaged = decoder.execute(
        [
            to_decode(files[0], files[1]),
            to_decode(files[0], files[2]),
            to_decode(files[0], files[2], outputs=("image",)),
            to_decode(files[0], b"no file"),
        ]
    )
    assert np.array_equal(tensors(alike)["pixels"], np.stack([codec.decode(data) for data in files[:2]]))
    assert "of several sizes, 130x90, 64x64" in refusal(different)
    assert [Image.open(BytesIO(data)).size for data in tensors(as_files)["image"][:, 0]] == [(130, 90), (64, 64)]
    assert refusal(damaged).startswith("NotRdcError: file 2 of 2: ")


def test_cancelled_requests_are_not_worked_on(decoder: Any, encoder: Any, files: list[bytes]) -> None:
    for instance in (decoder, encoder):
        (response,) = instance.execute([InferenceRequest([strings("rdc", files[0])], cancelled=True)])
        assert response.error.code() == TritonError.CANCELLED


def test_encoding_gives_the_files_of_the_codec(
    codec: Codec, encoder: Any, images: list[NDArray[np.uint8]], photo_paths: list[Path]
) -> None:
    jpeg = photo_paths[0].read_bytes()
    read, metadata = pixels.read_image(BytesIO(jpeg), codec.limits)
    responses = encoder.execute(
        [
            InferenceRequest([Tensor("pixels", np.stack(images[:2]))]),
            InferenceRequest([Tensor("pixels", images[2][None])], {"rate": "1.5"}),
            InferenceRequest([Tensor("pixels", images[0][None])], {"target_bytes": 300}),
            InferenceRequest([strings("image", jpeg)], {"rate": codec.bundle.rates[-1].label}),
        ]
    )
    made = [[*tensors(response)["rdc"][:, 0]] for response in responses]
    assert made == [
        [codec.encode(image) for image in images[:2]],
        [codec.encode(images[2], 1.5)],
        [codec.encode(images[0], target_bytes=300)],
        [codec.encode(read, codec.bundle.rates[-1].label, metadata=metadata)],
    ]


def test_encoding_keeps_metadata_unless_told_otherwise(encoder: Any, images: list[NDArray[np.uint8]]) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a cat"
    file = BytesIO()
    Image.fromarray(images[2]).save(file, "PNG", exif=exif)
    kept, stripped = encoder.execute(
        [InferenceRequest([strings("image", file.getvalue())], {"strip": strip}) for strip in (False, True)]
    )
    assert b"a cat" in (read_header(tensors(kept)["rdc"][0, 0]).metadata.exif or b"")
    assert read_header(tensors(stripped)["rdc"][0, 0]).metadata == Metadata()


def test_what_cannot_be_encoded_is_one_error_and_the_others_are_answered(
    codec: Codec, encoder: Any, images: list[NDArray[np.uint8]]
) -> None:
    pixels_of_one = Tensor("pixels", images[2][None])
    responses = encoder.execute(
        [
            InferenceRequest([]),
            InferenceRequest([pixels_of_one, strings("image", b"x")]),
            InferenceRequest([strings("image", b"no image")]),
            InferenceRequest([pixels_of_one], {"rate": "best"}),
            InferenceRequest([pixels_of_one], {"target_bytes": 30}),
            InferenceRequest([pixels_of_one]),
        ]
    )
    told = [refusal(response) for response in responses[:-1]]
    assert [text.split(":")[0] for text in told] == [
        "ValueError",
        "ValueError",
        "ImageError",
        "ValueError",
        "ImageError",
    ]
    assert tensors(responses[-1])["rdc"][0, 0] == codec.encode(images[2])


def test_a_bug_is_an_error_without_its_text_and_the_log_has_it(
    decoder: Any, files: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entropy_decoded = Codec._entropy_decoded

    def broken(self: Codec, file: Any, rate: Any) -> Any:
        if file.header.size.width == 130:
            raise RuntimeError("a secret")
        return entropy_decoded(self, file, rate)

    monkeypatch.setattr(Codec, "_entropy_decoded", broken)
    with caplog.at_level(logging.ERROR, "rdeic_rt.serve"):
        failed, good = decoder.execute([to_decode(files[0]), to_decode(files[2])])

    assert refusal(failed).startswith("RuntimeError: a bug in rdeic-rt")
    assert failed.error.code() == TritonError.INTERNAL
    assert "a secret" in caplog.text
    assert tensors(good)["pixels"].shape == (1, 64, 64, 3)


def test_parameters_choose_bundle_and_limits(diffo_codec: Codec, images: list[NDArray[np.uint8]]) -> None:
    folder = str(diffo_codec.bundle.folder)
    small = model("rdeic_decode", bundle=folder, precision="fp32", max_pixels="5000", threads="1")
    responses = small.execute([to_decode(diffo_codec.encode(image)) for image in (images[2], images[0])])

    assert tensors(responses[0])["pixels"].shape == (1, 64, 64, 3)
    assert refusal(responses[1]).startswith("LimitExceededError: ")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"bundel": "tiny-2"}, "no parameter 'bundel'"), ({"max_pixels": "many"}, "parameter max_pixels: ")],
)
def test_parameters_that_make_no_sense_stop_the_model(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model("rdeic_encode", **parameters)


@pytest.mark.parametrize("name", NAMES)
def test_configuration_is_what_triton_reads_and_names_what_the_model_takes(name: str) -> None:
    """tritonclient is not among the packages for development, as it holds protobuf back; .ci/nightly has it."""
    protobuf = pytest.importorskip("google.protobuf.text_format")
    definition = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text = (MODELS / name / "config.pbtxt").read_text(encoding="utf-8")
    config = protobuf.Parse(text, definition.ModelConfig())

    assert config.backend == "python"
    assert config.name in ("", name)
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    assert set(config.parameters) == set(triton.MODEL_PARAMETERS)
    shapes = {
        "rdc": ("TYPE_STRING", [1]),
        "image": ("TYPE_STRING", [1]),
        "pixels": ("TYPE_UINT8", [-1, -1, 3]),
    }
    type_names = definition.DataType
    inputs = {one.name: (type_names.Name(one.data_type), [*one.dims]) for one in config.input}
    outputs = {one.name: (type_names.Name(one.data_type), [*one.dims]) for one in config.output}
    images = {key: shapes[key] for key in ("image", "pixels")}
    files = {"rdc": shapes["rdc"]}
    assert (inputs, outputs) == ((files, images) if name == "rdeic_decode" else (images, files))
    assert all(one.optional == (name == "rdeic_encode") for one in config.input)
    given = {parameter: value.string_value for parameter, value in config.parameters.items()}
    model(name, **(given | {"backend": "cpu"}))


def test_page_has_every_parameter_and_code() -> None:
    page = (MODELS.parents[1] / "docs" / "triton.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    parameters = {*triton.MODEL_PARAMETERS, *triton.DECODE_PARAMETERS, *triton.ENCODE_PARAMETERS}
    assert parameters | {code for _, code in triton._CODES} <= named
