"""Encoding and decoding of whole latents: exact, everywhere, and with an error for everything else."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from rdeic_rt.entropy import Encoded
from rdeic_rt.entropy.hyperprior import Hyperprior
from rdeic_rt.entropy.layers import matmul_of_onnxruntime
from rdeic_rt.errors import BitstreamError

from . import random_model, specification

SIZE = (3, 4)


@pytest.fixture(scope="module")
def model() -> Hyperprior:
    return random_model.model()


@pytest.fixture(scope="module")
def coded(model: Hyperprior) -> Encoded:
    return random_model.encode(model, *random_model.latents(1, *SIZE))


def decoded(model: Hyperprior, coded: Encoded, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    return random_model.y_hat_of(model, coded.z, coded.z_is_plain, coded.y, size)


def assert_identical(value: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert value.dtype == expected.dtype == np.float32
    assert value.shape == expected.shape
    assert value.tobytes() == expected.tobytes()


def test_assert_identical_last_element_differs_fails() -> None:
    a = np.zeros((1, 2, 3, 4), np.float32)
    b = a.copy()
    b[..., -1, -1] = -0.0
    with pytest.raises(AssertionError):
        assert_identical(a, b)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1), SIZE])
@pytest.mark.parametrize("seed", [0, 1])
def test_decode_returns_what_the_encoder_had(size: tuple[int, int], seed: int) -> None:
    model = random_model.model(seed)
    y, indices = random_model.latents(seed, *size)
    coded = random_model.encode(model, y, indices)
    assert coded.tensors["y_hat"].shape == (1, *y.shape)
    assert_identical(decoded(model, coded, size), coded.tensors["y_hat"])


def test_decode_with_the_specification_gives_the_same(coded: Encoded) -> None:
    arrays = random_model.arrays()
    slow = specification.decode(arrays, coded.z, coded.z_is_plain, coded.y, *SIZE)
    assert_identical(slow[None], coded.tensors["y_hat"])


def test_y_hat_is_within_half_of_y_but_where_not_coded() -> None:
    model = random_model.model(skip_below=0)
    y, indices = random_model.latents(1, *SIZE)
    error = np.abs(random_model.encode(model, y, indices).tensors["y_hat"][0] - y)
    assert error.max() <= 0.5 + 2 / 256


def test_bits_that_are_worth_something_make_files_smaller_by_symbols_nearer_to_zero(model: Hyperprior) -> None:
    y, indices = random_model.latents(1, *SIZE)
    files = [random_model.encode(model, y, indices, bit_worth=worth) for worth in (0.0, 0.05, 0.2)]
    for coded in files:
        assert_identical(decoded(model, coded), coded.tensors["y_hat"])
    sizes = [len(coded.y) for coded in files]
    errors = [float(np.square(coded.tensors["y_hat"][0] - y).mean()) for coded in files]
    assert sizes[0] > sizes[1] > sizes[2]
    assert errors[0] < errors[1] < errors[2] < errors[0] + 0.2


@pytest.mark.parametrize(("encode_threads", "decode_threads"), [(1, 2), (2, 1), (None, 3)])
def test_decode_with_other_threads_gives_the_same(encode_threads: int | None, decode_threads: int) -> None:
    y, indices = random_model.latents(2, *SIZE)
    coded = random_model.encode(random_model.model(threads=encode_threads), y, indices)
    assert_identical(decoded(random_model.model(threads=decode_threads), coded), coded.tensors["y_hat"])


@pytest.mark.parametrize(
    "optimisation", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]
)
def test_decode_with_graph_optimisation_gives_the_same(model: Hyperprior, coded: Encoded, optimisation: str) -> None:
    other = dataclasses.replace(model, matmul=matmul_of_onnxruntime(2, optimisation))
    assert_identical(decoded(other, coded), coded.tensors["y_hat"])


def test_decode_with_numpy_products_gives_the_same(model: Hyperprior, coded: Encoded) -> None:
    other = dataclasses.replace(model, matmul=lambda a, b: a.astype(np.int32) @ b.astype(np.int32))
    assert_identical(decoded(other, coded), coded.tensors["y_hat"])


def test_decode_in_a_process_that_never_encoded_gives_the_same(coded: Encoded) -> None:
    script = """
