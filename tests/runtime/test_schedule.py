from __future__ import annotations

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdeic_rt import bundle
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.errors import BundleCorruptError
from rdeic_rt.schedule import Schedule, load_arrays, load_step_rows

TWO = Schedule("ddpm-2", "ddpm", (299, 0), 0.4, (0.9, 1.1), (-0.3, -0.2), (0.25, 0.0))


def test_coefficients_are_the_row_of_a_step_as_float32() -> None:
    row = TWO.coefficients(1)
    assert row.dtype == np.float32
    assert row.tolist() == np.array([1.1, -0.2, 0.0], np.float32).tolist()
    assert TWO.n_steps == 2


@pytest.mark.parametrize(
    "change", [{"a": (1.0,)}, {"b": (1.0, float("nan"))}, {"c": (float("inf"), 0.0)}, {"abar_start": 1.5}]
)
def test_schedule_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"entries|finite|abar_start"):
        replace(TWO, **change)  # type: ignore[arg-type]


def test_schedules_of_the_embedded_bundle_end_without_noise(embedded_bundle: Path) -> None:
    for schedule in bundle.read(embedded_bundle, verify=False).schedules.values():
        assert schedule.c[-1] == 0.0
        assert list(schedule.timesteps) == sorted(schedule.timesteps, reverse=True)


def test_load_step_rows_of_the_right_shape_returns_them(micro_folder: Path) -> None:
    rows = load_step_rows(OwnFile(micro_folder / "steps" / "ddpm-2.npz"), 2, {"control": 2, "unet_step": 3})
    assert rows["control"].shape == (2, 2)
    assert rows["unet_step"].shape == (2, 3)
    assert rows["control"].dtype == rows["unet_step"].dtype == np.float32


@pytest.mark.parametrize("n_steps, control_width, unet_width", [(3, 2, 3), (2, 3, 3), (2, 2, 2)])
def test_load_step_rows_of_another_shape_says_both(
    micro_folder: Path, n_steps: int, control_width: int, unet_width: int
) -> None:
    with pytest.raises(BundleCorruptError, match=r"is float32 \[2, \d\], should be float32 \["):
        load_step_rows(
            OwnFile(micro_folder / "steps" / "ddpm-2.npz"), n_steps, {"control": control_width, "unet_step": unet_width}
        )


def test_load_step_rows_with_last_value_nan_is_refused(tmp_path: Path) -> None:
    rows = np.zeros((2, 3), np.float32)
    rows[-1, -1] = np.nan
    np.savez(tmp_path / "t.npz", control=np.zeros((2, 2), np.float32), unet_step=rows)
    with pytest.raises(BundleCorruptError, match="'unet_step' has a value that is not finite"):
        load_step_rows(OwnFile(tmp_path / "t.npz"), 2, {"control": 2, "unet_step": 3})


def test_load_arrays_of_a_member_that_is_no_array_raises_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for name in ("control.npy", "control"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"hello")
        with pytest.raises(BundleCorruptError, match="'control' is no array"):
            load_arrays(OwnFile(path))


@pytest.mark.parametrize("value", [1e308, 3.4028235677973366e38, -3.5e38, float("inf"), float("nan")])
def test_schedule_of_a_coefficient_beyond_float32_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not a finite float32"):
        Schedule("ddpm-1", "ddpm", (299,), 0.4, (0.9,), (value,), (0.25,))
    assert Schedule("ddpm-1", "ddpm", (299,), 0.4, (0.9,), (3.4028234663852886e38,), (0.25,)).n_steps == 1


def test_load_arrays_never_unpickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "object.npz", control=np.array([{"a": 1}], object))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"a": 1}))
    for name in ("object.npz", "pickle.npz"):
        with pytest.raises(BundleCorruptError):
            load_arrays(OwnFile(tmp_path / name))


def member(path: Path, header: str, elements: bytes = b"") -> bytes:
    """Return an archive of one array with this header, stored."""
    text = header.encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + elements)
    return path.read_bytes()


def test_load_arrays_that_announce_what_cannot_be_raises_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    good = member(path, "{'descr': '<i4', 'fortran_order': False, 'shape': (1,)}", b"abcd")
    assert load_arrays(OwnFile(path))["x"].shape == (1,)
    directory = good.rindex(b"PK\x01\x02")
    local = {"flags": 6, "method": 8}
    for field, value in (("flags", 1), ("method", 12), ("method", 99)):
        damaged = bytearray(good)
        for start in (local[field], directory + local[field] + 2):
            damaged[start : start + 2] = value.to_bytes(2, "little")
        path.write_bytes(damaged)
        with pytest.raises(BundleCorruptError):
            load_arrays(OwnFile(path))
    for header in ("((((", "{'descr': '<i8', 'fortran_order': False, 'shape': (137438953472,)}", "'" * 3):
        member(path, header)
        with pytest.raises(BundleCorruptError):
            load_arrays(OwnFile(path))


def test_load_arrays_of_a_damaged_file_raises_corrupt(micro_folder: Path) -> None:
    path = micro_folder / "steps" / "ddpm-2.npz"
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(BundleCorruptError):
            load_arrays(OwnFile(path))
    np.save(path.with_suffix(".npy"), np.zeros(3))
    with pytest.raises(BundleCorruptError):
        load_arrays(OwnFile(path.with_suffix(".npy")))
