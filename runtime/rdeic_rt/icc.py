"""ICC profiles: the kind of samples they describe, whether they differ from sRGB, and conversion to sRGB."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

# Of those that describe samples; others describe links between profiles, or named colours.
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
_HEADER_BYTES = 128
# Levels of 255 that a profile may differ from sRGB by and be sRGB: conversions round, and some profiles that call
# themselves sRGB approximate its curve.
_SAME_LEVELS = 1
_SAME_LEVELS_BY_NAME = 4


def samples_of(icc: bytes) -> bytes | None:
    """Return the kind of samples of a profile (``b"RGB "``, ``b"GRAY"``, ``b"CMYK"``, ...); None if it is invalid."""
    if len(icc) < _HEADER_BYTES or icc[36:40] != b"acsp" or icc[12:16] not in _CLASSES:
        return None
    return icc[16:20]


def to_srgb(image: Image.Image, icc: bytes) -> Image.Image | None:
    """Return an image in sRGB, converted by its profile; None where that cannot be applied.

    Args:
        image: of mode L, RGB or CMYK.
        icc: a profile of such samples.
    """
    from PIL import ImageCms

    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, ImportError):
        return None


def lab_to_srgb(image: Image.Image) -> Image.Image | None:
    """Return an image of mode LAB in sRGB; None where Pillow cannot convert it."""
    from PIL import ImageCms

    try:
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, ImportError):
        return None


def is_srgb(icc: bytes) -> bool | None:
    """Return whether a profile of RGB samples is equivalent to sRGB; None if it cannot be applied.

    Its name alone is not evidence: many profiles are named "sRGB", and some of them differ from it.
    """
    steps = np.linspace(0, 255, 9).round()
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    greys = np.arange(256)[:, np.newaxis].repeat(3, 1)
    probe = np.concatenate([colours, greys])[np.newaxis].astype(np.uint8)
    seen = to_srgb(Image.fromarray(probe), icc)
    if seen is None:
        return None
    levels = int(np.abs(np.asarray(seen).astype(int) - probe).max())
    return levels <= _SAME_LEVELS or (levels <= _SAME_LEVELS_BY_NAME and "srgb" in description(icc).lower())


def description(icc: bytes) -> str:
    """Return the name of a profile, or an empty text."""
    from PIL import ImageCms

    try:
        text = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(icc)))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, ImportError):
        return ""
    return " ".join(text.split())[:80]