import hashlib, sys
from tests.runtime.entropy import random_model
z, y = (bytes.fromhex(word) for word in sys.argv[1:3])
y_hat = random_model.y_hat_of(random_model.model(threads=2), z, sys.argv[3] == "True", y, (3, 4))
print(hashlib.sha256(y_hat.tobytes()).hexdigest())
"""
    command = [sys.executable, "-c", script, coded.z.hex(), coded.y.hex(), str(coded.z_is_plain)]
    root = __file__.rsplit("tests", 1)[0]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == hashlib.sha256(coded.tensors["y_hat"].tobytes()).hexdigest()


def test_one_model_in_eight_threads_decodes_every_stream(model: Hyperprior) -> None:
    inputs = [random_model.latents(seed, 2, 2) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        streams = list(pool.map(lambda latents: random_model.encode(model, *latents), inputs))
        results = list(pool.map(lambda coded: decoded(model, coded, (2, 2)), streams))
    for (y, indices), coded, result in zip(inputs, streams, results, strict=True):
        assert_identical(result, coded.tensors["y_hat"])
        assert_identical(random_model.encode(model, y, indices).tensors["y_hat"], result)


def test_encode_twice_gives_the_same_bytes(model: Hyperprior, coded: Encoded) -> None:
    again = random_model.encode(model, *random_model.latents(1, *SIZE))
    assert (again.z, again.z_is_plain, again.y) == (coded.z, coded.z_is_plain, coded.y)


def test_skipped_symbols_are_zero_and_cost_nothing() -> None:
    y, indices = random_model.latents(3, *SIZE)
    lengths = []
    for skip_below in (0, 4, 12, 63):
        model = random_model.model(skip_below=skip_below)
        coded = random_model.encode(model, y, indices)
        assert_identical(decoded(model, coded), coded.tensors["y_hat"])
        lengths.append(len(coded.y))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 0
    # With nothing coded, y_hat is the means, whatever y is.
    assert_identical(random_model.encode(model, -y, indices).tensors["y_hat"], coded.tensors["y_hat"])


def test_likely_indices_take_the_prior_and_unlikely_ones_are_plain(model: Hyperprior) -> None:
    y = np.zeros((16, 12, 16), np.float32)
    likely = random_model.encode(model, y, np.zeros(SIZE, np.int32))
    unlikely = random_model.encode(model, y, np.full(SIZE, random_model.CODES - 1, np.int32))
    assert not likely.z_is_plain and len(likely.z) < 12 * 6 // 8
    assert unlikely.z_is_plain and len(unlikely.z) == 12 * 6 // 8
    for coded in (likely, unlikely):
        assert_identical(decoded(model, coded), coded.tensors["y_hat"])


def test_flat_prior_is_plain_when_equally_long() -> None:
    coded = random_model.encode(random_model.model(flat_prior=True), *random_model.latents(0, 1, 1))
    assert coded.z_is_plain and len(coded.z) == 1


def test_values_beyond_the_limit_are_clipped() -> None:
    model = random_model.model(skip_below=0)
    y, indices = random_model.latents(0, *SIZE)
    y[0, 0, 0], y[-1, -1, -1] = 1e30, -1e30
    coded = random_model.encode(model, y, indices)
    assert_identical(decoded(model, coded), coded.tensors["y_hat"])
    assert coded.tensors["y_hat"][0, 0, 0, 0] == pytest.approx(32767, abs=1)
    assert coded.tensors["y_hat"][0, -1, -1, -1] == pytest.approx(-32767, abs=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_encode_not_finite_raises(model: Hyperprior, value: float) -> None:
    y, indices = random_model.latents(0, *SIZE)
    y[-1, -1, -1] = value
    with pytest.raises(ValueError, match="finite"):
        random_model.encode(model, y, indices)


def test_encode_unfit_shape_or_index_raises(model: Hyperprior) -> None:
    y, indices = random_model.latents(0, *SIZE)
    with pytest.raises(ValueError, match="shape"):
        random_model.encode(model, y[:, :-1], indices)
    with pytest.raises(ValueError, match="shape"):
        random_model.encode(model, y[None], indices)
    for index in (-1, random_model.CODES):
        with pytest.raises(ValueError, match="VQ indices"):
            random_model.encode(model, y, np.full(SIZE, index))


def test_decode_truncated_raises_or_differs(model: Hyperprior, coded: Encoded) -> None:
    shorter = [(coded.z[:n], coded.y) for n in range(len(coded.z))]
    shorter += [(coded.z, coded.y[:n]) for n in range(0, len(coded.y), 97)]
    for z, y in shorter:
        try:
            other = random_model.y_hat_of(model, z, coded.z_is_plain, y, SIZE)
            assert other.tobytes() != coded.tensors["y_hat"].tobytes()
        except BitstreamError:
            continue


def test_decode_cut_keeps_what_the_specification_keeps(model: Hyperprior, coded: Encoded) -> None:
    arrays = random_model.arrays()
    slices = arrays["slices"].tolist()
    completes = []
    for n in range(0, len(coded.y), len(coded.y) // 5):
        missing = len(coded.y) - n
        cut = random_model.decode(model, coded.z, coded.z_is_plain, coded.y[:n], SIZE, missing_bytes=missing)
        slow = specification.decode(arrays, coded.z, coded.z_is_plain, coded.y[:n], *SIZE, missing=missing)
        assert_identical(cut.tensors["y_hat"], slow[None])
        whole = sum(slices[: cut.complete_slices])
        assert_identical(cut.tensors["y_hat"][:, :whole], coded.tensors["y_hat"][:, :whole])
        completes.append(cut.complete_slices)
    assert completes == sorted(completes)
    assert completes[0] == 0
    assert 0 < completes[-1] < len(slices)


def test_decode_cut_surplus_in_z_raises(model: Hyperprior, coded: Encoded) -> None:
    with pytest.raises(BitstreamError, match="z section"):
        random_model.decode(model, coded.z + b"\1", coded.z_is_plain, coded.y[:5], SIZE, missing_bytes=3)


def test_decode_surplus_bytes_raises(model: Hyperprior, coded: Encoded) -> None:
    for surplus in (b"\0", b"\1", bytes(9), b"surplus"):
        with pytest.raises(BitstreamError, match="z section"):
            random_model.y_hat_of(model, coded.z + surplus, coded.z_is_plain, coded.y, SIZE)
        with pytest.raises(BitstreamError, match="y section"):
            random_model.y_hat_of(model, coded.z, coded.z_is_plain, coded.y + surplus, SIZE)


def test_decode_bit_flips_raise_or_differ(model: Hyperprior, coded: Encoded) -> None:
    rng = np.random.default_rng(0)
    raised = 0
    for bit in rng.integers(0, 8 * len(coded.y), 60):
        y = bytearray(coded.y)
        y[bit // 8] ^= 1 << bit % 8
        try:
            other = random_model.y_hat_of(model, coded.z, coded.z_is_plain, bytes(y), SIZE)
            assert other.tobytes() != coded.tensors["y_hat"].tobytes()
        except BitstreamError:
            raised += 1
    assert raised > 30


def test_decode_other_size_or_flag_raises_or_differs(model: Hyperprior, coded: Encoded) -> None:
    for size, plain in (((4, 3), coded.z_is_plain), ((3, 5), coded.z_is_plain), (SIZE, not coded.z_is_plain)):
        try:
            other = random_model.y_hat_of(model, coded.z, plain, coded.y, size)
            assert other.tobytes() != coded.tensors["y_hat"].tobytes()
        except BitstreamError:
            pass


def test_decode_plain_index_over_the_codebook_raises(model: Hyperprior) -> None:
    with pytest.raises(BitstreamError, match="index 63, but the model has 40"):
        random_model.y_hat_of(model, b"\xff" * 9, True, b"", SIZE)


def test_decode_random_bytes_ends_in_an_error_or_bounded_values(model: Hyperprior) -> None:
    rng = np.random.default_rng(1)
    for n in range(40):
        try:
            z = rng.bytes(9) if n % 2 else rng.bytes(n)
            y_hat = random_model.y_hat_of(model, z, bool(n % 2), rng.bytes(50 * n), SIZE)
            assert np.abs(y_hat).max() < 1 << 16
        except BitstreamError:
            continue


def test_model_through_npz_decodes_the_same(coded: Encoded) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **random_model.arrays())  # type: ignore[arg-type]
    with np.load(io.BytesIO(buffer.getvalue()), allow_pickle=False) as file:
        model = Hyperprior.load(dict(file))
    assert_identical(decoded(model, coded), coded.tensors["y_hat"])
