"""Wide and high-dynamic-range colours of clips as sRGB, through linear light.

1 is the reference white of ITU-R BT.2408, 203 cd/m2, so that pictures within a standard range keep their brightness.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

REFERENCE_WHITE_CD_M2 = 203.0
# Masters are graded for 1000 cd/m2 or more; the same peak for all keeps clips and windows of them comparable.
PEAK_CD_M2 = 1000.0
PEAK = PEAK_CD_M2 / REFERENCE_WHITE_CD_M2

RANGES = PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
POWERS = {4: 2.2, 5: 2.8, 8: 1.0}  # the same: those whose light is a power of the codes
_BT709, BT2020, _DCI_P3, _DISPLAY_P3 = 1, 9, 11, 12  # primaries of ITU-T H.273
WIDE_PRIMARIES = (BT2020, _DCI_P3, _DISPLAY_P3)

# Chromaticities (x, y) of red, green, blue and white. Projectors' white is shown as the screen's.
_D65 = (0.3127, 0.3290)
_CHROMATICITIES = {
    _BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    _DCI_P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    _DISPLAY_P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}
_BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
_HLG_GAMMA = 1.2  # of a screen of PEAK_CD_M2
_LEVELS = 1 << 16
WHITE_CODE = 255 << 8  # of FFmpeg's 16-bit RGB
_SRGB_EXPONENT_TOLERANCE = 0.05  # as in libpng
# Cone responses to XYZ (Bradford), in which another white becomes that of sRGB.
_CONES = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_PIXELS_AT_ONCE = 1 << 16  # the intermediate values of whole frames would outgrow the caches


def to_srgb(pixels: NDArray[np.uint16], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """Convert a frame to uint8 sRGB (H, W, 3).

    Highlights of PQ and HLG are rolled off by the curve of ITU-R BT.2390, one factor for the three colours of a pixel,
    which keeps hues. Colours outside of sRGB are clipped.

    Args:
        pixels: uint16 RGB (H, W, 3) as FFmpeg makes them of frames of any depth.
        transfer: `PQ`, `HLG`, one of `POWERS`, or any other, whose code values are taken for those of sRGB.
        primaries: one of `WIDE_PRIMARIES`; others count as those of sRGB.
    """
    to_light, matrix, to_codes = _light(transfer), _to_bt709(primaries), _codes()
    flat = pixels.reshape(-1, 3)
    made = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _PIXELS_AT_ONCE):
        light = to_light[flat[start : start + _PIXELS_AT_ONCE]]
        if transfer == HLG:
            light *= PEAK * ((light @ _BT2020_LUMINANCE) ** (_HLG_GAMMA - 1))[:, None]
        light = (light @ matrix).clip(min=0)
        if transfer in RANGES:
            light *= _roll_off(light.max(1))[:, None]
        levels = (light * (_LEVELS - 1) + 0.5).clip(max=_LEVELS - 1)
        made[start : start + _PIXELS_AT_ONCE] = to_codes[levels.astype(np.uint16)]
    return made.reshape(pixels.shape)


def power_to_srgb(
    pixels: NDArray[np.uint8], exponent: float, chromaticities: tuple[float, ...] | None
) -> NDArray[np.uint8]:
    """Convert a picture whose code values are a power of light to uint8 sRGB (H, W, 3).

    Args:
        pixels: uint8 RGB (H, W, 3).
        exponent: of light, such as 1 for linear codes.
        chromaticities: x and y of white, red, green and blue; None, and what no screen could have, for those of sRGB.
    """
    codes = np.arange(256) / 255
    light = (srgb_light(codes) if is_srgb_exponent(exponent) else codes ** (1 / exponent)).astype(np.float32)[pixels]
    matrix = None if chromaticities is None else _adapted(chromaticities)
    if matrix is not None:
        light = (light @ matrix).clip(0, 1)
    return _codes()[(light * (_LEVELS - 1) + 0.5).astype(np.uint16)]


def is_srgb_exponent(exponent: float) -> bool:
    """Return whether a power stands for the curve of sRGB, which has none."""
    return abs(exponent * 2.2 - 1) < _SRGB_EXPONENT_TOLERANCE


def pq_light(codes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the light of PQ codes in [0, 1], reference white 1 (SMPTE ST 2084)."""
    power = codes ** (32 / 2523)
    ratio = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
    return 10_000 / REFERENCE_WHITE_CD_M2 * ratio ** (8192 / 1305)


