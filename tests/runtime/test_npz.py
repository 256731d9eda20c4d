"""What an .npz file may hold at most; that damaged ones are refused is tested with the schedule."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from numpy.typing import NDArray

from rdeic_rt import limits, npz
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.errors import BundleCorruptError
from rdeic_rt.schedule import load_arrays


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for name, content in members:
            out.writestr(name, content)
    return buffer.getvalue()


def array_file(array: NDArray[Any], version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = BytesIO()
    npy.write_array(buffer, array, version)
    return buffer.getvalue()


ONE = array_file(np.zeros(1, np.int32))


@pytest.mark.parametrize("compressed", [False, True])
def test_read_returns_what_numpy_wrote(compressed: bool) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "bytes": rng.integers(0, 255, (3, 5)).astype(np.uint8),
        "wide": rng.integers(-(2**40), 2**40, (2, 2, 2, 7)),
        "real": rng.normal(size=(4, 3)).astype(np.float32),
        "turned": np.asfortranarray(rng.integers(0, 9, (3, 4)).astype(np.int32)),
        "scalar": np.array(7, np.int32),
        "empty": np.zeros((0, 3), np.int8),
    }
    buffer = BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    found = npz.read(buffer.getvalue())

    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_read_takes_every_version_of_npy(version: tuple[int, int]) -> None:
    array = np.arange(5, dtype=np.uint16)
    np.testing.assert_array_equal(npz.read(archive(("x.npy", array_file(array, version))))["x"], array)


@pytest.mark.parametrize(
    ("ceiling", "value", "message"),
    [
        ("MAX_ARRAYS", 1, "2 arrays; at most 1 are allowed"),
        ("MAX_ARRAYS_BYTES", 2 * len(ONE) - 1, f"'second' announces {len(ONE)} bytes, which cannot be or are too many"),
        ("MAX_ARRAY_NAME_BYTES", 9, "a name of more than 9 bytes"),
        ("MAX_ARRAY_RANK", 0, "'first' has 1 dimensions; at most 0 are allowed"),
        ("MAX_ARRAY_HEADER_BYTES", 117, "Header info length"),
    ],
)
def test_more_than_a_ceiling_is_refused_and_as_much_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ceiling: str, value: int, message: str
) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(archive(("first.npy", ONE), ("second.npy", ONE)))
    monkeypatch.setattr(limits, ceiling, value + 1)
    assert list(load_arrays(OwnFile(path))) == ["first", "second"]
    monkeypatch.setattr(limits, ceiling, value)
    with pytest.raises(BundleCorruptError, match=message):
        load_arrays(OwnFile(path))


def test_array_that_grows_more_than_deflate_can_is_refused() -> None:
    data = bytearray(archive(("x.npy", ONE)))
    size_at = data.rindex(b"PK\x01\x02") + 24
    data[size_at : size_at + 4] = (limits.MAX_DEFLATE_RATIO * (len(ONE) + 1)).to_bytes(4, "little")
    with pytest.raises(ValueError, match="which cannot be or are too many"):
        npz.read(bytes(data))


def test_members_that_share_their_bytes_are_refused() -> None:
    content = array_file(np.zeros(4096, np.int32))
    data = archive(("a.npy", content))
    start = data.rindex(b"PK\x01\x02")
    entry, end = data[start : data.rindex(b"PK\x05\x06")], bytearray(data[data.rindex(b"PK\x05\x06") :])
    end[8:12] = 2 * (2).to_bytes(2, "little")
    end[12:16] = (2 * len(entry)).to_bytes(4, "little")
    with pytest.raises(ValueError, match="'b' announces"):
        npz.read(data[:start] + entry + entry.replace(b"a.npy", b"b.npy") + bytes(end))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_array_that_comes_twice_is_refused() -> None:
    for other in ("x.npy", "x"):
        with pytest.raises(ValueError, match="'x' comes twice"):
            npz.read(archive(("x.npy", ONE), (other, ONE)))


@pytest.mark.parametrize("change", [-1, 1])
def test_elements_that_are_not_as_many_as_announced_are_refused(change: int) -> None:
    content = ONE[:-1] if change < 0 else ONE + b"\0"
    with pytest.raises(ValueError, match=f"'x' has {4 + change} bytes of elements, should have 4"):
        npz.read(archive(("x.npy", content)))
