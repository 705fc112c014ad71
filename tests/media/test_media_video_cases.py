"""Clips that phones, recorders and other muxers write, on which readers commonly go wrong."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from media_samples import pattern, psnr, video
from numpy.typing import NDArray

from service.media.reader import open_frames
from service.media.types import MediaOptions
from service.settings import Limits

CLIP = pattern(3, 64, 96)


def read(data: bytes, options: MediaOptions | None = None, limits: Limits | None = None) -> NDArray[np.uint8]:
    """Read all kept frames, under the service's limits if none are given."""
    return np.stack(list(open_frames(io.BytesIO(data), Limits() if limits is None else limits, options)))


def with_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The same mp4 with another display matrix, whose shift is left at zero."""
    start = mp4.index(b"tkhd") + 44
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return mp4[:start] + matrix + mp4[start + len(matrix) :]


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), CLIP),
        ((-1, 0, 0, 1), CLIP[:, :, ::-1]),
        ((1, 0, 0, -1), CLIP[:, ::-1]),
        ((-1, 0, 0, -1), CLIP[:, ::-1, ::-1]),
        ((0, 1, 1, 0), CLIP.swapaxes(1, 2)),
        ((0, -1, -1, 0), CLIP.swapaxes(1, 2)[:, ::-1, ::-1]),
        ((0, 1, -1, 0), np.rot90(CLIP, -1, (1, 2))),
        ((0, -1, 1, 0), np.rot90(CLIP, 1, (1, 2))),
    ],
)
def test_display_matrices_turn_and_mirror(matrix: tuple[int, int, int, int], shown: NDArray[np.uint8]) -> None:
    assert psnr(read(with_matrix(video(CLIP), *matrix)), shown) > 28
