"""The two kinds of data, by the suffixes of file names."""

from __future__ import annotations

import os
from typing import Literal

Kind = Literal["images", "clips"]
KINDS: tuple[Kind, ...] = ("images", "clips")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".avif", ".tif", ".tiff"}
)
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".vob",
    ".ts", ".mts", ".m2t", ".m2ts", ".ogv", ".flv", ".wmv", ".asf", ".gif",
)  # fmt: skip


def kind_of(name: str) -> Kind | None:
    """Return the kind of a file by its suffix, or none."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return "images"
    return "clips" if suffix in VIDEO_SUFFIXES else None
