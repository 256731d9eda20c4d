from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from rdeic_eval.perceptual import NETWORKS, FeatureDistance, feature_distance


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> FeatureDistance:
    return FeatureDistance(request.param)


def signed(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 127.5 - 1


def test_distance_is_that_of_the_last_features_before_each_halving(
    network: FeatureDistance, photo: NDArray[np.uint8]
) -> None:
    """Once more, from what goes into the blocks of stride 2 and comes out of the last one."""
    seen: list[Tensor] = []
    blocks = network.network._blocks
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for block in blocks
        if 2 in tuple(block._depthwise_conv.stride)
    ]
    hooks.append(blocks[-1].register_forward_hook(lambda _, inputs, output: seen.append(output)))
    a, b = signed(photo[:96, :130]), signed(photo[100:196, 40:170])
    found = float(network(a, b))
    for hook in hooks:
        hook.remove()

    # The reference is looked at first.
    reference, image = seen[:5], seen[5:]
    assert [x.shape[2] for x in image] == [48, 24, 12, 6, 3]
    distances = [(F.normalize(x) - F.normalize(y)).pow(2).sum(1).mean() for x, y in zip(image, reference, strict=True)]
    assert found == pytest.approx(float(sum(distances)) / 5, rel=1e-5)


def test_distance_grows_with_blur_and_is_zero_for_equal_images(
    network: FeatureDistance, photo: NDArray[np.uint8]
) -> None:
    cut = Image.fromarray(photo[60:188, 100:228])
    blurred = [signed(np.asarray(cut.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0.5, 1, 2, 4)]
    reference = signed(np.asarray(cut))
    distances = [float(network(image, reference)) for image in (reference, *blurred)]

    assert distances[0] == 0
    assert distances == sorted(set(distances))
    assert distances[-1] < 4


def test_distance_sees_the_last_pixel(network: FeatureDistance, photo: NDArray[np.uint8]) -> None:
    changed = photo[:64, :64].copy()
    changed[-1, -1] ^= 0xFF
    assert float(network(signed(changed), signed(photo[:64, :64]))) > 0


def test_distance_has_a_gradient_for_the_image_and_none_for_weights(
    network: FeatureDistance, photo: NDArray[np.uint8]
) -> None:
    image = signed(photo[:64, :64]).requires_grad_()
    network(image, signed(photo[64:128, :64])).backward()

    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS[1:])
def test_compiled_network_finds_the_same_distances(name: str, photo: NDArray[np.uint8]) -> None:
    plain, compiled = FeatureDistance(name), FeatureDistance(name).compiled()
    reference = signed(photo[:97, :130])
    expected = plain.features(reference)
    for image in (signed(photo[20:117, 40:170]), reference.flip(3), (reference * 1.02).clamp(-1, 1)):
        before = image.clone()
        found = feature_distance(compiled.features(image), compiled.features(reference))
        assert float(found) == pytest.approx(float(plain(image, reference)), rel=1e-5, abs=1e-7)
        assert torch.equal(image, before)
    pairs = zip(compiled.features(reference), expected, strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-4


def test_unknown_network_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'b7'; it must be one of lite0, lite1, lite2"):
        FeatureDistance("b7")
