"""Contact sheets of originals over reconstructions, their files, and centre squares of pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.atomic_write import replacing

GAP = 4
FRAME_MS = 125


def centre_square(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """Cut the largest centred square of a picture and resize it; uint8 (size, size, 3)."""
    # Not `media.resize.plan`, whose filter reduces in two steps: published metrics rest on the bytes of this one.
    short = min(picture.size)
    left, top = (picture.width - short) / 2, (picture.height - short) / 2
    box = (left, top, left + short, top + short)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=box))


def contact_sheet(*rows: NDArray[np.uint8]) -> Image.Image:
    """Lay out rows of equal pictures, each uint8 (N, H, W, 3), on white."""
    count, height, width = rows[0].shape[:3]
    sheet = Image.new("RGB", (count * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (x * (width + GAP), y * (height + GAP)))
    return sheet


def write_image(picture: Image.Image, path: Path) -> None:
    """Write a picture atomically; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh:
        picture.save(fresh)


def write_animation(pictures: Iterable[Image.Image], path: Path) -> None:
    """Write pictures atomically as an animated WebP that is repeated for ever."""
    first, *others = pictures
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh:
        first.save(fresh, save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=90)
