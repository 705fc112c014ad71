"""A picture of many files: one row each, a caption over a few of its frames."""

from __future__ import annotations

import textwrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

THUMB_SIDE = 96
THUMBS = 8  # a row
GAP = 6
CAPTION_SIZE, LINE_HEIGHT = 14, 18
CAPTION_CHARS = 110  # a line
WIDTH = THUMBS * (THUMB_SIDE + GAP) + GAP


class ContactSheet:
    """Rows of thumbnails that become one picture."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, list[Image.Image], str]] = []

    def add(self, caption: str, frames: list[NDArray[np.uint8]], colour: str = "black") -> None:
        """Append a file; frames are uint8 (H, W, 3), at most `THUMBS` of them."""
        thumbs = [Image.fromarray(frame) for frame in frames]
        for thumb in thumbs:
            thumb.thumbnail((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
        self._rows.append((textwrap.fill(caption, CAPTION_CHARS), thumbs, colour))

    def image(self) -> Image.Image:
        """Draw all rows."""
        font = ImageFont.load_default(CAPTION_SIZE)
        captions = [LINE_HEIGHT * (caption.count("\n") + 1) + GAP for caption, *_ in self._rows]
        pictures = [max((thumb.height + GAP for thumb in thumbs), default=0) for _, thumbs, _ in self._rows]
        sheet = Image.new("RGB", (WIDTH, max(1, sum(captions) + sum(pictures))), (230, 230, 230))
        draw = ImageDraw.Draw(sheet)
        top = 0
        for (caption, thumbs, colour), words, height in zip(self._rows, captions, pictures, strict=True):
            draw.text((GAP, top + GAP // 2), caption, fill=colour, font=font)
            for column, thumb in enumerate(thumbs):
                sheet.paste(thumb, (GAP + column * (THUMB_SIDE + GAP), top + words))
            top += words + height
        return sheet
