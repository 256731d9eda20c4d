"""Photos from folders and tar archives, and the random crops of them that training sees.

Squares are cut once, by ``cut_crops.py``, rescaled at random; a step takes smaller windows of them, mirrored or not.
Crop number ``i`` of step ``s`` depends on (seed, s, i) only, so a resumed run sees exactly what an unbroken one would.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rdeic_export.photos import SUFFIXES, photos_in

MIN_SCALE = 0.6  # smallest random rescaling of a photo before cropping


def load_photos(sources: Sequence[Path], min_side_px: int) -> list[NDArray[np.uint8]]:
    """Return every photo of the given files, folders and tar archives as uint8 [H, W, 3], in name order.

    Photos with a side under ``min_side_px`` are left out. Raises ValueError when nothing is left.
    """
    photos = []
    for source in sources:
        for data in _encoded(source):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            if min(image.size) >= min_side_px:
                photos.append(np.asarray(image))
    if not photos:
        raise ValueError(f"no photo of at least {min_side_px} px a side in {', '.join(map(str, sources))}")
    return photos


def _encoded(source: Path) -> Iterator[bytes]:
    if source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as archive:
            members = [m for m in archive.getmembers() if m.isfile() and Path(m.name).suffix.lower() in SUFFIXES]
            for member in sorted(members, key=lambda m: m.name):
                file = archive.extractfile(member)
                assert file is not None  # a regular file, by the filter above
                yield file.read()
    else:
        for path in photos_in(source):
            yield path.read_bytes()


def cut(photos: Sequence[NDArray[np.uint8]], count: int, side_px: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield ``count`` squares, uint8 [side_px, side_px, 3]: each photo as often as the others, rescaled at random."""
    for index in range(count):
        yield _square(photos[index % len(photos)], side_px, np.random.default_rng([seed, index]))


def batch(squares: NDArray[np.uint8] | Tensor, places: range, crop_px: int, seed: int, step: int) -> Tensor:
    """Return float [B, 3, crop_px, crop_px] in [-1, 1], channels last: windows of random squares, mirrored at random.

    Args:
        squares: uint8 [N, side, side, 3], side at least crop_px; may be a memory map, or on a GPU, and so are the crops
            then.
        places: those of the crops in the batch; each follows from its place, the seed and the step.
        crop_px: side of a crop.
        seed, step: see above.
    """
    draws = np.random.default_rng([seed, step % 2**32]).random((places.stop, 4))[places.start :]
    which, top, left = (draws[:, :3] * (len(squares), *[squares.shape[1] - crop_px + 1] * 2)).astype(np.int64).T
    along = np.arange(crop_px)
    columns = np.where(draws[:, 3, None] < 0.5, along[::-1], along) + left[:, None]
    rows = along + top[:, None]
    index = which[:, None, None], rows[:, :, None], columns[:, None, :]
    if isinstance(squares, Tensor):
        return _to_float(squares[tuple(torch.from_numpy(one).to(squares.device) for one in index)])
    return to_tensor(squares[index])


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Return float [B, 3, H, W] in [-1, 1] of uint8 [B, H, W, 3]."""
    return _to_float(torch.from_numpy(np.array(images)))


def _to_float(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_images(tensor: Tensor) -> NDArray[np.uint8]:
    """Return uint8 [B, H, W, 3] of float [B, 3, H, W] in [-1, 1], clamped and rounded."""
    scaled = ((tensor.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def centre(photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return the middle of a photo, uint8 [side, side, 3], mirrored at the edges where it is smaller."""
    padded = np.pad(
        photo, [(0, max(0, side - photo.shape[0])), (0, max(0, side - photo.shape[1])), (0, 0)], "symmetric"
    )
    top, left = (padded.shape[0] - side) // 2, (padded.shape[1] - side) // 2
    return padded[top : top + side, left : left + side]


def _square(photo: NDArray[np.uint8], side_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = photo.shape[:2]
    smallest = max(MIN_SCALE, side_px / min(height, width))
    side = round(side_px / float(rng.uniform(smallest, 1.0))) if smallest < 1.0 else side_px
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    window: NDArray[np.uint8] = photo[top : top + side, left : left + side]
    if side != side_px:
        window = np.asarray(Image.fromarray(window).resize((side_px, side_px), Image.Resampling.LANCZOS))
    return window
