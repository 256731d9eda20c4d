"""Colour spaces that a file names by code points or numbers, and their way to sRGB; ICC profiles are in `icc`.

    samples ─ transfer function ─▶ linear light ─ primaries ─▶ linear sRGB, clipped ─ its transfer function ─▶ 8 bits

Transfer functions of video (BT.709 and those like it) are taken for sRGB's, as browsers do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Chromaticity = tuple[float, float]

_D65: Final = (0.3127, 0.3290)
_C: Final = (0.310, 0.316)
_SRGB_PRIMARIES: Final = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
# ITU-T H.273, table 2: red, green, blue, white, and a name for people.
_PRIMARIES: Final[dict[int, tuple[tuple[_Chromaticity, ...], _Chromaticity, str]]] = {
    1: (_SRGB_PRIMARIES, _D65, "sRGB"),
    2: (_SRGB_PRIMARIES, _D65, "sRGB"),  # unspecified
    4: (((0.67, 0.33), (0.21, 0.71), (0.14, 0.08)), _C, "BT.470 M"),
    5: (((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)), _D65, "BT.601 625"),
    6: (((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)), _D65, "BT.601 525"),
    7: (((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)), _D65, "SMPTE 240M"),
    8: (((0.681, 0.319), (0.243, 0.692), (0.145, 0.049)), _C, "film"),
    9: (((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), _D65, "BT.2020"),
    11: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (0.314, 0.351), "DCI-P3"),
    12: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), _D65, "Display P3"),
    22: (((0.630, 0.340), (0.295, 0.605), (0.155, 0.077)), _D65, "EBU 3213"),
}
_SRGB, _PQ, _HLG = "sRGB", "PQ", "HLG"
# Table 3; a number is the exponent of a pure power.
_TRANSFERS: Final[dict[int, str | float]] = {
    **dict.fromkeys((1, 2, 6, 7, 11, 12, 13, 14, 15), _SRGB),
    4: 2.2,
    5: 2.8,
    8: 1.0,
    16: _PQ,
    18: _HLG,
}
# What the white of an SDR image is in an HDR one (ITU-R BT.2408), and the peak that HLG is defined for; in cd/m2.
_HDR_WHITE_NITS: Final = 203.0
_HLG_PEAK_NITS: Final = 1000.0
# Primaries, and exponents of PNG's gAMA, this near to sRGB's are sRGB's: 1/2.2 is how sRGB is written there.
_SAME_CHROMATICITY: Final = 0.002
_SAME_EXPONENT: Final = 0.11
# Primaries whose triangle is larger than sRGB's by this factor have colours that it lacks; those of television do not.
_WIDE: Final = 1.1
_BAND_ROWS: Final = 64
_D50_XYZ: Final = (0.9642, 1.0, 0.8249)
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Space:
    """A colour space of RGB samples.

    Attributes:
        primaries: x and y of red, green and blue.
        white: x and y.
        transfer: "sRGB", "PQ" or "HLG"; or the exponent that makes light of a sample.
        name: for people.
    """

    primaries: tuple[_Chromaticity, ...] = _SRGB_PRIMARIES
    white: _Chromaticity = _D65
    transfer: str | float = _SRGB
    name: str = "sRGB"

    @property
    def has_srgb_primaries(self) -> bool:
        """Whether samples are mixed of the same red, green, blue and white as sRGB's."""
        ours, others = np.array([*self.primaries, self.white]), np.array([*_SRGB_PRIMARIES, _D65])
        return bool(np.abs(ours - others).max() <= _SAME_CHROMATICITY)

    @property
    def has_srgb_transfer(self) -> bool:
        """Whether the transfer function is sRGB's."""
        return self.transfer == _SRGB

    @property
    def is_wide(self) -> bool:
        """Whether there are many colours that sRGB does not have."""
        return _area(self.primaries) > _WIDE * _area(_SRGB_PRIMARIES)

    @property
    def is_hdr(self) -> bool:
        """Whether there are samples brighter than white."""
        return self.transfer in (_PQ, _HLG)


def from_code_points(primaries: int, transfer: int) -> Space | None:
    """Return the colour space of two code points of H.273; None where one is not known here."""
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    mixed, white, name = _PRIMARIES[primaries]
    return Space(mixed, white, _TRANSFERS[transfer], name)


def from_gamma(gamma: float | None, chromaticities: tuple[float, ...] | None) -> Space | None:
    """Return the colour space of PNG's gAMA and cHRM.

    Args:
        gamma: that samples have been made with; None: there is no gAMA.
        chromaticities: x and y of white, red, green and blue; None: there is no cHRM.
    Returns:
        None where the numbers describe no colours.
    """
    space = Space()
    if chromaticities is not None:
        pairs = tuple(zip(chromaticities[::2], chromaticities[1::2], strict=True))
        space = Space(pairs[1:], pairs[0], name="RGB")
        if any(y <= 0.001 or x < 0 or x > 1 or y > 1 for x, y in pairs) or _area(space.primaries) < 0.001:
            return None
    if gamma is None:
        return space
    exponent = 1 / gamma
    if not 0.1 <= exponent <= 10:
        return None
    if abs(exponent - 2.2) <= _SAME_EXPONENT and space.has_srgb_primaries:
        return space
    return Space(space.primaries, space.white, exponent, space.name)


