"""Photos and crops: the same crop for the same step, from folders and archives alike."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from training import data

PHOTOS = Path(__file__).parents[1] / "data" / "photos"


def test_load_photos_folder_and_archive_agree(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for path in sorted(PHOTOS.glob("*.jpg"), reverse=True):
            archive.add(path, path.name)
    from_folder = data.load_photos([PHOTOS], 64)
    from_archive = data.load_photos([tmp_path / "photos.tar"], 64)
    assert len(from_folder) >= 3
    for a, b in zip(from_folder, from_archive, strict=True):
        assert np.array_equal(a, b)


def test_load_photos_all_too_small_is_an_error() -> None:
    with pytest.raises(ValueError, match="no photo of at least 5000 px"):
        data.load_photos([PHOTOS], 5000)


def test_batch_same_step_gives_same_crops_and_another_step_others() -> None:
    squares = np.stack(list(data.cut(data.load_photos([PHOTOS], 96), 9, 96, seed=0)))
    first = data.batch(squares, range(3), 64, seed=1, step=10)
    assert first.shape == (3, 3, 64, 64)
    assert first.abs().max() <= 1
    assert torch.equal(first, data.batch(squares, range(3), 64, seed=1, step=10))
    assert torch.equal(first[1:], data.batch(squares, range(1, 3), 64, seed=1, step=10))
    assert not torch.equal(first, data.batch(squares, range(3), 64, seed=1, step=11))
    assert not torch.equal(first, data.batch(squares, range(3), 64, seed=2, step=10))
    assert torch.equal(first, data.batch(torch.from_numpy(squares), range(3), 64, seed=1, step=10))


def test_batch_is_of_windows_some_of_them_mirrored() -> None:
    squares = np.stack(list(data.cut(data.load_photos([PHOTOS], 96), 5, 96, seed=0)))
    crops = data.to_images(data.batch(squares, range(8), 64, seed=0, step=0))
    windows = np.lib.stride_tricks.sliding_window_view(squares, (64, 64), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    found = [
        [bool((windows == (crop[:, ::-1] if mirrored else crop)).all((3, 4, 5)).any()) for mirrored in (False, True)]
        for crop in crops
    ]
    assert all(plain or mirrored for plain, mirrored in found)
    assert {plain for plain, _ in found} == {False, True}


def test_cut_uses_every_photo_and_is_repeatable() -> None:
    photos = data.load_photos([PHOTOS], 96)
    squares = list(data.cut(photos, len(photos) + 1, 96, seed=0))
    assert {square.shape for square in squares} == {(96, 96, 3)}
    for first, again in zip(squares, data.cut(photos, len(photos) + 1, 96, seed=0), strict=True):
        assert np.array_equal(first, again)
    assert not np.array_equal(squares[0], squares[-1])  # of the same photo


def test_centre_of_a_small_photo_is_mirrored() -> None:
    photo = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    middle = data.centre(photo, 6)
    assert np.array_equal(middle[:4], photo)
    assert np.array_equal(middle[4], photo[3])
    assert np.array_equal(data.centre(photo, 4), photo[:, 1:5])


def test_to_images_inverts_to_tensor() -> None:
    images = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    assert np.array_equal(data.to_images(data.to_tensor(images)), images)
