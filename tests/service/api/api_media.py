"""Small real media files for the HTTP tests, made by Pillow and FFmpeg and kept for the run."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from functools import cache

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def scene(frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """A smooth gradient that drifts over time, uint8 (T, H, W, 3)."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin((x + 3 * t) / 17), np.cos((y - 2 * t) / 13), np.sin((x + y + t) / 29)]
    return np.stack([127.5 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


@cache
def picture(form: str = "PNG", height: int = 48, width: int = 64) -> bytes:
    """A still picture; `form` is Pillow's name."""
    file = io.BytesIO()
    Image.fromarray(scene(1, height, width)[0]).save(file, form)
    return file.getvalue()


@cache
def animation(frames: int, form: str = "GIF") -> bytes:
    """An animated picture of 24x32 pixels."""
    pictures = [Image.fromarray(frame) for frame in scene(frames, 24, 32)]
    file = io.BytesIO()
    pictures[0].save(file, form, save_all=True, append_images=pictures[1:], duration=40)
    return file.getvalue()


@cache
def clip(
    frames: int = 9, height: int = 48, width: int = 64, container: str = "mp4", codec: str = "libx264", fps: float = 25
) -> bytes:
    """A video file; `container` and `codec` are FFmpeg's names."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for pixels in scene(frames, height, width):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        output.mux(stream.encode())
    return file.getvalue()


@cache
def fragmented(frames: int = 48) -> bytes:
    """An mp4 in fragments of ten frames, with no index at either end."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}) as output:
        stream = output.add_stream("libx264", rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in scene(frames, 48, 64):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        output.mux(stream.encode())
    return file.getvalue()


@cache
def sound_only() -> bytes:
    """An mp4 that holds a second of silence and no picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16_000)
        for start in range(0, 16_000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


@cache
def frameless() -> bytes:
    """An mp4 whose video track was declared and never written to."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.open()
        output.start_encoding()
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(height: int, width: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


@cache
def png_bomb(side: int = 20_000) -> bytes:
    """A black and white PNG of some kilobytes that is `side` pixels wide and high."""
    row = bytes(1 + side // 8)
    packer = zlib.compressobj(9)
    return _png(side, side, b"".join(packer.compress(row) for _ in range(side)) + packer.flush())


def png_boast(side: int) -> bytes:
    """A PNG whose header claims `side` x `side` pixels and that holds none."""
    return _png(side, side, zlib.compress(b""))
