from __future__ import annotations

import numpy as np
import pytest

from rdeic_rt import entropy
from rdeic_rt.entropy.arrays import model_id
from rdeic_rt.entropy.hyperprior import Hyperprior
from rdeic_rt.errors import BundleCorruptError

from . import random_model, specification


@pytest.fixture(scope="module")
def arrays() -> random_model.Arrays:
    return random_model.arrays()


def test_model_id_equals_the_specification(arrays: random_model.Arrays) -> None:
    assert entropy.load(arrays).model_id == model_id(arrays) == specification.model_id(arrays)


def test_model_id_does_not_depend_on_order_or_layout(arrays: random_model.Arrays) -> None:
    reordered = {name: np.asfortranarray(arrays[name]) for name in reversed(arrays)}
    swapped = {name: a.astype(a.dtype.newbyteorder(">")) for name, a in arrays.items()}
    assert model_id(reordered) == model_id(swapped) == model_id(arrays)


def test_model_id_any_array_last_element_differs_changes(arrays: random_model.Arrays) -> None:
    ids = {model_id(arrays)}
    for name, array in arrays.items():
        changed = array.copy()
        changed.reshape(-1)[-1] ^= 1
        ids.add(model_id({**arrays, name: changed}))
    assert len(ids) == len(arrays) + 1


def test_model_id_of_same_bytes_in_another_shape_type_or_name_changes(arrays: random_model.Arrays) -> None:
    array = arrays["slices"]
    others = [
        {"slices": array[None]},
        {"slices": array.view(np.uint32)},
        {"slice": array},
        {"slices": array, "t": array},
    ]
    assert len({model_id(o) for o in [{"slices": array}, *others]}) == 5


def test_load_byte_swapped_arrays_gives_the_same_model(arrays: random_model.Arrays) -> None:
    swapped = {name: a.astype(a.dtype.newbyteorder(">")) for name, a in arrays.items()}
    _, indices = random_model.latents(0, 1, 2)
    one, other = Hyperprior.load(arrays), Hyperprior.load(swapped)
    assert np.array_equal(one.hyper(one.matmul, indices), other.hyper(other.matmul, indices))


def test_load_any_array_missing_raises(arrays: random_model.Arrays) -> None:
    for name in arrays:
        # Without its low part an input is coarse, and without its doubled blocks the hyper network is unfit elsewhere.
        if not name.endswith("weight_low"):
            with pytest.raises(BundleCorruptError):
                entropy.load({k: v for k, v in arrays.items() if k != name})


def test_load_unknown_array_raises(arrays: random_model.Arrays) -> None:
    with pytest.raises(BundleCorruptError, match="surplus"):
        entropy.load({**arrays, "surplus": np.zeros(1, np.int32)})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("version", [4], "'version' is 4"),
        ("slices", [4, 4, 9], "local.2.weight"),
        ("slices", [0, 8, 8], "under 1"),
        ("skip_below", [64], "skip_below"),
        ("scale_thresholds", [5] * 63, "rise"),
        ("scale_lengths", [3] * 64, "scale_lengths"),
        ("scale_lengths", [2**31 - 2] * 64, "scale_lengths"),
        ("prior_masses", [1 << 23, 1 << 22], "16777216"),
        ("prior_masses", [(1 << 24) + 1, -1], "under 1"),
        ("hyper.0.slope", [-1], "slope"),
    ],
)
def test_load_unfit_value_raises(arrays: random_model.Arrays, name: str, value: list[int], message: str) -> None:
    with pytest.raises(BundleCorruptError, match=message):
        entropy.load({**arrays, name: np.array(value, np.int32)})


def test_load_doubling_other_than_twice_raises(arrays: random_model.Arrays) -> None:
    for doubles in ([1, 0, 0, 0], [1, 1, 1, 0], [2, 0, 0, 0]):
        with pytest.raises(BundleCorruptError, match="hyper.doubles"):
            entropy.load({**arrays, "hyper.doubles": np.array(doubles, np.uint8)})


def test_scale_index_counts_the_thresholds_below(arrays: random_model.Arrays) -> None:
    thresholds = arrays["scale_thresholds"]
    scales = np.concatenate([thresholds - 1, thresholds, thresholds + 1, [-(1 << 20), (1 << 20) - 1]]).astype(np.int32)
    expected = np.array([(thresholds < s).sum() for s in scales])
    for skip_below in (0, 1, 4, 63):
        tables = Hyperprior.load({**arrays, "skip_below": np.array([skip_below], np.int32)}).tables
        coded = expected >= skip_below
        assert np.array_equal(tables.scale_index(scales)[coded], expected[coded])
        assert (tables.scale_index(scales)[~coded] < max(1, skip_below)).all()
