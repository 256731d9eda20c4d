"""Entropy model 2: indices and nothing else, exactly, in the shorter of two forms or in the one whose size is known."""

from __future__ import annotations

import numpy as np
import pytest

from rdeic_rt import entropy
from rdeic_rt.entropy.arrays import Arrays
from rdeic_rt.entropy.coder import TOTAL_MASS
from rdeic_rt.entropy.static_prior import StaticPrior
from rdeic_rt.errors import BitstreamError, BundleCorruptError

from . import specification


def arrays(n_codes: int = 5, first: float = 0.5) -> Arrays:
    """Return a model in which code 0 has a share of ``first``, and the others have the rest."""
    rest = round(TOTAL_MASS * (1 - first)) // (n_codes - 1)
    masses = np.full(n_codes, rest, np.int32)
    masses[0] = TOTAL_MASS - (n_codes - 1) * rest
    return {
        "version": np.array([2], np.int32),
        "index_px": np.array([16], np.int32),
        "prior_masses": masses,
    }


@pytest.mark.parametrize("n_codes", [2, 5, 256, 8192, 65536])
@pytest.mark.parametrize("fixed_size", [False, True])
def test_decode_returns_what_was_encoded(n_codes: int, fixed_size: bool) -> None:
    model = StaticPrior.load(arrays(n_codes))
    generator = np.random.default_rng(n_codes)
    for shape in ((1, 1, 1), (1, 3, 7), (1, 32, 48)):
        indices = generator.integers(0, n_codes, shape)
        indices.flat[:2] = (n_codes - 1, 0)[: indices.size]
        coded = model.encode({"vq_indices": indices}, fixed_size=fixed_size)
        decoded = model.decode(coded.z, coded.z_is_plain, coded.y, {"vq_indices": shape})
        np.testing.assert_array_equal(decoded.tensors["vq_indices"], indices)
        assert decoded.tensors["vq_indices"].dtype == np.int64
        plain = model.fixed_bytes({"vq_indices": shape})
        assert plain == -(-indices.size * (n_codes - 1).bit_length() // 8)
        assert coded.y == b""
        if fixed_size:
            assert (len(coded.z), coded.z_is_plain) == (plain, True)
        else:
            assert len(coded.z) <= plain


def test_prior_saves_what_its_entropy_says() -> None:
    """Half of the indices are 0 of 256: 1 bit for these, and 8.99 for the others."""
    model = StaticPrior.load(arrays(256))
    indices = np.random.default_rng(0).integers(1, 256, (1, 32, 48))
    indices[:, ::2] = 0
    coded = model.encode({"vq_indices": indices})
    assert not coded.z_is_plain
    assert 8 * len(coded.z) == pytest.approx(768 * 1 + 768 * (1 + np.log2(255)), abs=16)


def test_section_is_what_the_format_says() -> None:
    model = StaticPrior.load(arrays(5, 0.9))
    indices = np.zeros((1, 3, 5), np.int64)
    indices[0, 1, 2:] = 4, 1, 3
    coded = model.encode({"vq_indices": indices})
    decoder = specification.RangeDecoder(coded.z)
    masses = arrays(5, 0.9)["prior_masses"].tolist()
    assert [decoder.symbol(masses) for _ in range(15)] == indices.ravel().tolist()
    decoder.finish()
    plain = model.encode({"vq_indices": indices}, fixed_size=True).z
    assert plain == int("".join(f"{index:03b}" for index in indices.ravel()) + "000", 2).to_bytes(6, "big")


def test_decode_refuses_what_no_encoder_writes() -> None:
    model = StaticPrior.load(arrays(5))
    shapes = {"vq_indices": (1, 2, 2)}
    coded = model.encode({"vq_indices": np.array([[[0, 0], [0, 4]]])}, fixed_size=True)
    with pytest.raises(BitstreamError, match="index 7, but the model has 5"):
        model.decode(b"\xff\xf0", True, b"", shapes)
    with pytest.raises(BitstreamError, match="3 bytes, 4 values of 3 bits take 2"):
        model.decode(coded.z + b"\0", True, b"", shapes)
    with pytest.raises(BitstreamError, match="y section: it has 1 bytes"):
        model.decode(coded.z, True, b"\1", shapes)
    with pytest.raises(BitstreamError, match="y section: it has 3 bytes"):
        model.decode(coded.z, True, b"", shapes, missing_bytes=3)
    with pytest.raises(BitstreamError):
        model.decode(b"\xff" * 9, False, b"", shapes)
    with pytest.raises(BundleCorruptError, match="makes a grid of indices"):
        model.decode(coded.z, True, b"", {"vq_indices": (1, 1, 2, 2)})


def test_encode_refuses_what_are_no_indices() -> None:
    model = StaticPrior.load(arrays(5))
    for indices, message in (
        (np.array([[[0, 5]]]), "from 0 to 5, should be 0 to 4"),
        (np.array([[[-1, 0]]]), "from -1 to 0"),
        (np.zeros((2, 2), np.int64), r"shape \[2, 2\]"),
        (np.zeros((1, 0, 2), np.int64), "no VQ indices"),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode({"vq_indices": indices})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": [4]}, "'version' is 4, should be 1 or 2 or 3"),
        ({"version": [3]}, "no array 'codebook'"),
        ({"index_px": [0]}, "'index_px' is 0"),
        ({"prior_masses": [TOTAL_MASS]}, "1 elements"),
        ({"prior_masses": [TOTAL_MASS, 1]}, "adds up to"),
        ({"slices": [4]}, "unknown arrays"),
    ],
)
def test_load_unfit_arrays_raises(change: dict[str, list[int]], message: str) -> None:
    changed = {name: np.array(value, np.int32) for name, value in change.items()}
    with pytest.raises(BundleCorruptError, match=message):
        entropy.load({**arrays(), **changed})
    for name in ("index_px", "prior_masses"):
        with pytest.raises(BundleCorruptError, match=f"no array '{name}'"):
            entropy.load({key: value for key, value in arrays().items() if key != name})


def test_grid_is_part_of_the_model_id() -> None:
    other = {**arrays(), "index_px": np.array([32], np.int32)}
    assert StaticPrior.load(arrays()).model_id != StaticPrior.load(other).model_id
