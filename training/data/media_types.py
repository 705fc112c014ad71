"""The two kinds of data, and how file names tell them."""

from __future__ import annotations

import os
from typing import Literal

Kind = Literal["images", "clips"]
KINDS: tuple[Kind, ...] = ("images", "clips")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".avif", ".tif", ".tiff"})
# Which demuxer reads a suffix: chosen by name, never by content, so that no playlist is taken for a video.
VIDEO_FORMATS = {
    ".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".3gp": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi",
    ".mpg": "mpeg", ".mpeg": "mpeg", ".ts": "mpegts", ".m2ts": "mpegts", ".ogv": "ogg", ".flv": "flv", ".wmv": "asf",
    ".gif": "gif",
}  # fmt: skip


def kind_of(name: str) -> Kind | None:
    """Return the kind of a file by its suffix, or none."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return "images"
    return "clips" if suffix in VIDEO_FORMATS else None