def pq_codes(light: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the PQ codes of light, the inverse of `pq_light`."""
    power = (np.maximum(light, 0) * (REFERENCE_WHITE_CD_M2 / 10_000)) ** (1305 / 8192)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg_light(codes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the light of the scene of HLG codes in [0, 1], in [0, 1] (ITU-R BT.2100)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)


def srgb_light(codes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the light of sRGB codes in [0, 1], in [0, 1]."""
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)


@cache
def _light(transfer: int) -> NDArray[np.float32]:
    codes = np.minimum(np.arange(_LEVELS) / WHITE_CODE, 1)
    if transfer in POWERS:
        return (codes ** POWERS[transfer]).astype(np.float32)
    return {PQ: pq_light, HLG: hlg_light}.get(transfer, srgb_light)(codes).astype(np.float32)


@cache
def _codes() -> NDArray[np.uint8]:
    light = np.arange(_LEVELS) / (_LEVELS - 1)
    codes = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (codes * 255 + 0.5).astype(np.uint8)


@cache
def _roll_off_table() -> NDArray[np.float32]:
    """Return factors by the square root of light over `PEAK`, which resolves dark and bright parts alike."""
    light = np.linspace(0, 1, 4097) ** 2 * PEAK
    light[0] = light[1]
    codes = pq_codes(light) / pq_codes(np.array(PEAK))
    limit = float(pq_codes(np.array(1.0)) / pq_codes(np.array(PEAK)))
    knee = 1.5 * limit - 0.5
    t = np.maximum(codes - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * limit
    shown = pq_light(np.where(codes < knee, codes, spline) * pq_codes(np.array(PEAK)))
    return (shown / light).astype(np.float32)


def _roll_off(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the factor that brings the brightest colour of a pixel into [0, 1]: to 1 from `PEAK` on."""
    table = _roll_off_table()
    places = np.sqrt(np.minimum(light / np.float32(PEAK), 1)) * np.float32(len(table) - 1)
    return np.minimum(table[(places + 0.5).astype(np.intp)], 1 / np.maximum(light, np.float32(1)))


@cache
def _to_bt709(primaries: int) -> NDArray[np.float32]:
    """Return the matrix for rows of linear RGB on its left."""
    source = _CHROMATICITIES[primaries if primaries in WIDE_PRIMARIES else _BT709]
    return np.ascontiguousarray((np.linalg.inv(_to_xyz(_CHROMATICITIES[_BT709])) @ _to_xyz(source)).T, np.float32)


@lru_cache(64)  # files state any numbers
def _adapted(chromaticities: tuple[float, ...]) -> NDArray[np.float32] | None:
    """Return the like for any primaries, white to white; None if these cannot be."""
    white, *colours = zip(chromaticities[::2], chromaticities[1::2], strict=True)
    target = _to_xyz(_CHROMATICITIES[_BT709])
    try:
        source = _to_xyz((*colours, white))
        scale = (_CONES @ target).sum(1) / (_CONES @ source).sum(1)
        matrix = np.linalg.inv(_CONES @ target) @ (scale[:, None] * (_CONES @ source))
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    return np.ascontiguousarray(matrix.T, np.float32) if np.isfinite(matrix).all() else None


def _to_xyz(chromaticities: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """Return the matrix from linear RGB by (x, y) of red, green, blue and white."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in chromaticities]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
