"""Pictures that the device resizes: one upload of their pixels and tables, two passes, and a batch comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kernels import resample
from media.resize import Resampling, plan
from media.taps import Taps, lanczos_taps
from service.engine.transfers import Transfers, starts_of

COLOURS = 3
DTYPES = {"u1": torch.uint8, "i4": torch.int32, "i8": torch.int64}


class DevicePixels(NamedTuple):
    """Pixels that the device holds.

    Args:
        memory: of the device, uint8 (n).
        start: where they begin, bytes.
        shape: uint8 RGB (H, W, 3).
    """

    memory: Tensor
    start: int
    shape: tuple[int, ...]


class SourcePicture(NamedTuple):
    """A decoded picture before its resampling.

    Args:
        pixels: uint8 RGB (H, W, 3).
        resampling: to the size that is encoded.
        flip: encode the mirror image.
    """

    pixels: NDArray[np.uint8] | DevicePixels
    resampling: Resampling
    flip: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the pixels that are encoded: (1, height, width, 3)."""
        return 1, *self.resampling.target, COLOURS


class PackedPictures(NamedTuple):
    """Pictures of one target size and all that their resampling needs, on their way to the device.

    Args:
        memory: uint8, in the host's memory.
        arrays: along the rows, then along the columns, the arguments of `resample` for each picture; the mirrored ones.
        starts: where each of the arrays begins in the memory, bytes.
        target: (height, width) of the results.
        most_rows: rows of the tallest picture.
        source: the memory of the pictures where the device holds them already; None if `memory` has them.
    """

    memory: Tensor
    arrays: list[NDArray[Any]]
    starts: list[int]
    target: tuple[int, int]
    most_rows: int
    source: Tensor | None


def pack_pictures(pictures: Sequence[SourcePicture], transfers: Transfers) -> PackedPictures:
    """Copy pictures of one target size to where the device reads them; any thread may do it.

    Args:
        pictures: in the host's memory, or all in one memory of the device.
        transfers: of the device.
    """
    height, width = pictures[0].resampling.target
    strips: list[NDArray[np.uint8]] = []
    places, columns, rows, source = [], [], [], None
    for pixels, (passes, _), _ in pictures:
        if isinstance(pixels, DevicePixels):
            source = pixels.memory
            places.append(pixels.start + passes.top * COLOURS * pixels.shape[1])
        else:
            strips.append(pixels[passes.top : passes.bottom])
        columns.append(lanczos_taps(pixels.shape[1], *passes.columns, width))
        rows.append(lanczos_taps(passes.bottom - passes.top, *passes.rows, height))
    widths = np.array([picture.pixels.shape[1] for picture in pictures], np.int32)
    heights = np.array([passes.bottom - passes.top for _, (passes, _), _ in pictures], np.int32)
    most_rows, across, same = int(heights.max()), COLOURS * width, np.ones(len(pictures), np.int32)
    # Along rows a line is one colour of a row; along columns it is one colour of a column, and lines are neighbours.
    begins = np.array(starts_of(strips)[:-1] if source is None else places, np.int64)
    along: list[NDArray[Any]] = [begins, COLOURS * same, COLOURS * widths, COLOURS * heights, widths, *_tables(columns)]
    begins = np.arange(len(pictures), dtype=np.int64) * (most_rows * across)
    down: list[NDArray[Any]] = [begins, across * same, 0 * same, across * same, heights, *_tables(rows)]
    arrays = [*along, *down, np.array([picture.flip for picture in pictures], np.uint8)]
    memory = transfers.pack([*strips, *arrays])
    starts = starts_of([*strips, *arrays])[len(strips) : -1]
    return PackedPictures(memory, arrays, starts, (height, width), most_rows, source)


def resize_packed(packed: PackedPictures, held: Tensor) -> Tensor:
    """Resize pictures in two launches, bit for bit as `media` does.

    Args:
        packed: the pictures.
        held: their memory, on the device.

    Returns:
        uint8 (B, 1, height, width, 3).
    """
    (height, width), most_rows, across = packed.target, packed.most_rows, COLOURS * packed.target[1]
    views = [_view(held, array, start) for array, start in zip(packed.arrays, packed.starts, strict=True)]
    flips, half, source = packed.arrays[-1], len(views) // 2, held if packed.source is None else packed.source
    start, step, outer, lines, sources, table, first, weights = views[:half]
    middle = resample(
        source, start, step, outer, lines, sources, table, first, weights, COLOURS, COLOURS * most_rows, along_last=True
    )
    start, step, outer, lines, sources, table, first, weights = views[half:-1]
    out = resample(
        middle.view(-1), start, step, outer, lines, sources, table, first, weights, across, across, along_last=False
    )
    batch = out.view(len(flips), 1, height, width, COLOURS)
    return torch.where(views[-1].bool().view(-1, 1, 1, 1, 1), batch.flip(3), batch) if flips.any() else batch


def resizes_like_media(transfers: Transfers) -> bool:
    """Return whether this device resizes a picture bit for bit as `media` does; compile what that takes."""
    height, width, target = 67, 100, (40, 48)
    planned = plan(height, width, target, "cover", None)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    resampling = planned.resampling(picture)
    assert resampling is not None
    wanted = np.asarray(planned.image(picture))
    sources = [SourcePicture(np.asarray(picture), resampling, flip) for flip in (False, True)]
    with transfers.computing():
        packed = pack_pictures(sources, transfers)
        found = resize_packed(packed, transfers.upload(packed.memory)).cpu().numpy()
    return np.array_equal(found[0, 0], wanted) and np.array_equal(found[1, 0], wanted[:, ::-1])


def _tables(taps: Sequence[Taps]) -> list[NDArray[np.int32]]:
    """Return the row of each picture in the tables, and the tables: first (G, n) and weights (G, K, n)."""
    unique = list({id(one): one for one in taps}.values())
    places = {id(one): place for place, one in enumerate(unique)}
    weights = np.zeros((len(unique), max(one.weights.shape[1] for one in unique), len(unique[0].first)), np.int32)
    for place, one in enumerate(unique):
        weights[place, : one.weights.shape[1]] = one.weights.T
    return [np.array([places[id(one)] for one in taps], np.int32), np.stack([one.first for one in unique]), weights]


def _view(buffer: Tensor, array: NDArray[Any], start: int) -> Tensor:
    part = buffer[start : start + array.nbytes].view(DTYPES[array.dtype.str[1:]])
    return part.view(array.shape)
