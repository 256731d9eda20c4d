"""Integer networks against the float ones they are made of: nearly the same numbers, nearly the same rate."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rdeic_export.entropy import integer
from rdeic_export.entropy.integer import Sample
from rdeic_export.entropy.integer_layers import GELU, LEAKY, Signal, activated, fit, level_grid, requantised
from rdeic_export.modules.compression import EntropyNetworks, ResBlock, anchor_mask
from rdeic_rt.entropy.arrays import ArrayReader
from rdeic_rt.entropy.hyperprior import Hyperprior
from rdeic_rt.entropy.layers import Layer, matmul_of_onnxruntime
from rdeic_rt.errors import ExportError
from tests.export import reference
from tests.micro import make_micro


@torch.no_grad()
def drawn(codec: EntropyNetworks, size: tuple[int, int], seed: int) -> Sample:
    """Return random indices and a y that has just the distribution the float networks predict."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, codec.config.codebook_size, (1, *size), generator=generator)
    hyper = codec.hyper_dec(codec.quantize.lookup(indices))
    noise = torch.randn(1, codec.config.latent_channels, *hyper.shape[2:], generator=generator)
    y, mask, start = torch.zeros_like(noise), anchor_mask(noise), 0
    for i, width in enumerate(codec.config.slices):
        own = slice(start, start + width)
        for is_pass in (mask, ~mask):
            # What is not drawn yet does not matter to the prediction of this pass.
            prediction = list(codec.predict(y, hyper))[i]
            value = prediction.means + prediction.scales.clamp(min=0.11) * noise[:, own]
            y[:, own] = torch.where(is_pass, value, y[:, own])
        start += width
    return y, indices


@pytest.fixture(scope="module")
def codec() -> EntropyNetworks:
    return make_micro.model().codec


@pytest.fixture(scope="module")
def arrays(codec: EntropyNetworks) -> dict[str, NDArray[np.generic]]:
    return integer.convert(codec, [drawn(codec, (4, 6), seed) for seed in range(3)])


@pytest.fixture(scope="module")
def model(arrays: dict[str, NDArray[np.generic]]) -> Hyperprior:
    return Hyperprior.load(arrays)


