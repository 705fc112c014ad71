"""Frames whose colours are stored as luma, green and orange differences, which FFmpeg does not convert."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

YCGCO = 8  # matrix of ITU-T H.273
_FULL_RANGE = 2
_BT709 = 1


def to_rgb(frame: Any) -> NDArray[np.float32]:
    """Return RGB (H, W, 3) in [0, 1]: G = Y + Cg, R = Y - Cg + Co, B = Y - Cg - Co.

    Args:
        frame: PyAV's, of any depth and subsampling of chroma.
    """
    is_deep = any(component.bits > 8 for component in frame.format.components)
    kept = {"src_colorspace": _BT709, "dst_colorspace": _BT709}  # of both sides: nothing is converted but the layout
    if frame.color_range == _FULL_RANGE:
        kept["dst_color_range"] = _FULL_RANGE
    planar = frame.reformat(format="yuv444p16le" if is_deep else "yuv444p", threads=1, **kept)
    kind = np.dtype("<u2" if is_deep else "u1")
    stored = [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in planar.planes]
    planes = np.stack(stored).astype(np.float32) / np.float32(256 if is_deep else 1)
    is_full = frame.color_range == _FULL_RANGE
    luma = planes[0] / 255 if is_full else (planes[0] - 16) / 219
    green, orange = (planes[1:] - 128) / (255 if is_full else 224)
    return np.stack([luma - green + orange, luma + green, luma - green - orange], -1).clip(0, 1)
