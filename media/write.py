"""Frames to files: pictures through Pillow, clips through FFmpeg, one frame at a time."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image

from media.identify import IMAGE_OUTPUTS, VIDEO_OUTPUTS

_QUALITY = {"image/jpeg": 95, "image/webp": 92}
_MAX_FPS = 240
_BT709 = 1
_LIMITED_RANGE = 1
_GIF_COLOURS = 256
_PALETTE_SIDE = 64


@dataclass(frozen=True)
class _Format:
    """Parameters of one output media type. `multiple`: sides are rounded up to it, as the pixel format needs it."""

    muxer: str
    codec: str
    pixel_format: str
    options: dict[str, str]
    container_options: dict[str, str] = field(default_factory=dict)
    multiple: int = 1
    max_fps: int = _MAX_FPS


_FORMATS = {
    # Fragments need no second pass over the file, so that it can go to a pipe; 4:2:0 is what every player shows.
    # x264's macroblock tree reads memory that nothing has written where the width is not a multiple of 128: the same
    # frames would give other bytes each time.
    "video/mp4": _Format(
        "mp4",
        "libx264",
        "yuv420p",
        {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"},
        {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
        multiple=2,
    ),
    "video/webm": _Format(
        "webm",
        "libvpx-vp9",
        "yuv420p",
        {"crf": "18", "b": "0", "deadline": "realtime", "cpu-used": "6"},
        {"fflags": "bitexact"},  # no random identifiers
    ),
    # Browsers slow down frames that are shown for less than 0.02 s.
    "image/gif": _Format("gif", "gif", "pal8", {}, max_fps=50),
}


def encode_image(pixels: NDArray[np.uint8], media_type: str, quality: int | None = None) -> bytes:
    """Encode one picture at its exact size.

    Args:
        pixels: uint8 RGB (H, W, 3) or (1, H, W, 3).
        media_type: one of `IMAGE_OUTPUTS`.
        quality: 1..100 for JPEG (default 95) and WebP (default 92); PNG is lossless and takes none.

    Raises:
        ValueError: another shape, type or quality.
    """
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    _check_pixels(pixels)
    if media_type not in IMAGE_OUTPUTS:
        raise ValueError(f"Pictures are written as one of {', '.join(IMAGE_OUTPUTS)}, not {media_type!r}.")
    if quality is not None and (media_type not in _QUALITY or not 1 <= quality <= 100):
        raise ValueError(
            f"A quality must be 1 to 100 and for one of {', '.join(_QUALITY)}; got {quality} for {media_type}."
        )
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if media_type == "image/png":
        image.save(buffer, "PNG", compress_level=4)
    elif media_type == "image/jpeg":
        # Full chroma: halving it costs more than the tokenizer itself on small pictures.
        image.save(buffer, "JPEG", quality=quality or _QUALITY[media_type], subsampling=0)
    else:
        image.save(buffer, "WEBP", quality=quality or _QUALITY[media_type], method=4)
    return buffer.getvalue()


def encode_video(frames: Iterable[NDArray[np.uint8]], media_type: str, fps: float) -> bytes:
    """Encode a clip in memory.

    Args:
        frames: uint8 RGB frames (H, W, 3) of one size, at least one; an array (T, H, W, 3) will do.
        media_type: one of `VIDEO_OUTPUTS`; sizes as `VideoWriter` says.
        fps: frames per second.

    Raises:
        ValueError: no frames, or frames, type or rate that `VideoWriter` refuses.
    """
    buffer = io.BytesIO()
    writer: VideoWriter | None = None
    for frame in frames:
        if writer is None:
            _check_pixels(frame)
            writer = VideoWriter(buffer, media_type, fps, frame.shape[0], frame.shape[1])
        writer.write(frame)
    if writer is None:
        raise ValueError("A clip needs at least one frame.")
    writer.close()
    return buffer.getvalue()


class VideoWriter:
    """A clip written frame by frame, in constant memory.

    mp4 is fragmented h264, whose 4:2:0 pixels need even sides: an odd side gets its last row or column twice, so the
    file is one pixel larger there. webm (vp9) and gif keep every size. A gif has 256 colours a frame, and at most 50
    frames per second; faster clips play at 50.

    Args:
        file: binary file to write to; it is left open.
        media_type: one of `VIDEO_OUTPUTS`.
        fps: frames per second, above 0 and at most 240.
        height, width: size of the frames, pixels.

    Raises:
        ValueError: a type, rate or size out of range.
    """

    def __init__(self, file: BinaryIO, media_type: str, fps: float, height: int, width: int) -> None:
        if media_type not in _FORMATS:
            raise ValueError(f"Clips are written as one of {', '.join(VIDEO_OUTPUTS)}, not {media_type!r}.")
        if not (math.isfinite(fps) and 0 < fps <= _MAX_FPS):
            raise ValueError(f"A rate of {fps} frames per second must be above 0 and at most {_MAX_FPS}.")
        if height < 1 or width < 1:
            raise ValueError(f"Frames need at least one pixel, got {height}x{width}.")
        chosen = _FORMATS[media_type]
        self._shape = (height, width, 3)
        self._padding = ((0, -height % chosen.multiple), (0, -width % chosen.multiple), (0, 0))
        rate = Fraction(min(fps, chosen.max_fps)).limit_denominator(1001) or Fraction(fps).limit_denominator(10**6)
        if not rate:
            raise ValueError(f"A rate of {fps} frames per second must be at least 1e-6.")
        self._container: Any = av.open(file, "w", format=chosen.muxer, container_options=chosen.container_options)
        sides = (height + self._padding[0][1], width + self._padding[1][1])
        self._stream = _add_stream(self._container, chosen, rate, *sides)

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames.

        Args:
            frames: uint8 RGB (H, W, 3) or (T, H, W, 3).

        Raises:
            ValueError: another shape or dtype.
        """
        for pixels in frames if frames.ndim == 4 else (frames,):
            _check_pixels(pixels)
            if pixels.shape != self._shape:
                raise ValueError(f"This clip has frames of shape {self._shape}, got {pixels.shape}.")
            self._container.mux(self._stream.encode(self._frame(pixels)))

    def close(self) -> None:
        """Write what is still in the encoder and finish the file."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def _frame(self, pixels: NDArray[np.uint8]) -> Any:
        if self._stream.pix_fmt == "pal8":
            return _palette_frame(pixels)
        padded = np.pad(pixels, self._padding, mode="edge") if any(map(any, self._padding)) else pixels
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        return frame.reformat(
            format=self._stream.pix_fmt, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )


def _add_stream(container: Any, chosen: _Format, rate: Fraction, height: int, width: int) -> Any:
    stream = container.add_stream(chosen.codec, rate=rate)
    stream.options = dict(chosen.options)
    stream.pix_fmt = chosen.pixel_format
    context = stream.codec_context
    context.height, context.width = height, width
    context.thread_count = 1
    if chosen.pixel_format != "pal8":
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
    return stream


def _palette_frame(pixels: NDArray[np.uint8]) -> Any:
    """Return a frame with the 256 colours that suit it best; FFmpeg's own palette is fixed and coarse."""
    image = Image.fromarray(pixels)
    sample = image
    if image.getcolors(_GIF_COLOURS) is None:  # the cost of choosing colours grows with their number
        sides = (min(image.width, _PALETTE_SIDE), min(image.height, _PALETTE_SIDE))
        sample = image.resize(sides, Image.Resampling.NEAREST)
    quantised = image.quantize(palette=sample.quantize(_GIF_COLOURS), dither=Image.Dither.NONE)
    colours = np.asarray(quantised.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.full((_GIF_COLOURS, 4), 255, np.uint8)  # ARGB
    palette[: len(colours), 1:] = colours
    pair: Any = (np.asarray(quantised), palette)  # what PyAV takes for this format, though its types do not say so
    return av.VideoFrame.from_ndarray(pair, format="pal8")


def _check_pixels(pixels: NDArray[Any]) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"A frame is uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}.")