def converted(samples: NDArray[np.uint8] | NDArray[np.uint16], space: Space, target: Space) -> NDArray[np.uint8]:
    """Return an image's samples in another colour space; colours that it does not have are clipped.

    Args:
        samples: [H, W, 3], of all 8 or 16 bits.
        space: what they are in.
        target: with the transfer function of sRGB.
    """
    n_codes = int(np.iinfo(samples.dtype).max) + 1
    light = _TO_LIGHT.get(space.transfer, _power(space.transfer))(np.arange(n_codes) / (n_codes - 1)).astype(np.float32)
    matrix = (np.linalg.inv(_xyz_of_rgb(target)) @ _adaptation(space.white, target.white) @ _xyz_of_rgb(space)).T
    rgb = np.empty(samples.shape, np.uint8)
    for row in range(0, samples.shape[0], _BAND_ROWS):
        band = light[samples[row : row + _BAND_ROWS]]
        if space.transfer == _HLG:
            # The system gamma: scene light becomes that of a display of 1000 cd/m2 (BT.2100, table 5).
            luminance = np.maximum(band @ np.array([0.2627, 0.6780, 0.0593], np.float32), np.float32(1e-9))
            band = band * (luminance[..., np.newaxis] ** np.float32(0.2) * np.float32(_HLG_PEAK_NITS / _HDR_WHITE_NITS))
        linear = np.clip(band @ matrix.astype(np.float32), 0.0, 1.0)
        rgb[row : row + _BAND_ROWS] = np.round(255 * _srgb_of_light(linear)).astype(np.uint8)
    return rgb


def icc_profile(space: Space) -> bytes:
    """Return an ICC profile, version 4, of RGB samples with these primaries and the transfer function of sRGB."""
    to_d50 = _adaptation_to_xyz(space.white, np.array(_D50_XYZ))
    columns = (to_d50 @ _xyz_of_rgb(space)).T
    curve = b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {
        b"desc": _text(space.name),
        b"cprt": _text("CC0"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50_XYZ),
        b"chad": b"sf32\0\0\0\0" + _fixed(*to_d50.ravel()),
        b"rXYZ": b"XYZ \0\0\0\0" + _fixed(*columns[0]),
        b"gXYZ": b"XYZ \0\0\0\0" + _fixed(*columns[1]),
        b"bXYZ": b"XYZ \0\0\0\0" + _fixed(*columns[2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body, places = struct.pack(">I", len(tags)), b"", dict[bytes, int]()
    for name, data in tags.items():
        if data not in places:
            places[data] = 128 + 4 + 12 * len(tags) + len(body)
            body += data + bytes(-len(data) % 4)
        table += name + struct.pack(">II", places[data], len(data))
    header = struct.pack(">I4xI", 128 + len(table) + len(body), 0x04300000) + b"mntrRGB XYZ "
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*_D50_XYZ)
    return header + bytes(128 - len(header)) + table + body


def _power(exponent: str | float) -> Callable[[Floats], Floats]:
    return lambda values: values ** float(exponent)


def _light_of_srgb(values: Floats) -> Floats:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _srgb_of_light(light: NDArray[np.float32]) -> NDArray[np.float32]:
    power = np.float32(1.055) * light ** np.float32(1 / 2.4) - np.float32(0.055)
    return np.where(light <= 0.0031308, np.float32(12.92) * light, power)


def _light_of_pq(values: Floats) -> Floats:
    """Return light for SMPTE ST 2084, 1.0 where an SDR image is white."""
    power = values ** (1 / 78.84375)
    nits = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return nits / _HDR_WHITE_NITS


def _light_of_hlg(values: Floats) -> Floats:
    """Return the light of the scene, up to 1.0 (BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)


_TO_LIGHT: Final[dict[str | float, Callable[[Floats], Floats]]] = {
    _SRGB: _light_of_srgb,
    _PQ: _light_of_pq,
    _HLG: _light_of_hlg,
}


def _xyz_of_rgb(space: Space) -> Floats:
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in space.primaries]).T
    shares: Floats = np.linalg.solve(columns, _xyz_of_white(space.white))
    return columns * shares


def _xyz_of_white(white: _Chromaticity) -> Floats:
    x, y = white
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adaptation(white: _Chromaticity, target: _Chromaticity) -> Floats:
    return _adaptation_to_xyz(white, _xyz_of_white(target))


def _adaptation_to_xyz(white: _Chromaticity, target: Floats) -> Floats:
    """Return the matrix that makes colours seen under one white those seen under another (Bradford)."""
    scale = (_BRADFORD @ target) / (_BRADFORD @ _xyz_of_white(white))
    matrix: Floats = np.linalg.inv(_BRADFORD) @ (scale[:, np.newaxis] * _BRADFORD)
    return matrix


def _area(primaries: tuple[_Chromaticity, ...]) -> float:
    (rx, ry), (gx, gy), (bx, by) = primaries
    return abs((gx - rx) * (by - ry) - (bx - rx) * (gy - ry)) / 2


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded
