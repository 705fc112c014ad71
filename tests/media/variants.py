"""Pictures and clips in every form that cameras, editors and muxers give them, made on the spot."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from media_samples import X264, animation, pattern, picture, rotated, saved, video
from PIL import Image, ImageCms

PHOTO = pattern(1, 61, 94)[0]
CLIP = pattern(7, 48, 74)
ORIENTATION = 0x0112
MATRICES = {
    "plain": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "half": (-1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transverse": (0, -1, -1, 0),
    "clockwise": (0, 1, -1, 0),
    "anticlockwise": (0, -1, 1, 0),
}


def with_matrix(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Return the mp4 with another display matrix, whose shift is left at zero."""
    start = mp4.index(b"tkhd") + 44
    a, b, c, d = (part << 16 for part in matrix)
    return mp4[:start] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + mp4[start + 36 :]


def _turned(kind: str, value: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return picture(PHOTO, kind, exif=exif, **options)


def _profile(swap: bool) -> bytes:
    """sRGB, or with red and green exchanged, so that nobody can miss it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ").replace(b"tmpX", b"gXYZ") if swap else profile


def _alpha(*colours: np.ndarray) -> np.ndarray:
    ramp = np.broadcast_to(np.linspace(0, 255, PHOTO.shape[1]).astype(np.uint8), PHOTO.shape[:2])
    return np.dstack([*colours, ramp])


def _noise(kind: str, **options: Any) -> bytes:
    return picture(np.random.default_rng(0).integers(0, 256, (210, 333, 3), np.uint8), kind, **options)


def _animated_and_turned() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    first, *rest = [Image.fromarray(frame) for frame in CLIP]
    return saved(first, "WEBP", save_all=True, append_images=rest, duration=100, lossless=True, exif=exif)


GREY = PHOTO[..., 0]
DEEP = GREY.astype(np.uint16) * 257 + 99
PALETTE = Image.fromarray(PHOTO).quantize(20)

MAKERS: dict[str, Callable[[], bytes]] = {
    "rgb.png": lambda: picture(PHOTO, "PNG"),
    "grey.png": lambda: picture(GREY, "PNG"),
    "deep.png": lambda: picture(DEEP, "PNG"),
    "deep-key.png": lambda: picture(DEEP, "PNG", transparency=int(DEEP[5, 5])),
    "bits.png": lambda: saved(Image.fromarray(PHOTO).convert("1"), "PNG"),
    "palette.png": lambda: saved(PALETTE, "PNG"),
    "palette-key.png": lambda: saved(PALETTE, "PNG", transparency=3),
    "palette-alpha.png": lambda: saved(PALETTE, "PNG", transparency=bytes(range(0, 200, 10))),
    "alpha.png": lambda: picture(_alpha(PHOTO), "PNG"),
    "grey-alpha.png": lambda: picture(_alpha(GREY), "PNG"),
    "key.png": lambda: picture(PHOTO, "PNG", transparency=tuple(PHOTO[5, 5].tolist())),
    "swapped.png": lambda: picture(PHOTO, "PNG", icc_profile=_profile(swap=True)),
    "swapped-alpha.png": lambda: picture(_alpha(PHOTO), "PNG", icc_profile=_profile(swap=True)),
    "srgb.webp": lambda: picture(PHOTO, "WEBP", icc_profile=_profile(swap=False)),
    "broken-profile.png": lambda: picture(PHOTO, "PNG", icc_profile=b"not a profile" * 20),
    "rgb.jpg": lambda: picture(PHOTO, "JPEG", quality=90),
    "grey.jpg": lambda: picture(GREY, "JPEG"),
    "cmyk.jpg": lambda: saved(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "progressive.jpg": lambda: _noise("JPEG", progressive=True, quality=80),
    "large.jpg": lambda: picture(pattern(1, 700, 1100)[0], "JPEG", quality=85),
    "cut.jpg": lambda: picture(pattern(1, 300, 500)[0], "JPEG")[:-2],
    "swapped.jpg": lambda: picture(PHOTO, "JPEG", icc_profile=_profile(swap=True)),
    "lossy.webp": lambda: picture(PHOTO, "WEBP"),
    "alpha.webp": lambda: picture(_alpha(PHOTO), "WEBP"),
    "rgb.avif": lambda: picture(PHOTO, "AVIF", quality=90),
    "alpha.avif": lambda: picture(_alpha(PHOTO), "AVIF"),
    "swapped.avif": lambda: picture(PHOTO, "AVIF", icc_profile=_profile(swap=True)),
    "animated.avif": lambda: animation(CLIP, "AVIF"),
    "rgb.bmp": lambda: picture(PHOTO, "BMP"),
    "palette.bmp": lambda: saved(PALETTE, "BMP"),
    "rgb.tiff": lambda: picture(PHOTO, "TIFF", compression="tiff_lzw"),
    "deep.tif": lambda: picture(DEEP, "TIFF"),
    "bits.tiff": lambda: saved(Image.fromarray(PHOTO).convert("1"), "TIFF", compression="group4"),
    "turned.tiff": lambda: picture(PHOTO, "TIFF", tiffinfo={0x0112: 6}),
    "cmyk.tiff": lambda: saved(Image.fromarray(PHOTO).convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
    "pages.tiff": lambda: saved(Image.fromarray(PHOTO), "TIFF", save_all=True, append_images=[PALETTE]),
    "tiny.png": lambda: picture(PHOTO[:1, :3], "PNG"),
    "strip.png": lambda: picture(np.tile(PHOTO[:9], (1, 20, 1)), "PNG"),
    "animated.gif": lambda: animation(CLIP, "GIF"),
    "fast.gif": lambda: animation(CLIP, "GIF", milliseconds=10),
    "animated.png": lambda: animation(CLIP, "PNG"),
    "animated.webp": lambda: animation(CLIP, "WEBP"),
    "animated-turned.webp": _animated_and_turned,
    **{f"turned-{value}.jpg": lambda value=value: _turned("JPEG", value) for value in range(1, 9)},  # type: ignore[misc]
    **{f"turned-{value}.png": lambda value=value: _turned("PNG", value) for value in range(1, 9)},  # type: ignore[misc]
    **{f"turned-{value}.avif": lambda value=value: _turned("AVIF", value) for value in range(1, 9)},  # type: ignore[misc]
    **{f"turned-{value}.webp": lambda value=value: _turned("WEBP", value) for value in (2, 5, 6)},  # type: ignore[misc]
    **{
        f"{name}.mp4": lambda matrix=matrix: with_matrix(video(CLIP), matrix)  # type: ignore[misc]
        for name, matrix in MATRICES.items()
    },
    "phone.mov": lambda: rotated(video(CLIP, container="mov"), 48),
    "hevc.mp4": lambda: video(CLIP, "libx265", options={"crf": "20", "x265-params": "log-level=none"}),
    "vp8.webm": lambda: video(CLIP, "libvpx", "webm", options={"deadline": "realtime"}),
    "vp9.webm": lambda: video(CLIP, "libvpx-vp9", "webm", options={"deadline": "realtime"}),
    "vp8-alpha.webm": lambda: video(
        CLIP, "libvpx", "webm", options={"deadline": "realtime", "auto-alt-ref": "0"}, pixel_format="yuva420p"
    ),
    "vp9-alpha.webm": lambda: video(
        CLIP, "libvpx-vp9", "webm", options={"deadline": "realtime"}, pixel_format="yuva420p"
    ),
    "motion.avi": lambda: video(CLIP, "mjpeg", "avi", options={}, pixel_format="yuvj420p"),
    "divx.avi": lambda: video(CLIP, "mpeg4", "avi", options={"bf": "2"}),
    "phone.3gp": lambda: video(CLIP, "mpeg4", "3gp", options={}),
    "fast.mp4": lambda: video(CLIP, fps=120),
    "slow.mp4": lambda: video(CLIP, fps=1),
    "rounded.mkv": lambda: video(CLIP, container="matroska", fps=Fraction(30_000, 1001)),
    "h264.mkv": lambda: video(CLIP, container="matroska"),
    "deep.mp4": lambda: video(CLIP, pixel_format="yuv420p10le"),
    "full.mp4": lambda: video(CLIP, pixel_format="yuv444p"),
    "wide.mp4": lambda: video(CLIP, options=X264 | {"x264-params": "sar=2\\:1"}),
    "hd.mp4": lambda: video(pattern(5, 720, 1280), options={"preset": "ultrafast", "crf": "30"}),
    "uneven.mp4": lambda: video(CLIP, pts=[0, 1, 2, 9, 10, 30, 31]),
    "groups.mp4": lambda: video(
        pattern(30, 48, 74), options=X264 | {"x264-params": "open-gop=1:bframes=3:keyint=8:min-keyint=8"}
    ),
    "audio.mp4": lambda: video(CLIP, audio=True),
}
