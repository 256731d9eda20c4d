"""Pictures side by side: the photo, ours, and the others at the size of our file; a row for each photo and rate.

photo.jpg        rdeic-rt, rate 0     JPEG, downscaled     WebP ...
451x300          1520 bytes ...       1562 bytes ...
[picture]        [picture]            [picture]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .metrics import mean_distance
from .results import OURS, Evaluation, Measurement, PhotoResult, downscaled

_GAP_PX = 8
_TEXT_PX = 14
_LINE_PX = 18
_LINES = 3


def draw(evaluation: Evaluation) -> NDArray[np.uint8]:
    """Return the sheet, uint8 [H, W, 3], of the photos whose pictures were kept.

    Of another codec it shows the file at our size: the downscaled one where the whole picture's is more than 10 % too
    large. Pictures are shown pixel by pixel, the middle of those that are larger than `run.KEPT_SIDE_PX`.

    Raises:
        ValueError: no pictures were kept.
    """
    rows = [
        [(_photo_text(photo), photo.picture)]
        + [(_text(m), m.picture) for m in _shown(photo, rate.index, evaluation) if m.picture is not None]
        for photo in evaluation.photos
        for rate in evaluation.rates
        if photo.picture is not None
    ]
    cells = [[(text, picture) for text, picture in row if picture is not None] for row in rows]
    if not cells:
        raise ValueError("there are no pictures to show: none were kept, or no photo could be measured")
    column = max(picture.shape[1] for row in cells for _, picture in row)
    font = ImageFont.load_default(size=_TEXT_PX)
    texts = [line for row in cells for text, _ in row for line in text]
    column = max(column, *(int(font.getlength(text)) + 1 for text in texts))
    heights = [max(picture.shape[0] for _, picture in row) + _LINES * _LINE_PX + _GAP_PX for row in cells]
    width = max(map(len, cells)) * (column + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (width, sum(heights) + _GAP_PX), "white")
    pen = ImageDraw.Draw(sheet)
    top = _GAP_PX
    for row, height in zip(cells, heights, strict=True):
        for index, (text, picture) in enumerate(row):
            left = _GAP_PX + index * (column + _GAP_PX)
            for number, line in enumerate(text):
                pen.text((left, top + number * _LINE_PX), line, fill="black", font=font)
            sheet.paste(Image.fromarray(picture), (left, top + _LINES * _LINE_PX))
        top += height
    return np.asarray(sheet)


def _shown(photo: PhotoResult, rate: int, evaluation: Evaluation) -> list[Measurement]:
    found = [photo.find(name, rate) for name in (OURS, *(downscaled(name) for name in evaluation.settings))]
    return [measured for measured in found if measured is not None]


def _photo_text(photo: PhotoResult) -> list[str]:
    return [Path(photo.name).name, f"{photo.size.width}x{photo.size.height}", "original"]


def _text(measured: Measurement) -> list[str]:
    name = f"{OURS}, rate {measured.rate}" if measured.codec == OURS else measured.codec
    if measured.scale != 1.0:
        name += f" to {measured.scale:g}"
    if measured.quality is not None:
        name += f", quality {measured.quality}"
    psnr, distance = measured.scores["psnr_db"], mean_distance(measured.scores)
    worth = [f"{psnr:.1f} dB" if psnr is not None else "", f"distance {distance:.3f}" if distance is not None else ""]
    return [name, f"{measured.size_bytes} bytes, {measured.bpp:.4f} bpp", ", ".join(filter(None, worth))]