def signal_to_noise_db(value: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(10 * np.log10(expected.var() / ((value - expected) ** 2).mean()))


def test_convert_costs_at_most_a_percent_on_other_samples(codec: EntropyNetworks, model: Hyperprior) -> None:
    report = integer.rate_overhead(codec, model, [drawn(codec, (4, 6), seed) for seed in (10, 11)])
    assert abs(report["overhead"]) < 0.01
    assert report["mse_actual"] < 1.05 * report["mse_float"]
    assert report["bits_actual"] == report["y_bits_actual"] + report["z_bits_actual"]
    assert report["z_bits_actual"] <= report["z_bits_plain"] == 2 * 24 * 5


def test_convert_released_layout_costs_at_most_a_percent() -> None:
    if not reference.SMALL.is_dir():
        pytest.skip("no golden data; RDEIC_RT_REFERENCE names them")
    codec = reference.small_model().codec
    samples = [(g["y"], g["vq_indices"]) for g in map(reference.golden, ("codec_A", "codec_B"))]
    model = Hyperprior.load(integer.convert(codec, samples, skip_below=0))
    report = integer.rate_overhead(codec, model, samples)
    assert abs(report["overhead"]) < 0.01
    assert report["mse_actual"] < 1.01 * report["mse_float"]


def test_convert_decodes_to_what_was_encoded(codec: EntropyNetworks, model: Hyperprior) -> None:
    coded = integer.encode(model, drawn(codec, (2, 3), 5))
    y_hat = coded.tensors["y_hat"]
    decoded = model.decode(coded.z, coded.z_is_plain, coded.y, {"y_hat": y_hat.shape})
    assert np.array_equal(decoded.tensors["y_hat"], y_hat)


def test_convert_twice_gives_the_same_arrays(
    codec: EntropyNetworks, arrays: dict[str, NDArray[np.generic]], model: Hyperprior
) -> None:
    again = integer.convert(codec, [drawn(codec, (4, 6), seed) for seed in range(3)])
    assert list(again) == list(arrays) == sorted(arrays)
    assert Hyperprior.load(again).model_id == model.model_id


def test_hyper_network_is_close_to_the_float_one(codec: EntropyNetworks, model: Hyperprior) -> None:
    _, indices = drawn(codec, (4, 6), 20)
    expected = codec.hyper_dec(codec.quantize.lookup(indices))[0].permute(1, 2, 0).double().numpy()
    levels = model.hyper(model.matmul, indices[0].numpy().astype(np.int32)).astype(np.float64)
    # A level stands for (level - zero) * step: the best such line shows how far the two are apart.
    for channel in range(expected.shape[-1]):
        slope, offset = np.polyfit(levels[..., channel].ravel(), expected[..., channel].ravel(), 1)
        assert slope > 0
        assert signal_to_noise_db(slope * levels[..., channel] + offset, expected[..., channel]) > 50


@pytest.mark.parametrize(("fine", "least_db"), [(True, 55), (False, 33)])
@pytest.mark.parametrize("kernel", [1, 5])
@pytest.mark.parametrize("activation", [GELU, LEAKY, None])
def test_layer_is_close_to_the_float_one(fine: bool, least_db: float, kernel: int, activation: object) -> None:
    rng = np.random.default_rng(0)
    # Channels of different size and centre, as networks have them.
    scale, centre = 2.0 ** rng.uniform(-4, 4, 6), rng.normal(0, 1, 6)
    x = [(scale * (rng.standard_normal((20, 16, 6)) + centre)).astype(np.float32) for _ in range(2)]
    weight = torch.from_numpy(rng.normal(0, 1 / (6 * kernel) / scale[:, None, None], (9, 6, kernel, kernel))).float()
    bias = torch.from_numpy(rng.normal(0, 1, 9)).float()
    target = [
        torch.nn.functional.conv2d(torch.from_numpy(v).permute(2, 0, 1)[None], weight, bias, padding=kernel // 2)[0]
        .permute(1, 2, 0)
        .numpy()
        for v in x
    ]
    grid = level_grid(x, padded=True, fine=fine)
    signal = Signal([grid.levels(v) for v in x], grid)
    fitted = fit([weight], [signal], target, fine=fine)
    if activation is None:
        out_grid = level_grid(target, padded=False, fine=fine)
        arrays = requantised("x", fitted, out_grid.step, out_grid.zero)
    else:
        arrays, out_grid = activated("x", fitted, activation)  # type: ignore[arg-type]
        target = [activation(v) for v in target]  # type: ignore[operator]
    layer = Layer.read(ArrayReader(arrays), "x", [6], 9, lut=activation is not None)
    out = [out_grid.real(layer.levels(matmul_of_onnxruntime(1), v)) for v in signal.values]
    assert signal_to_noise_db(np.stack(out).astype(np.float64), np.stack(target).astype(np.float64)) > least_db


def test_gaussian_bits_equal_the_table_of_the_normal_distribution() -> None:
    # P(|X| < 0.5) = 0.38292, P(0.5 < X < 1.5) = 0.24173 for a standard normal X.
    symbols, scales = torch.tensor([0.0, 1.0, -1.0]), torch.ones(3)
    assert integer.gaussian_bits(symbols, scales) == pytest.approx(-np.log2(0.382925 * 0.241730**2), abs=1e-4)
    assert integer.gaussian_bits(torch.zeros(1), torch.tensor([-3.0])) == pytest.approx(0, abs=1e-4)
    assert integer.gaussian_bits(torch.tensor([9.0]), torch.tensor([0.1])) == pytest.approx(-np.log2(1e-9))


def matmul_graph() -> bytes:
    """Return what ``rdeic_rt/entropy/matmul_u8s8.onnx`` is a copy of: uint8 [m,k] x int8 [k,n] -> int32 [m,n]."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["product"])],
        "matmul_u8s8",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, ["m", "k"]),
            helper.make_tensor_value_info("b", TensorProto.INT8, ["k", "n"]),
        ],
        [helper.make_tensor_value_info("product", TensorProto.INT32, ["m", "n"])],
    )
    model = helper.make_model(
        graph, producer_name="rdeic-rt", opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def test_shipped_matmul_graph_is_this_one() -> None:
    shipped = resources.files("rdeic_rt.entropy").joinpath("matmul_u8s8.onnx").read_bytes()
    assert shipped == matmul_graph(), "write matmul_graph() to rdeic_rt/entropy/matmul_u8s8.onnx"


def test_convert_without_samples_or_with_unfit_ones_raises(codec: EntropyNetworks) -> None:
    with pytest.raises(ExportError, match="no samples"):
        integer.convert(codec, [])
    y, indices = drawn(codec, (1, 1), 0)
    with pytest.raises(ExportError, match=r"\[1, 16, 4, 4\]"):
        integer.convert(codec, [(y[..., :-1], indices)])


def test_convert_skip_without_convolution_raises(codec: EntropyNetworks) -> None:
    sample = drawn(codec, (1, 1), 0)
    last = codec.hyper_dec[3]
    assert isinstance(last, ResBlock)
    adaptor, last.adaptor = last.adaptor, torch.nn.Identity()
    try:
        with pytest.raises((ExportError, RuntimeError)):
            integer.convert(codec, [sample])
    finally:
        last.adaptor = adaptor


def test_signal_to_noise_last_element_differs_drops() -> None:
    expected = np.random.default_rng(0).standard_normal((4, 4, 4))
    value = expected.copy()
    value[-1, -1, -1] += 1
    assert signal_to_noise_db(value, expected) < 20
