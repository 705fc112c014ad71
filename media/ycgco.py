"""Frames whose colours are stored as luma, green and orange differences, which FFmpeg does not convert."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

YCGCO = 8  # matrix of ITU-T H.273
_FULL_RANGE = 2
_BT709 = 1
_ROWS = 64  # at once: the intermediate values of whole frames would outgrow the caches


def to_rgb(frame: Any, white: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return RGB (H, W, 3): G = Y + Cg, R = Y - Cg + Co, B = Y - Cg - Co.

    Args:
        frame: PyAV's, of any depth and subsampling of chroma.
        white: the code of white, 255 for uint8 or more for uint16.
    """
    is_deep = any(component.bits > 8 for component in frame.format.components)
    kept = {"src_colorspace": _BT709, "dst_colorspace": _BT709}  # of both sides: nothing is converted but the layout
    if frame.color_range == _FULL_RANGE:
        kept["dst_color_range"] = _FULL_RANGE
    planar = frame.reformat(format="yuv444p16le" if is_deep else "yuv444p", threads=1, **kept)
    kind, unit = np.dtype("<u2" if is_deep else "u1"), 256 if is_deep else 1
    stored = [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in planar.planes]
    is_full = frame.color_range == _FULL_RANGE
    black, luma_span, chroma_span = (0, 255, 255) if is_full else (16, 219, 224)
    shown = np.empty((*stored[0].shape, 3), np.uint8 if white == 255 else np.uint16)
    for top in range(0, len(shown), _ROWS):
        luma, green, orange = (samples[top : top + _ROWS].astype(np.float32) for samples in stored)
        luma = (luma - black * unit) * np.float32(white / luma_span / unit) + np.float32(0.5)
        green, orange = ((part - 128 * unit) * np.float32(white / chroma_span / unit) for part in (green, orange))
        others = luma - green
        for channel, colour in enumerate((others + orange, luma + green, others - orange)):
            np.clip(colour, 0, white, out=shown[top : top + _ROWS, :, channel], casting="unsafe")
    return shown
