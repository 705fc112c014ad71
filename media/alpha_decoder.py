"""Clips of VP8 and VP9 with alpha, which is a stream of its own beside each packet; FFmpeg's decoders pass over it."""

from __future__ import annotations

from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

_ALPHA: Literal["matroska_block_additional"] = "matroska_block_additional"
_NUMBER_BYTES = 8  # before it
_WITH_ALPHA = {"yuv420p": "yuva420p", "yuv422p": "yuva422p", "yuv444p": "yuva444p"}


class AlphaDecoder:
    """A decoder of colours and one of alpha, whose frames become one.

    Frames without alpha, or with one of another size, are opaque. libvpx would leave them out, and knows no bound for
    the size of frames.

    Args:
        colours, alpha: PyAV's, in one thread, so that a frame comes with its packet.
    """

    def __init__(self, colours: Any, alpha: Any) -> None:
        self._colours, self._alpha = colours, alpha

    def decode(self, packet: Any) -> list[Any]:
        """Decode a packet of PyAV's, or None for the end."""
        frames: list[Any] = self._colours.decode(packet)
        beside = b""
        if packet is not None and packet.has_sidedata(_ALPHA):
            beside = bytes(packet.get_sidedata(_ALPHA))[_NUMBER_BYTES:]
        alphas = self._alpha.decode(av.Packet(beside)) if beside else []
        return [_joined(frame, alphas[-1]) for frame in frames] if alphas else frames


def _joined(frame: Any, alpha: Any) -> Any:
    """Return a frame with the luma of another one as its alpha."""
    if frame.format.name not in _WITH_ALPHA or (alpha.height, alpha.width) != (frame.height, frame.width):
        return frame
    made: Any = av.VideoFrame(frame.width, frame.height, _WITH_ALPHA[frame.format.name])
    for target, source in zip(made.planes, (*frame.planes, alpha.planes[0]), strict=True):
        _samples(target)[:] = _samples(source)
    made.pts, made.time_base, made.duration = frame.pts, frame.time_base, frame.duration
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
    return made


def _samples(plane: Any) -> NDArray[np.uint8]:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
