"""Held-out sets of the ablations, reduced to their small sides by averaging blocks of pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from training.data.shards import PixelSet, open_set
from training.evaluation.datasets import PixelDataset


@dataclass(frozen=True)
class HeldOut:
    """A set to measure on.

    Args:
        name: in tables; its number is the side in pixels.
        folder: below the data folder.
        kind: of its items.
        block: side of the blocks that become one pixel.
        limit: at most so many items, evenly spread; None for all.
    """

    name: str
    folder: str
    kind: str
    block: int = 1
    limit: int | None = None


HELD_OUT = (
    HeldOut("photographs-64", "held-out/photographs-128", "images", 2),
    HeldOut("photographs-128", "held-out/photographs-128", "images"),
    HeldOut("games-64", "held-out/procgen-128", "clips", 2, 64),
    HeldOut("camera-64", "held-out/camera-128", "clips", 2, 64),
)


def load(held_out: HeldOut, data: Path) -> PixelDataset:
    """Read a set into memory.

    Raises:
        TrainingError: the set is missing or damaged.
    """
    opened = open_set(data / held_out.folder)
    block, info = held_out.block, opened.info
    pixels = opened.pixels()
    if block > 1:
        tiles = pixels.unflatten(3, (-1, block)).unflatten(2, (-1, block))
        pixels = ((tiles.sum((3, 5), dtype=torch.int32) + block**2 // 2) // block**2).to(torch.uint8)
    small = replace(info, name=held_out.name, height=info.height // block, width=info.width // block)
    return PixelDataset(held_out.name, PixelSet(small, (pixels,), ()), held_out.limit)
