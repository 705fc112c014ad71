"""Real media made on the spot, and hostile files made of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

X264 = {"crf": "10", "preset": "ultrafast"}


def pattern(frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """A smooth, moving, asymmetric clip: uint8 (T, H, W, 3); every frame and corner differs."""
    t, y, x = np.mgrid[:frames, :height, :width]
    red = 128 + 100 * np.sin((x + 4 * t) / 11)
    green = 255 * y / max(height - 1, 1)
    blue = 128 + 100 * np.cos((2 * x + y) / 23 + t / 3)
    return np.stack([red, green, blue], -1).clip(0, 255).astype(np.uint8)


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Peak signal to noise ratio of uint8 arrays of one shape, dB."""
    assert one.shape == other.shape
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def video(
    pixels: NDArray[np.uint8],
    codec: str = "libx264",
    container: str = "mp4",
    fps: int | Fraction = 24,
    options: Mapping[str, str] = X264,
    pixel_format: str = "yuv420p",
    pts: list[int] | None = None,
    audio: bool = False,
    tracks: int = 1,
) -> bytes:
    """A plain (not fragmented) file with `tracks` equal video tracks and, on request, a silent audio track.

    Args:
        pts: time stamps of the frames in units of 1/fps, for variable rates.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        streams: list[Any] = [file.add_stream(codec, rate=fps) for _ in range(tracks)]
        sound: Any = file.add_stream("aac", rate=44_100) if audio else None
        for stream in streams:
            stream.width, stream.height = pixels.shape[2], pixels.shape[1]
            stream.pix_fmt = pixel_format
            stream.options = dict(options)
            stream.codec_context.thread_count = 1
        for index, picture in enumerate(pixels):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
                frame.pts = index if pts is None else pts[index]
                file.mux(stream.encode(frame))
        if sound is not None:
            file.mux(sound.encode(_silence()))
            file.mux(sound.encode(None))
        for stream in streams:
            file.mux(stream.encode(None))
    return buffer.getvalue()


def audio_only(cover: bool = False) -> bytes:
    """An mp4 with sound and, on request, a cover picture, but no clip."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream: Any = file.add_stream("aac", rate=44_100)
        if cover:
            front: Any = file.add_stream("mjpeg", rate=24)
            front.width, front.height, front.pix_fmt = 16, 16, "yuvj420p"
            front.disposition = Disposition.attached_pic
            black = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            file.mux(front.encode(black.reformat(format="yuvj420p")))
            file.mux(front.encode(None))
        file.mux(stream.encode(_silence()))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def picture(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    """A still picture in Pillow's format `kind`; `pixels` as `Image.fromarray` takes them."""
    return saved(Image.fromarray(pixels), kind, **options)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A Pillow image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animation(pixels: NDArray[np.uint8], kind: str, milliseconds: int = 100) -> bytes:
    """An animated GIF, PNG or WebP (lossless)."""
    first, *rest = [Image.fromarray(frame) for frame in pixels]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return saved(first, kind, save_all=True, append_images=rest, duration=milliseconds, loop=0, **lossless)


def rotated(mp4: bytes, height: int) -> bytes:
    """Return the mp4 with a display matrix that turns its pictures by a quarter clockwise, as phones write it."""
    start = mp4.index(b"tkhd") + 44
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, height << 16, 0, 1 << 30)
    return mp4[:start] + matrix + mp4[start + len(matrix) :]


def png_bomb(side: int) -> bytes:
    """A PNG of (side, side) black pixels in a few kilobytes."""
    rows = zlib.compressobj(9)
    row = b"\0" * (1 + side * 3)
    data = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


OTHERS: set[int] = set()  # media workers that tests of other rooms keep


def workers() -> list[int]:
    """Process ids of the media workers that these tests started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == os.getpid() and b"service.sandbox.worker" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (OSError, IndexError):  # it ended meanwhile
                continue
    return sorted(set(found) - OTHERS)


def _silence() -> Any:
    frame = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), format="fltp", layout="stereo")
    frame.sample_rate = 44_100
    return frame
